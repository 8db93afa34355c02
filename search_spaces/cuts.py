"""Cuts: what a choice removes from a module, as plain data.

A choice of a `Space` holds one cut for each parameter axis that it narrows, each integer attribute that must follow,
and each list of blocks that it shortens. `search_spaces.supernets.slicing` applies them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class AxisCut:
    """One axis of a parameter or buffer that a choice narrows to its first `n` units.

    From index `start`, the axis is laid out as `outer` runs of `size` units, each unit being `unit` consecutive
    indices. Keeping `n` units keeps the indices `start + i * size * unit` up to (not including)
    `start + i * size * unit + n * unit` of every run `i`. For attention heads `unit` is the head dimension; a fused
    query-key-value weight has one cut with `outer` = 3.

    Args:
        parameter: name in `named_parameters()` or `named_buffers()` of the model.
        axis: the axis of that tensor, from 0.
        start: first index of the first run.
        outer: number of runs.
        size: number of units in a run, at full size.
        unit: number of indices of one unit.
    """

    parameter: str
    axis: int
    start: int
    outer: int
    size: int
    unit: int


@dataclass(frozen=True)
class AttributeCut:
    """An integer attribute, read by a module's forward, that is set to `base + scale * n` when `n` units are kept.

    Args:
        module: path of the module that has the attribute.
        attribute: its name, e.g. `num_heads` or `groups`.
        base: constant part of its value.
        scale: how much it grows with each unit.
    """

    module: str
    attribute: str
    base: int
    scale: int


@dataclass(frozen=True)
class BlockCut:
    """Blocks of a `ModuleList` or `Sequential` that a depth choice leaves out.

    Option `n` of the choice removes the first `count - n` blocks of `drop_order`.

    Args:
        blocks: path of the list.
        count: number of blocks at full depth; only the blocks of one stage count.
        drop_order: indices in the list of the blocks that may be dropped, in the order in which they are dropped.
    """

    blocks: str
    count: int
    drop_order: tuple[int, ...]

    def dropped(self, depth: int) -> frozenset[int]:
        """Indices in the list of the blocks that are left out at this depth; the others run in their usual order."""
        return frozenset(self.drop_order[: self.count - depth])


Cut = AxisCut | AttributeCut | BlockCut
