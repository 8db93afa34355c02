"""Random layer graphs and their mutation (EvoNorm, arXiv 2004.02967, section 4).

Differs: the paper does not say how often each index set is drawn. Here a moment is as likely as any other row of its
Table 1, and its index set is drawn uniformly after that.
"""

import numpy as np

from search_spaces.graphs.graph import LayerGraph
from search_spaces.graphs.operations import BINARY, INITIAL, MOMENTS, PRIMITIVES, SERIES, Node, Series

NODES = 10
"""The intermediate nodes of the paper's graphs."""


def random_graph(rng: np.random.Generator, series: Series = "batch", nodes: int = NODES) -> LayerGraph:
    """A random graph: the nodes in order, each with a uniform primitive of uniform earlier nodes.

    Args:
        rng: where all randomness comes from.
        series: "batch" has all index sets, "sample" those within a row.
        nodes: the number of intermediate nodes.

    Raises:
        ValueError: the series is unknown, or the number of nodes is not one that a graph may have.
    """
    return LayerGraph(tuple(_random_node(rng, len(INITIAL) + index, series) for index in range(nodes)))


def mutate(graph: LayerGraph, rng: np.random.Generator, series: Series = "batch") -> LayerGraph:
    """A copy of a graph in which one uniform intermediate node has a new primitive and new inputs, all uniform.

    The node may be a dead one, and the new node the old one: then the layer stays what it is, as in the paper. Mutate a
    graph as it was drawn, not its canonical form, which has lost the dead nodes that a mutation may revive.

    Args:
        graph: left as it is.
        rng: where all randomness comes from.
        series: the index sets of the new node, as in `random_graph`.

    Raises:
        ValueError: the series is unknown.
    """
    place = int(rng.integers(len(graph.nodes)))
    new = _random_node(rng, len(INITIAL) + place, series)
    return LayerGraph((*graph.nodes[:place], new, *graph.nodes[place + 1 :]))


def _random_node(rng: np.random.Generator, index: int, series: Series) -> Node:
    """A random node for the place `index`, whose inputs are any nodes before it, the same one twice included."""
    if series not in SERIES:
        raise ValueError(f"the series must be one of {', '.join(SERIES)}, got {series!r}")
    op = PRIMITIVES[int(rng.integers(len(PRIMITIVES)))]
    over = SERIES[series][int(rng.integers(len(SERIES[series])))] if op in MOMENTS else None
    inputs = rng.integers(index, size=2 if op in BINARY else 1)
    return Node(op, tuple(inputs.tolist()), over)
