"""Dimensions with names, and the choices that they become where the oracle finds them right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from search_spaces.cuts import AxisCut
from search_spaces.families.oracle import Judge
from search_spaces.space import Choice, Option, Space
from search_spaces.tracing.coupling import Dimension


@dataclass(frozen=True)
class NamedDimension:
    """A dimension that may become a choice.

    Attributes:
        name: of the choice.
        dimension: its units and cuts.
        block: path of the block that contains all of its parameters; None if they are in several, or in none.
    """

    name: str
    dimension: Dimension
    block: str | None = None


class ParameterLocations:
    """Looks up where in the model the parameters of a dimension are.

    Args:
        model: the full network.
        blocks: path of every repeated block -> its number.
    """

    def __init__(self, model: nn.Module, blocks: Mapping[str, int]) -> None:
        self._blocks = blocks
        self._order = {name: index for index, (name, _) in enumerate(model.named_parameters())}
        self._layers = {path for path, part in model.named_modules() if next(part.children(), None) is None}
        self._rank = {name: parameter.dim() for name, parameter in model.named_parameters()}

    def block_of(self, parameter: str) -> str | None:
        """The path of the repeated block that contains a parameter; None if it is outside of all blocks."""
        parts = parameter.split(".")
        return next((path for n in range(len(parts)) if (path := ".".join(parts[:n])) in self._blocks), None)

    def convolutional(self, dimension: Dimension) -> bool:
        """Whether a convolution makes the units. Depthwise ones, which only pass them on, do not."""
        return self._rank.get(self._first(dimension), 0) > 2

    def producer(self, dimension: Dimension) -> str:
        """The path of the first module whose outputs the units are."""
        return self._first(dimension).rpartition(".")[0]

    def position(self, dimension: Dimension) -> int:
        """The position, among the parameters of the model, of the first that has the units in its outputs."""
        return self._order[self._first(dimension)]

    def _first(self, dimension: Dimension) -> str:
        # Axis 0 of a weight is that of its outputs, in linear layers and convolutions alike.
        weights = [cut for cut in dimension.cuts if cut.parameter in self._rank]
        made = [cut for cut in weights if cut.axis == 0] or weights
        # A parameter of a block, such as a scale of its channels, makes none; layers do.
        made = [cut for cut in made if cut.parameter.rpartition(".")[0] in self._layers] or made
        first: AxisCut = min(made, key=lambda cut: self._order[cut.parameter])
        return first.parameter


def distinct(found: Sequence[NamedDimension], names: ParameterLocations) -> list[NamedDimension]:
    """The dimensions with distinct names: the largest of one name keeps it, the others append their module's path."""
    largest: dict[str, NamedDimension] = {}
    for each in found:
        if each.name not in largest or _index_count(each.dimension) > _index_count(largest[each.name].dimension):
            largest[each.name] = each
    taken, result = set(largest), []
    for each in found:
        name = each.name
        if largest[name] is not each:
            inner = names.producer(each.dimension).removeprefix(f"{each.block}.")
            name = next(longer for n in range(len(found)) if (longer := f"{each.name}.{inner}{n or ''}") not in taken)
            taken.add(name)
        result.append(replace(each, name=name))
    return result


def _index_count(dimension: Dimension) -> int:
    """The number of indices of all cut axes together, as a measure of how large a dimension is."""
    return sum(cut.outer * cut.size * cut.unit for cut in dimension.cuts)


def accepted(
    judge: Judge,
    offered: Sequence[tuple[NamedDimension, tuple[Option, ...] | range]],
    conditions: Mapping[str, tuple[str, tuple[int, ...]]] | None = None,
) -> list[Choice]:
    """The choices of the dimensions that the oracle finds right.

    Args:
        judge: of the model.
        offered: dimensions, each with its options.
        conditions: by path of a block, when a choice inside of it is active.
    """
    cuts = judge.accept([each.dimension for each, _ in offered])
    return [
        Choice(each.name, options, active_if=(conditions or {}).get(each.block) if each.block else None, cuts=found)
        for (each, options), found in zip(offered, cuts, strict=True)
        if found is not None
    ]


def pass_together(judge: Judge, choices: tuple[Choice, ...], candidates: int = 6) -> tuple[Choice, ...]:
    """The choices without those that fail in combination with others.

    The smallest candidate and then `candidates` random ones must pass. If one fails, the choice to blame is removed and
    the checks start again.
    """
    rng = np.random.default_rng(0)
    checked = 0
    while choices and checked <= candidates:
        space = Space(choices)
        wrong = judge.culprit(space, space.sample(rng) if checked else space.smallest())
        # A space without the culprit is another space: begin anew.
        checked = checked + 1 if wrong is None else 0
        if wrong is not None:
            # Choices inside the blocks of a depth that was removed are now always active.
            choices = tuple(
                choice if choice.active_if is None or choice.active_if[0] != wrong else replace(choice, active_if=None)
                for choice in choices
                if choice.name != wrong
            )
    return choices


def check_finite(model: nn.Module) -> None:
    """Raise ValueError for the first tensor that is not finite: outputs would be NaN, and no comparison would hold."""
    wrong = {name: ~weight.isfinite() for name, weight in model.named_parameters()}
    # Buffers may hold infinities, as attention masks do.
    wrong |= {name: buffer.isnan() for name, buffer in model.named_buffers()}
    for name, where in wrong.items():
        if where.any():
            raise ValueError(
                f"the weights of the model must be finite numbers, {name} holds {int(where.sum())} that are not; "
                "take a checkpoint that is whole"
            )
