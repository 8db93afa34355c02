"""What is known of every node of a graph before it runs: where it varies, and how small it can be."""

import math
from dataclasses import dataclass

from search_spaces.graphs.graph import LayerGraph
from search_spaces.graphs.operations import Node

_VARIES: dict[str | None, frozenset[str]] = {
    "batch": frozenset("ns"),
    "layer": frozenset("cs"),
    "instance": frozenset("s"),
    # The mean of a group is one number for several channels, but it is kept as one number for each of them.
    "group": frozenset("s"),
}


@dataclass(frozen=True)
class Fact:
    """What is known of a node.

    Args:
        axes: those along which it may vary: n (rows), c (channels), s (all others). Along others it has size 1.
        low: a number that no finite value of it is below; -inf if there is none.
    """

    axes: frozenset[str]
    low: float

    @property
    def full(self) -> bool:
        """Whether it may vary within a channel of a row, so that it has as many elements as x."""
        return "s" in self.axes


def facts(graph: LayerGraph, eps: float) -> tuple[Fact, ...]:
    """The facts of all nodes of a graph, the initial ones included.

    Args:
        graph: any graph.
        eps: what is added under the roots of moments.
    """
    channels = frozenset("c")
    known = [
        Fact(frozenset("ncs"), -math.inf),
        Fact(frozenset(), 0.0),
        Fact(channels, -math.inf),
        Fact(channels, -math.inf),
    ]
    for node in graph.nodes:
        inputs = [known[index] for index in node.inputs]
        axes = frozenset().union(*(fact.axes for fact in inputs)) - _VARIES.get(node.over, frozenset())
        known.append(Fact(axes, _low(node, [fact.low for fact in inputs], eps)))
    return tuple(known)


def _low(node: Node, lows: list[float], eps: float) -> float:
    low = lows[0]
    least = min(lows)
    match node.op:
        case "rms" | "std":
            return math.sqrt(eps)
        case "mean":
            return low
        case "max":
            return max(lows)
        case "add":
            return sum(lows)
        case "mul" if least >= 0:
            return lows[0] * lows[1]
        case "div" | "tanh" if least >= 0:
            return 0.0
        case "sqrt" if least >= 0:
            return math.sqrt(low)
        case "exp" if least >= 0:
            return 1.0
        case "abs":
            return max(low, 0.0)
        case "square":
            return max(low, 0.0) ** 2
        case "sigmoid" | "exp":
            return 0.0
        case _:
            return -math.inf
