"""Layer graphs as a domain of a search: drawn, mutated, told apart and stored (EvoNorm, arXiv 2004.02967, section 4.3).

A candidate is a graph in its canonical form, and its key is the fingerprint of the function that it computes. So of all
graphs that compute the same one is tried, whatever measures it and in whatever order. A mutation works
on ten nodes, as the paper's does: what a canonical graph lacks is filled up with random nodes that nothing reads.

Differs: in the paper the nodes that nothing reads stay from one mutation to the next; here they are drawn anew. A
mutation may read them in either case.
"""

import json
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from nas.searching.domain import ObjectDomain
from search_spaces.graphs import LayerGraph, Node, fingerprint, mutate, random_graph
from search_spaces.graphs.operations import INITIAL, SERIES, Series

_TRIES = 50
"""How often a mutation that leaves the layer as it is is made anew."""


@dataclass(frozen=True)
class LayerDomain(ObjectDomain[LayerGraph]):
    """All layers of a series.

    Args:
        series: `batch` has moments over the batch, `sample` has none.
        nodes: intermediate nodes of a graph, as drawn.

    Raises:
        ValueError: an unknown series, or no node.
    """

    series: Series = "batch"
    nodes: int = 10

    def __post_init__(self) -> None:
        if self.series not in SERIES:
            raise ValueError(f"series must be {' or '.join(SERIES)}, got {self.series!r}")
        if self.nodes < 1:
            raise ValueError(f"nodes must be at least 1, got {self.nodes}")

    def draw(self, rng: np.random.Generator) -> LayerGraph:
        """A random layer."""
        return random_graph(rng, self.series, self.nodes).canonical()

    def mutant(self, candidate: LayerGraph, rng: np.random.Generator) -> LayerGraph:
        """A layer that differs from `candidate` in one node."""
        for _ in range(_TRIES):
            found = mutate(filled(candidate, self.nodes, rng, self.series), rng, self.series).canonical()
            if found != candidate:
                return found
        return candidate

    def canonical_form(self, candidate: LayerGraph) -> LayerGraph:
        """The graph without what nothing reads; ValueError for moments that the series does not have."""
        found = candidate.canonical()
        other = next((node.over for node in found.nodes if node.over and node.over not in SERIES[self.series]), None)
        if other is not None:
            raise ValueError(f"a layer of the {self.series} series must have no moment over the {other}")
        return found

    def key(self, candidate: LayerGraph) -> Hashable:
        """Equal for layers that compute the same function, as far as a fingerprint tells."""
        return _fingerprint(candidate)

    def identity(self) -> Any:
        """As JSON data."""
        return {"layers": self.series, "nodes": self.nodes}

    @classmethod
    def from_identity(cls, identity: Any) -> "LayerDomain":
        """The domain that `identity` describes; ValueError for other data."""
        if not isinstance(identity, dict) or set(identity) != {"layers", "nodes"} or type(identity["nodes"]) is not int:
            raise ValueError("a domain of layers must have a series and a number of nodes")
        return cls(identity["layers"], identity["nodes"])

    def to_json(self, candidate: LayerGraph) -> Any:
        """The graph as JSON data."""
        return json.loads(candidate.to_json())

    def from_json(self, data: Any) -> LayerGraph:
        """The graph that `to_json` wrote; ValueError for other data."""
        return self.canonical_form(LayerGraph.from_json(json.dumps(data)))


@lru_cache(maxsize=10_000)
def _fingerprint(graph: LayerGraph) -> str:
    return fingerprint(graph)


def filled(graph: LayerGraph, nodes: int, rng: np.random.Generator, series: Series = "batch") -> LayerGraph:
    """The same layer with random nodes that nothing reads, at random places before its output, up to `nodes` nodes."""
    missing = max(0, nodes - len(graph.nodes))
    # The places of the graph's own nodes among all; the output stays the last.
    places = (
        np.sort(rng.permutation(nodes - 1)[: len(graph.nodes) - 1]).tolist() if missing else range(len(graph.nodes))
    )
    places = [*places, nodes - 1] if missing else list(places)
    number = {len(INITIAL) + old: len(INITIAL) + new for old, new in enumerate(places)}
    number |= {index: index for index in range(len(INITIAL))}
    made = list(random_graph(rng, series, max(nodes, len(graph.nodes))).nodes)
    for old, node in enumerate(graph.nodes):
        made[places[old]] = Node(node.op, tuple(number[index] for index in node.inputs), node.over)
    return LayerGraph(tuple(made))
