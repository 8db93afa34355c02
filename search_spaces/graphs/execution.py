"""One run of a layer graph: from the initial nodes to the output, with few passes over large tensors.

A large tensor is one of the size of x, a small one does not vary within a channel of a row. Products and sums of a
large tensor and small ones are gathered as `large * scale + shift` and computed when the result is needed, so that
(x - mean) / std * v1 + v0 takes one product and one sum of large tensors.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from search_spaces.graphs.arithmetic import UNARY, maximum, quotient, reciprocal
from search_spaces.graphs.facts import Fact
from search_spaces.graphs.moments import Layout, Moments
from search_spaces.graphs.operations import INITIAL, MOMENTS, Node

Number = Tensor | float
ZERO = INITIAL.index("zero")


@dataclass(frozen=True)
class Scaled:
    """The tensor `large * scale + shift`; scale and shift are small tensors, or 1 and 0."""

    large: Tensor
    scale: Number = 1.0
    shift: Number = 0.0

    def times(self, factor: Number) -> "Scaled":
        """This times a small tensor."""
        return Scaled(self.large, _product(self.scale, factor), _product(self.shift, factor))

    def plus(self, summand: Number) -> "Scaled":
        """This plus a small tensor."""
        return Scaled(self.large, self.scale, _sum(self.shift, summand))

    def tensor(self) -> Tensor:
        """The tensor itself."""
        scaled = self.large if _is(self.scale, 1.0) else self.large * self.scale
        return scaled if _is(self.shift, 0.0) else scaled + self.shift


class Execution:
    """Computes the nodes that the output needs, each once.

    Args:
        nodes: those of a canonical graph, without the initial ones.
        facts: of all nodes.
        initial: the tensors of the initial nodes that are used: x, and the others with as many axes or with none.
        layout: that of x.
        eps: the small number under roots and in denominators.
        central: the nodes of whose value a variance will be asked.
        batch: (index of a moment over the batch, what computes it) -> its raw value, e.g. a moving average instead.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        facts: Sequence[Fact],
        initial: Mapping[int, Tensor],
        layout: Layout,
        eps: float,
        central: frozenset[int],
        batch: Callable[[int, Callable[[], Tensor]], Tensor],
    ) -> None:
        self._nodes = nodes
        self._facts = facts
        self._layout = layout
        self._eps = eps
        self._central = central
        self._batch = batch
        self._values: dict[int, Tensor | Scaled] = dict(initial)
        self._moments: dict[int, Moments] = {}

    def scaled(self, index: int) -> Scaled:
        """The value of a node as a scaled tensor."""
        value = self._value(index)
        return value if isinstance(value, Scaled) else Scaled(value)

    def tensor(self, index: int) -> Tensor:
        """The value of a node (same number of axes as x, size 1 where it does not vary), computed at most once."""
        value = self._value(index)
        if isinstance(value, Scaled):
            value = self._values[index] = value.tensor()
        return value

    def _value(self, index: int) -> Tensor | Scaled:
        if index not in self._values:
            self._values[index] = self._computed(index, self._nodes[index - len(INITIAL)])
        return self._values[index]

    def _computed(self, index: int, node: Node) -> Tensor | Scaled:
        if node.op in MOMENTS:
            return self._moment(index, node)
        if node.op in _BINARY:
            first, second = node.inputs
            return _BINARY[node.op](self, first, second)
        (only,) = node.inputs
        if node.op == "neg":
            return self.scaled(only).times(-1.0) if self._facts[only].full else -self.tensor(only)
        return UNARY[node.op](self.tensor(only), self._facts[only].low, self._eps)

    def _moment(self, index: int, node: Node) -> Tensor:
        (of,) = node.inputs

        def raw() -> Tensor:
            if of not in self._moments:
                axes = self._facts[of].axes
                self._moments[of] = Moments(self.tensor(of), axes, self._layout, of in self._central)
            return self._moments[of].raw(node.op, str(node.over))

        averaged = node.over == "batch" and "n" in self._facts[of].axes
        value = self._batch(index, raw) if averaged else raw()
        return value if node.op == "mean" else (value + self._eps).sqrt()

    def _add(self, first: int, second: int) -> Tensor | Scaled:
        if self._facts[first].full < self._facts[second].full:
            first, second = second, first
        if second == ZERO:
            return self._value(first)
        if not self._facts[first].full:
            return self.tensor(first) + self.tensor(second)
        if not self._facts[second].full:
            return self.scaled(first).plus(self.tensor(second))
        if self._negative(first):
            first, second = second, first
        if self._negative(second):
            return self.tensor(first) - self.scaled(second).large
        return self.tensor(first) + self.tensor(second)

    def _negative(self, index: int) -> bool:
        value = self.scaled(index)
        return _is(value.scale, -1.0) and _is(value.shift, 0.0)

    def _mul(self, first: int, second: int) -> Tensor | Scaled:
        if self._facts[first].full < self._facts[second].full:
            first, second = second, first
        if not self._facts[first].full:
            return self.tensor(first) * self.tensor(second)
        if not self._facts[second].full:
            return self.scaled(first).times(self.tensor(second))
        for value, gate in ((first, second), (second, first)):
            if self._is_sigmoid(gate, value):
                return F.silu(self.tensor(value))
        one, other = self._factors(first), self._factors(second)
        return Scaled(one.large * other.large, _product(one.scale, other.scale))

    def _div(self, first: int, second: int) -> Tensor | Scaled:
        low = self._facts[second].low
        if not self._facts[second].full:
            inverse = reciprocal(self.tensor(second), low, self._eps)
            return self.scaled(first).times(inverse) if self._facts[first].full else self.tensor(first) * inverse
        divisor = self.tensor(second)
        if not self._facts[first].full:
            return Scaled(reciprocal(divisor, low, self._eps), self.tensor(first))
        dividend = self._factors(first)
        return Scaled(quotient(dividend.large, divisor, low, self._eps), dividend.scale)

    def _max(self, first: int, second: int) -> Tensor:
        if first == second:
            return self.tensor(first)
        if ZERO in (first, second):
            return F.relu(self.tensor(first if second == ZERO else second))
        return maximum(self.tensor(first), self.tensor(second))

    def _factors(self, index: int) -> Scaled:
        """The value of a large node without a shift."""
        value = self.scaled(index)
        return value if _is(value.shift, 0.0) else Scaled(self.tensor(index))

    def _is_sigmoid(self, index: int, of: int) -> bool:
        node = self._nodes[index - len(INITIAL)] if index >= len(INITIAL) else None
        return node is not None and node.op == "sigmoid" and node.inputs[0] == of


_BINARY: Mapping[str, Callable[[Execution, int, int], Tensor | Scaled]] = {
    "add": Execution._add,
    "mul": Execution._mul,
    "div": Execution._div,
    "max": Execution._max,
}


def _is(number: Number, value: float) -> bool:
    return isinstance(number, float) and number == value


def _product(first: Number, second: Number) -> Number:
    if _is(first, 1.0) or _is(second, 0.0):
        return second
    return first if _is(second, 1.0) or _is(first, 0.0) else first * second


def _sum(first: Number, second: Number) -> Number:
    if _is(first, 0.0):
        return second
    return first if _is(second, 0.0) else first + second
