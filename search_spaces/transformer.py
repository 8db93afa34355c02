"""What the transformers share: a list of equal blocks, each with attention heads and a feed-forward width."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from search_spaces.coupling import Dimension, Inputs, analyse
from search_spaces.cuts import BlockCut, Cut
from search_spaces.oracle import Judge
from search_spaces.space import Choice, Space

Sizes = Sequence[int | float]
DropOrder = Callable[[int], Sequence[int]] | Sequence[int]


class NotElastic(ValueError):
    """The model has no structure that can be made elastic; the message says what was looked for and found."""


@dataclass(frozen=True)
class Ranges:
    """Options of each kind of dimension: absolute numbers (int) or shares of the full size (float up to 1)."""

    depth: Sizes
    heads: Sizes
    ffn: Sizes


def last_first(count: int) -> tuple[int, ...]:
    """Blocks drop from the end (InstaTune, arXiv 2308.15609, section 4.1)."""
    return tuple(range(count - 1, -1, -1))


def spread(count: int) -> tuple[int, ...]:
    """Blocks drop so that the kept ones stay evenly spread; the first and the last block drop at the end."""
    kept, order = list(range(count)), []
    while len(kept) > 2:
        gaps = [kept[i + 1] - kept[i - 1] for i in range(1, len(kept) - 1)]
        # Of equal gaps the later one goes: later blocks refine more than they build.
        position = max(range(len(gaps)), key=lambda i: (-gaps[i], i)) + 1
        order.append(kept.pop(position))
    return (*order, *reversed(kept))


def space(
    model: nn.Module,
    example_inputs: Inputs | None = None,
    *,
    drop_order: DropOrder = last_first,
    ranges: Ranges,
) -> Space:
    """The space of a model with repeated blocks: `depth`, `heads.<block>`, `ffn.<block>`, blocks counted from 0.

    Args:
        model: any module whose blocks stand in one `nn.ModuleList`.
        example_inputs: tuple or mapping of tensors, batch above 1; derived from a transformers configuration.
        drop_order: which blocks drop first: all block indices, or a function of their number.
        ranges: options of each kind.

    Raises:
        NotElastic: no repeated blocks, or none of their dimensions can be narrowed.
        ValueError: options or a drop order that do not fit.
    """
    inputs = default_inputs(model) if example_inputs is None else example_inputs
    path, count = _blocks(model)
    order = tuple(drop_order(count) if callable(drop_order) else drop_order)
    if sorted(order) != list(range(count)):
        raise ValueError(f"drop_order must name each of the {count} blocks once, got {order}")
    coupling = analyse(model, inputs)
    judge = Judge(model, inputs)
    found = _block_dimensions(coupling.dimensions, path, count)
    accepted = judge.accept([dimension for _, dimension, _ in found])
    depth = _depth_choice(judge, BlockCut(path, count, order), ranges.depth)
    choices = [] if depth is None else [depth]
    for (name, dimension, block), cuts in zip(found, accepted, strict=True):
        if cuts is not None:
            sizes = ranges.heads if dimension.heads else ranges.ffn
            choices.append(_width_choice(name, dimension.size, sizes, cuts, _condition(depth, block)))
    if not choices:
        raise NotElastic(
            f"the model must have dimensions that can be narrowed: {count} blocks at {path!r} have {len(found)} heads "
            f"or feed-forward dimensions in their graph, and none gives the right output when cut"
            + (f"; operators without a rule: {', '.join(coupling.unknown)}" if coupling.unknown else "")
        )
    return Space(tuple(choices))


def default_inputs(model: nn.Module) -> dict[str, torch.Tensor]:
    """Small example inputs of a transformers model, batch 2, one row padded.

    Raises:
        ValueError: the model is none of transformers, or takes neither token ids nor pixels.
    """
    config: Any = getattr(model, "config", None)
    name = getattr(model, "main_input_name", None)
    if name == "input_ids" and hasattr(config, "vocab_size"):
        tokens = min(16, int(getattr(config, "max_position_embeddings", 16)) - 4)
        ids = torch.arange(2 * tokens).reshape(2, tokens) % max(1, config.vocab_size - 4) + 3
        mask = torch.ones(2, tokens, dtype=torch.long)
        mask[1, tokens - tokens // 3 :] = 0
        return {"input_ids": ids % config.vocab_size, "attention_mask": mask}
    if name == "pixel_values" and hasattr(config, "image_size"):
        size = config.image_size if isinstance(config.image_size, Sequence) else (config.image_size,) * 2
        shape = (2, int(getattr(config, "num_channels", 3)), int(size[0]), int(size[1]))
        return {"pixel_values": torch.randn(shape, generator=torch.Generator().manual_seed(0))}
    raise ValueError(
        f"example_inputs must be given for {type(model).__name__}: a tuple or a mapping of tensors with a batch above 1"
    )


def _blocks(model: nn.Module) -> tuple[str, int]:
    """Path and number of the repeated blocks: the list of equal modules with the most parameters."""
    best, size = ("", 0), 0
    for path, part in model.named_modules():
        if isinstance(part, nn.ModuleList) and len(part) > 1 and len({type(block) for block in part}) == 1:
            total = sum(parameter.numel() for parameter in part.parameters())
            if total > size:
                best, size = (path, len(part)), total
    if not size:
        kinds = Counter(type(part).__name__ for part in model.modules() if not list(part.children()))
        found = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4))
        raise NotElastic(
            f"the model must have a ModuleList of two or more equal blocks; {type(model).__name__} has none (it has "
            f"{found or 'no layers'})"
        )
    return best


def _block_dimensions(dimensions: Sequence[Dimension], path: str, count: int) -> list[tuple[str, Dimension, int]]:
    """(name, dimension, block) of the heads and the feed-forward width of every block."""
    found: dict[str, tuple[Dimension, int]] = {}
    for dimension in dimensions:
        block = _block_of(dimension, path)
        if block is None or dimension.averaged:
            continue
        name = f"{'heads' if dimension.heads else 'ffn'}.{block}"
        if name not in found or _weight(dimension) > _weight(found[name][0]):
            found[name] = (dimension, block)
    order = sorted(found.items(), key=lambda item: (not item[1][0].heads, item[1][1]))
    return [(name, dimension, block) for name, (dimension, block) in order if block < count]


def _block_of(dimension: Dimension, path: str) -> int | None:
    """The block that alone holds the dimension, None when it reaches beyond one block."""
    prefix = f"{path}." if path else ""
    blocks = {
        cut.parameter.removeprefix(prefix).partition(".")[0] if cut.parameter.startswith(prefix) else ""
        for cut in dimension.cuts
    }
    only = blocks.pop() if len(blocks) == 1 else ""
    # One cut alone is no coupling between two layers: nothing would be saved downstream.
    return int(only) if only.isdigit() and len(dimension.cuts) > 1 else None


def _weight(dimension: Dimension) -> int:
    return sum(cut.outer * cut.size * cut.unit for cut in dimension.cuts)


def _depth_choice(judge: Judge, cut: BlockCut, sizes: Sizes) -> Choice | None:
    options = _options("depth", cut.count, sizes)
    return Choice("depth", options, cuts=(cut,)) if judge.runs_without(cut) else None


def _width_choice(
    name: str, size: int, sizes: Sizes, cuts: tuple[Cut, ...], condition: tuple[str, tuple[int, ...]] | None
) -> Choice:
    return Choice(name, _options(name, size, sizes), active_if=condition, cuts=cuts)


def _condition(depth: Choice | None, block: int) -> tuple[str, tuple[int, ...]] | None:
    """The depths at which a block runs; None when it always does."""
    if depth is None:
        return None
    cut = next(cut for cut in depth.cuts if isinstance(cut, BlockCut))
    running = tuple(int(option) for option in depth.options if block in cut.kept(int(option)))
    return None if len(running) == len(depth.options) else ("depth", running)


def _options(name: str, full: int, sizes: Sizes) -> tuple[int, ...]:
    """Absolute, ascending numbers of units, the full size always among them."""
    options = {full}
    for size in sizes:
        share = isinstance(size, float)
        if share and not 0 < size <= 1:
            raise ValueError(f"a share of {name} must be above 0 and at most 1, got {size}")
        if not share and not 1 <= size <= full:
            raise ValueError(f"options of {name} must be from 1 to {full}, got {size}")
        options.add(max(1, round(size * full)) if share else int(size))
    return tuple(sorted(options))


@dataclass(frozen=True)
class Family:
    """Models that share their input and the ranges of a paper.

    Args:
        takes: the name of their main input, as transformers has it.
        ranges: options of each kind where the user gives none.
    """

    takes: str
    ranges: Ranges

    def recognises(self, model: nn.Module) -> bool:
        """Whether the model is one of transformers that takes this input."""
        return getattr(model, "main_input_name", None) == self.takes and hasattr(model, "config")

    def space(
        self,
        model: nn.Module,
        example_inputs: Inputs | None = None,
        *,
        drop_order: DropOrder = last_first,
        depth: Sizes | None = None,
        heads: Sizes | None = None,
        ffn: Sizes | None = None,
    ) -> Space:
        """The space of a model with the family's ranges; arguments and errors as `search_spaces.space`."""
        given = {"depth": depth, "heads": heads, "ffn": ffn}
        chosen = {kind: sizes for kind, sizes in given.items() if sizes is not None}
        return space(model, example_inputs, drop_order=drop_order, ranges=replace(self.ranges, **chosen))
