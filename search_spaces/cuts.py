"""What a choice narrows in a module, as plain data: coupled parameter axes, attributes that follow, dropped blocks."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AxisCut:
    """One parameter axis that a choice narrows to its first `n` units.

    Along `axis`, from index `start`, the units lie in `outer` runs of `size` units of `unit` indices each: keeping `n`
    units keeps `[start + i * size * unit, + n * unit)` for every run `i`. Heads have `unit` = head dimension; a fused
    query-key-value weight has one cut with three runs.
    """

    parameter: str
    axis: int
    start: int
    outer: int
    size: int
    unit: int


@dataclass(frozen=True)
class AttributeCut:
    """An integer attribute that the forward reads and that follows a choice: `base + scale * n` for `n` units."""

    module: str
    attribute: str
    base: int
    scale: int


@dataclass(frozen=True)
class BlockCut:
    """Blocks of a `ModuleList` or `Sequential` that drop: option `n` leaves out the first `count - n` of `drop_order`.

    Args:
        blocks: path of the list.
        count: how many of its blocks the choice counts: those of one stage.
        drop_order: indices in the list of the blocks that may drop, the first to drop first.
    """

    blocks: str
    count: int
    drop_order: tuple[int, ...]

    def dropped(self, depth: int) -> frozenset[int]:
        """Indices of the blocks that are left out when `depth` of `count` run; the others run in their own order."""
        return frozenset(self.drop_order[: self.count - depth])


Cut = AxisCut | AttributeCut | BlockCut
