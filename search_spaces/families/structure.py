"""Makes the space of any network from its structure.

Stages of repeated blocks give the depth choices; coupled axes give the choices of heads, features, widths and channels.
Each is offered only after the oracle (`oracle.py`) has found that the network computes the right outputs without the
units or blocks in question. The steps are those of `space`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from torch import nn

from search_spaces.cuts import BlockCut
from search_spaces.families.dimensions import (
    NamedDimension,
    ParameterLocations,
    accepted,
    check_finite,
    distinct,
    pass_together,
)
from search_spaces.families.drop_order import DropOrder, last_first, order_of
from search_spaces.families.oracle import Judge
from search_spaces.families.stages import Stage, find_stages
from search_spaces.inputs import Inputs, default_inputs
from search_spaces.space import Choice, Space
from search_spaces.tracing.coupling import Coupling, analyse

Sizes = Sequence[int | float]
"""Options as a user gives them: absolute numbers (int), or shares of the full size (float, above 0 and up to 1)."""


Say = Callable[[str], None]
"""Takes a sentence for the user."""
# The shares of a family are those of one long stage of blocks. Networks of several stages have short ones, of which
# these leave out some: OFA (arXiv 1908.09791).
_DEPTHS_OF_SHORT_STAGES: Sizes = (0.5, 0.75)
_MOST_NAMES = 6


class NotElastic(ValueError):
    """Raised where nothing in the model can be narrowed or dropped; the message says what was looked for and found."""


@dataclass(frozen=True)
class Ranges:
    """The options of each kind of choice, beside the full size; there are no choices of a kind without options.

    Args:
        depth: blocks of a stage.
        heads: attention heads of a block.
        ffn: features of a block's feed-forward layers.
        width: channels of the residual stream of a stage.
        channels: channels of convolutions (and features of layers outside of blocks) between their neighbours.
    """

    depth: Sizes = ()
    heads: Sizes = ()
    ffn: Sizes = ()
    width: Sizes = ()
    channels: Sizes = ()


def space(
    model: nn.Module,
    example_inputs: Inputs | None = None,
    *,
    drop_order: DropOrder = last_first,
    ranges: Ranges,
    requested: Sequence[str] = (),
    say: Say | None = None,
) -> Space:
    """Find the space of a model: its depths, then heads by block, features by block, and the rest in network order.

    Args:
        model: any module; repeated blocks are searched in its `ModuleList`s and `Sequential`s.
        example_inputs: a tuple of positional or a mapping of keyword tensors, batch above 1; None: derived from the
            configuration of a transformers model.
        drop_order: the order in which blocks are dropped.
        ranges: the options of each kind.
        requested: the kinds whose options the user gave.
        say: called with a sentence on what keeps its size although there are options for it; None: where the user gave
            options of a kind of which the model has nothing, this is an error.

    Raises:
        NotElastic: none of the model's dimensions can be narrowed.
        ValueError: weights are not finite, options or the drop order do not fit, or the model has nothing of all
            requested kinds, or of one and there is no `say`.
    """
    check_finite(model)
    inputs = default_inputs(model) if example_inputs is None else example_inputs
    coupling, judge = analyse(model, inputs), Judge(model, inputs)
    stages = find_stages(model, coupling)
    depths = _depths(stages, judge, drop_order, ranges.depth)
    if not depths and ranges.depth and "depth" not in requested and len(stages) > 1:
        depths = _depths(stages, judge, drop_order, _DEPTHS_OF_SHORT_STAGES)
    present = _named_dimensions(model, coupling, stages)
    offered = [(each, options) for each in present if (options := _options_of(each, ranges))]
    conditions = {block: condition for stage in stages for block, condition in _conditions(stage, depths)}
    # Units of a block that may be dropped matter only at the depths at which the block runs.
    widths = accepted(judge, offered, conditions)
    choices = pass_together(judge, (*depths, *widths))
    if not choices:
        raise NotElastic(_nothing_found(model, stages, len(offered), coupling))
    full = {("depth", len(stage.members)) for stage in stages}
    full |= {(_kind(each.name), each.dimension.size) for each in present}
    absent = _absent(choices, {kind: getattr(ranges, kind) for kind in requested}, full, said=say is not None)
    if say:
        names = {choice.name for choice in choices}
        _say_kept([each.name for each, _ in offered if each.name not in names], absent, say)
    return Space(choices)


def _absent(
    choices: Sequence[Choice], requested: Mapping[str, Sizes], full: Set[tuple[str, int]], *, said: bool
) -> list[str]:
    """The kinds of which the user gave smaller sizes, but of which there is no choice.

    Args:
        choices: those that were found.
        requested: the sizes that the user gave, by kind.
        full: (kind, full size) of all that the model has; to give just that size is no request to narrow anything.
        said: the user is told of them.

    Raises:
        ValueError: there are such kinds, and the user is not told, or there is nothing of what was wished at all.
    """
    found = sorted({choice.kind for choice in choices})
    other = {
        kind: smaller
        for kind, sizes in requested.items()
        if (smaller := [size for size in sizes if size != 1.0 and (kind, size) not in full])
    }
    absent = [kind for kind in other if kind not in found]
    if absent and (len(absent) == len(other) or not said):
        kind = absent[0]
        raise ValueError(
            f"sizes of {kind} must be given for something that the model can narrow, {other[kind][0]} gives nothing to "
            f"choose here: there are choices of {', '.join(found)}; give other sizes, or leave {kind} out"
        )
    return absent


def _say_kept(names: Sequence[str], kinds: Sequence[str], say: Say) -> None:
    """Say which dimensions, and of which kinds all, keep their size.

    Args:
        names: of dimensions for which there were options.
        kinds: of which the user gave options, and of which there is no choice.
        say: takes the sentence.
    """
    listed = [*kinds, *(name for name in names if _kind(name) not in kinds)]
    if listed:
        more = f" and {len(listed) - _MOST_NAMES} more" if len(listed) > _MOST_NAMES else ""
        say(
            f"Left at full size, since the network has no part of it that could be left out rightly: "
            f"{', '.join(listed[:_MOST_NAMES])}{more}"
        )


def _kind(name: str) -> str:
    """The kind of a choice, by its name: `heads` for `heads.3`."""
    return name.partition(".")[0]


def _nothing_found(model: nn.Module, stages: Sequence[Stage], dimensions: int, coupling: Coupling) -> str:
    """The message of `NotElastic`: what the model consists of, and what the graph shows of it."""
    kinds = Counter(type(part).__name__ for part in model.modules() if not list(part.children()))
    layers = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4)) or "no layers"
    blocks = sum(len(stage.members) for stage in stages)
    unknown = f"; operators without a rule: {', '.join(coupling.unknown)}" if coupling.unknown else ""
    return (
        f"the model must have repeated blocks, heads, features or channels that can be narrowed: in "
        f"{type(model).__name__} ({layers}) the graph shows {blocks} repeated blocks and {dimensions} dimensions of "
        f"the kinds asked for, and none gives the right output when cut{unknown}"
    )


def _depths(stages: Sequence[Stage], judge: Judge, drop_order: DropOrder, sizes: Sizes) -> list[Choice]:
    """The depth choices, with the depths at which the network computes the right outputs."""
    elastic = [stage for stage in stages if stage.droppable and len(stage.members) > 1 and sizes]
    choices = []
    for number, stage in enumerate(stages):
        if stage not in elastic:
            continue
        name = "depth" if len(stages) == 1 else f"depth.{number}"
        count = len(stage.members)
        order = order_of(drop_order, name, count, [stage.members.index(i) for i in stage.droppable], len(elastic))
        cut = BlockCut(stage.path, count, tuple(stage.members[i] for i in order))
        options = _options(name, count, sizes, lowest=max(1, count - len(order)))
        # A depth may be wrong while others are right, e.g. where types of blocks alternate: keep those that are right.
        right = tuple(depth for depth in options if depth == count or judge.runs_without(cut, depth))
        if len(right) > 1:
            choices.append(Choice(name, right, cuts=(cut,)))
    return choices


def _conditions(stage: Stage, depths: Sequence[Choice]) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    """(path of a block, condition: the depth choice and the depths at which the block runs), of droppable blocks."""
    for choice in depths:
        cut = choice.cuts[0]
        if isinstance(cut, BlockCut) and cut.blocks == stage.path:
            for index, path in zip(stage.members, stage.blocks, strict=True):
                running = tuple(int(option) for option in choice.options if index not in cut.dropped(int(option)))
                if index in cut.drop_order and len(running) < len(choice.options):
                    yield path, (choice.name, running)


def _named_dimensions(model: nn.Module, coupling: Coupling, stages: Sequence[Stage]) -> list[NamedDimension]:
    """The dimensions that may become choices, with their names: heads and features by block, then all others."""
    blocks = {path: number for number, path in enumerate(path for stage in stages for path in stage.blocks)}
    names = ParameterLocations(model, blocks)
    found: list[NamedDimension] = []
    for index, dimension in enumerate(coupling.dimensions):
        # A dimension with one cut couples no two layers: narrowing it would save nothing in a layer behind it.
        if len(dimension.cuts) < 2 or dimension.size < 2:
            continue
        stage = next((n for n, each in enumerate(stages) if _on_stream(index, each, coupling)), None)
        # The order of the tests matters: the residual stream has channels of convolutions too, heads are inside of
        # blocks like features, and blocks may hand on what they add to the scores of each head (T5).
        inside = {names.block_of(cut.parameter) for cut in dimension.cuts}
        block = inside.pop() if len(inside) == 1 else None
        if dimension.heads:
            name = "heads" if block is None else f"heads.{blocks[block]}"
        elif stage is not None:
            name = "width" if len(stages) == 1 else f"width.{stage}"
        elif block is not None and not names.convolutional(dimension):
            name = f"ffn.{blocks[block]}"
        else:
            name = f"channels.{names.producer(dimension)}"
        found.append(NamedDimension(name, dimension, block))
    return _in_order(distinct(found, names))


def _on_stream(index: int, stage: Stage, coupling: Coupling) -> bool:
    """Whether a dimension (by index) belongs to the residual stream of a stage: the outputs of its blocks have it."""
    return any(index in coupling.submodules[path].outputs for path in stage.blocks if path in coupling.submodules)


def _in_order(found: Sequence[NamedDimension]) -> list[NamedDimension]:
    """The dimensions in the order of the space: heads by block, features by block, then the rest in network order."""
    kinds = ("heads", "ffn")

    def rank(item: tuple[int, NamedDimension]) -> tuple[int, int]:
        kind, _, rest = item[1].name.partition(".")
        number = rest.partition(".")[0]
        return (kinds.index(kind), int(number) if number.isdigit() else -1) if kind in kinds else (len(kinds), item[0])

    return [each for _, each in sorted(enumerate(found), key=rank)]


def _options_of(named: NamedDimension, ranges: Ranges) -> tuple[int, ...]:
    """The options as numbers of units; shares of features and channels become multiples of 8 where those are close.

    Matrix kernels run fastest on such sizes. Heads are units of many channels, so any number of them will do.
    """
    multiple_of = 1 if named.dimension.heads else 8
    sizes: Sizes = getattr(ranges, _kind(named.name))
    return _options(named.name, named.dimension.size, sizes, multiple_of=multiple_of)


def _options(name: str, full: int, sizes: Sizes, lowest: int = 1, multiple_of: int = 1) -> tuple[int, ...]:
    """The options as ascending numbers of units, always with the full size; empty if that is the only one.

    Args:
        name: of the choice, for messages.
        full: the full size.
        sizes: as the user or the family gives them.
        lowest: the smallest number of units that may stay.
        multiple_of: a share within 5 % of a multiple of this number becomes that multiple.

    Raises:
        ValueError: a share outside of (0, 1], or a number outside of `lowest` to `full`.
    """
    options = {full}
    for size in sizes:
        share = isinstance(size, float)
        if share and not 0 < size <= 1:
            raise ValueError(f"a share of {name} must be above 0 and at most 1, got {size}")
        if not share and not lowest <= size <= full:
            raise ValueError(f"options of {name} must be from {lowest} to {full}, got {size}")
        options.add(max(lowest, _near(size * full, multiple_of)) if share else int(size))
    return tuple(sorted(options)) if len(options) > 1 else ()


def _near(size: float, multiple_of: int) -> int:
    """The nearest multiple if it is within 5 % of `size`, else the nearest integer."""
    multiple = round(size / multiple_of) * multiple_of
    return multiple if abs(multiple - size) <= 0.05 * size else round(size)
