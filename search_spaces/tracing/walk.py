"""What the rules of operators share: tensors as axes, the calls of a graph, and the walk over them.

A rule gets the walk and a call, whose tensors are replaced by their axes, and returns the axes of its result.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from search_spaces.tracing.axes import UNIT, Axes, Axis

HEADS = "heads"
ProductKind = Literal["linear", "attention", "convolution"]


@dataclass(frozen=True)
class Tensor:
    """Axes of one tensor; `weight` tells parameters (and their transposes) from activations."""

    axes: tuple[Axis, ...]
    weight: bool = False


@dataclass(frozen=True)
class Call:
    """One aten call: its arguments by schema name and the shapes of its results."""

    arguments: dict[str, Any]
    shape: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...] = ()

    def __getitem__(self, name: str) -> Any:
        return self.arguments.get(name)


@dataclass(frozen=True)
class Product:
    """Sums of products: one for each index of `rows` and `channel`, over the indices of `inner`."""

    kind: ProductKind
    rows: tuple[Axis, ...]
    channel: Axis
    inner: tuple[Axis, ...]


@dataclass
class Walk:
    """What the rules share: the algebra; contractions (multiply-accumulates) and groups of convolutions met so far."""

    axes: Axes = field(default_factory=Axes)
    contractions: list[Product] = field(default_factory=list)
    groups: list[Axis] = field(default_factory=list)
    unknown: set[str] = field(default_factory=set)

    def fixed(self, shape: Sequence[int], reason: str) -> Tensor:
        """A tensor of the given shape whose axes never shrink."""
        return Tensor(tuple(self.axes.fresh(size, reason) for size in shape))

    def broadcast(self, tensors: Sequence[Tensor]) -> Tensor:
        """Axes of an elementwise result, aligned from the right; equal sizes are the same indices."""
        rank = max((len(tensor.axes) for tensor in tensors), default=0)
        result: list[Axis] = [UNIT] * rank
        for tensor in tensors:
            for position, axis in enumerate(tensor.axes, start=rank - len(tensor.axes)):
                if result[position] == UNIT:
                    result[position] = axis
                elif axis != UNIT:
                    self.axes.unify(result[position], axis)
        return Tensor(tuple(result))

    def contract(self, kind: ProductKind, rows: Sequence[Axis], channel: Axis, inner: Sequence[Axis]) -> None:
        """Note a matrix product or convolution: as many multiply-accumulates as the product of the axes' sizes."""
        self.contractions.append(Product(kind, tuple(rows), channel, tuple(inner)))


Rule = Callable[[Walk, Call], Any]


def unknown(walk: Walk, call: Call) -> Tensor | list[Tensor]:
    """No rule: everything touched keeps its size."""
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
