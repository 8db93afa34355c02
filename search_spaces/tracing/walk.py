"""What the rules of operators share: symbolic tensors, the calls of a graph, and the state of the walk over it.

A rule takes the walk and one call, in which tensors are replaced by their symbolic axes, and returns the symbolic
tensor or tensors of its result. The rules are in `aten.py` and `indexing.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from search_spaces.tracing.axes import UNIT, Axes, Axis

# The tag of axes that are attention heads.
HEADS = "heads"
ContractionKind = Literal["linear", "attention", "convolution"]


@dataclass(frozen=True)
class Tensor:
    """A tensor of the graph as its symbolic axes.

    Attributes:
        axes: one for each of its dimensions.
        weight: it is a parameter or buffer, or a reshaped or transposed one; False for activations.
    """

    axes: tuple[Axis, ...]
    weight: bool = False


@dataclass(frozen=True)
class Call:
    """One call of an aten operator.

    Attributes:
        arguments: by their names in the operator's schema, with every tensor as a `Tensor`; see `__getitem__`.
        shape: of the result, where it is one tensor.
        shapes: of the results, where the operator returns a list; else empty.
    """

    arguments: dict[str, Any]
    shape: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...] = ()

    def __getitem__(self, name: str) -> Any:
        """The argument of that name; None where the call leaves it out."""
        return self.arguments.get(name)


@dataclass(frozen=True)
class TracedContraction:
    """A matrix product or convolution: one sum for each index of `rows` and `channel`, over all indices of `inner`.

    Attributes:
        kind: which operator it is.
        rows: axes of the output other than `channel`.
        channel: the axis of the output that comes from the second operand.
        inner: the axes that are summed over.
    """

    kind: ContractionKind
    rows: tuple[Axis, ...]
    channel: Axis
    inner: tuple[Axis, ...]


@dataclass
class Walk:
    """The state that rules read and change while a graph is walked in its execution order.

    Attributes:
        axes: the algebra of all axes.
        contractions: the matrix products and convolutions so far, from which costs are counted.
        groups: the axes of the groups of grouped convolutions so far.
        unknown: names of the operators that no rule covers.
    """

    axes: Axes = field(default_factory=Axes)
    contractions: list[TracedContraction] = field(default_factory=list)
    groups: list[Axis] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)

    def fixed(self, shape: Sequence[int], reason: str) -> Tensor:
        """An activation of the given shape whose axes must keep their sizes, for this reason."""
        return Tensor(tuple(self.axes.fresh(size, reason) for size in shape))

    def broadcast(self, tensors: Sequence[Tensor]) -> Tensor:
        """The result of an elementwise operator; axes aligned from the right are unified unless their size is 1."""
        rank = max((len(tensor.axes) for tensor in tensors), default=0)
        result: list[Axis] = [UNIT] * rank
        for tensor in tensors:
            for position, axis in enumerate(tensor.axes, start=rank - len(tensor.axes)):
                if result[position] == UNIT:
                    result[position] = axis
                elif axis != UNIT:
                    self.axes.unify(result[position], axis)
        return Tensor(tuple(result))

    def contract(self, kind: ContractionKind, rows: Sequence[Axis], channel: Axis, inner: Sequence[Axis]) -> None:
        """Record a matrix product or convolution; the product of all axis sizes is its multiply-accumulates."""
        self.contractions.append(TracedContraction(kind, tuple(rows), channel, tuple(inner)))


Rule = Callable[[Walk, Call], Any]


def unknown(walk: Walk, call: Call) -> Tensor | list[Tensor]:
    """The rule of operators that have none: all axes of their inputs and outputs keep their sizes."""
    for tensor in _tensors(call.arguments.values()):
        for axis in tensor.axes:
            walk.axes.freeze(axis, "goes through an operator without a rule")
    results = [walk.fixed(shape, "comes from an operator without a rule") for shape in call.shapes or (call.shape,)]
    return results if call.shapes else results[0]


def _tensors(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, (str, bytes)) or not hasattr(values, "__iter__"):
        return []
    return [tensor for value in values for tensor in _tensors(value)]
