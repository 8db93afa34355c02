"""Normalization-activation layers as graphs of primitives (EvoNorm, arXiv 2004.02967, section 3).

A graph maps x of any shape with a batch and a channel axis to a tensor of that shape. Its first four nodes are given
(`operations.INITIAL`); each of the others is a primitive of earlier nodes, and the last one is the output. The
per-channel affine that the paper puts after it is no part of the graph: `GraphLayer` adds it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

from search_spaces.graphs.formula import formula
from search_spaces.graphs.operations import COMMUTATIVE, INITIAL, PRIMITIVES, Node

MOST_NODES = 64
"""The most intermediate nodes of a graph; those of the paper have ten."""

_MOST_JSON = 64 * 2**10
_Rank = tuple[int, int, str]


@dataclass(frozen=True)
class LayerGraph:
    """The graph of one layer.

    Graphs are equal if they have the same nodes in the same order. `canonical()` tells which graphs are the same layer
    written in another way, and `key` is one text for all of those.

    Args:
        nodes: the intermediate nodes in order; node i of them has the index 4 + i, and the last one is the output.

    Raises:
        ValueError: there are no nodes or more than `MOST_NODES`, or a node has an input that is not before it.
    """

    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(self.nodes))
        if not 1 <= len(self.nodes) <= MOST_NODES:
            raise ValueError(f"a layer graph must have 1 to {MOST_NODES} nodes, got {len(self.nodes)}")
        for index, node in enumerate(self.nodes, len(INITIAL)):
            if not isinstance(node, Node):
                raise ValueError(f"the nodes of a layer graph must be of type Node, got {type(node).__name__}")
            for other in node.inputs:
                if not 0 <= other < index:
                    raise ValueError(
                        f"the inputs of node {index} must be nodes before it, 0 .. {index - 1}, got {other}"
                    )

    @cached_property
    def _ranks(self) -> list[_Rank]:
        """(height, place of the primitive, digest) of every node; nodes of one digest compute the same thing.

        They order the inputs of commutative operations; height and primitive come first for the sake of the formula.
        """
        ranks = [(0, 0, name) for name in INITIAL]
        for node in self.nodes:
            below = [ranks[index] for index in node.inputs]
            digests = [digest for *_, digest in below]
            if node.op in COMMUTATIVE:
                digests.sort()
            text = "|".join([node.op, node.over or "", *digests])
            height = 1 + max(rank[0] for rank in below)
            ranks.append((height, PRIMITIVES.index(node.op), sha256(text.encode()).hexdigest()))
        return ranks

    @property
    def key(self) -> str:
        """32 hexadecimal digits, the same for all graphs with one canonical form and in every process."""
        return sha256(self._ranks[-1][-1].encode()).hexdigest()[:32]

    def canonical(self) -> "LayerGraph":
        """The graph without dead nodes and duplicates, the inputs of commutative operations in one order.

        Graphs that differ in nothing else have equal canonical forms. Algebra goes no further (x + 0 is not x): that is
        what `fingerprint` is for.
        """
        ranks = self._ranks
        placed = {ranks[index][-1]: index for index in range(len(INITIAL))}
        nodes: list[Node] = []

        def place(index: int) -> int:
            digest = ranks[index][-1]
            if digest not in placed:
                node = self.nodes[index - len(INITIAL)]
                inputs = list(node.inputs)
                if node.op in COMMUTATIVE:
                    inputs.sort(key=lambda other: _order(ranks[other]))
                nodes.append(Node(node.op, tuple(place(other) for other in inputs), node.over))
                placed[digest] = len(INITIAL) + len(nodes) - 1
            return placed[digest]

        place(len(INITIAL) + len(self.nodes) - 1)
        return LayerGraph(tuple(nodes))

    @property
    def crosses_rows(self) -> bool:
        """Whether the output depends on a moment over the batch; only then can rows of a batch influence each other."""
        return any(node.over == "batch" for node in self.canonical().nodes)

    def formula(self) -> str:
        """The layer in readable text, e.g. `x * sigmoid(v1 * x) / std_{w,h,c/g}(x)`, without the affine after it.

        `log` and `sqrt` are the primitives of that name, which take negative numbers too. Graphs with one canonical
        form have one formula.
        """
        return formula(self.canonical().nodes)

    def to_json(self) -> str:
        """The nodes, also the dead ones, as JSON."""
        nodes = [
            {"op": node.op, "inputs": list(node.inputs)} | ({"over": node.over} if node.over else {})
            for node in self.nodes
        ]
        return json.dumps({"version": 1, "nodes": nodes})

    @classmethod
    def from_json(cls, text: str) -> "LayerGraph":
        """The graph that `to_json` wrote; raises ValueError for any other text."""
        # Such files come from other people, so nothing of unbounded size is parsed and nothing in them is run.
        if len(text) > _MOST_JSON:
            raise ValueError(f"the JSON of a layer graph must have at most {_MOST_JSON} characters, got {len(text)}")
        try:
            data = json.loads(text, object_pairs_hook=_without_repetition)
        except (RecursionError, ValueError) as error:
            raise ValueError(f"the text of a layer graph must be JSON with distinct fields: {error}") from error
        fields = _object(data, "a layer graph", {"version", "nodes"}, frozenset())
        if type(fields["version"]) is not int or fields["version"] != 1:
            raise ValueError(f"the layer graph must be of version 1, got {str(fields['version'])[:60]!r}")
        if not isinstance(fields["nodes"], list):
            raise ValueError(f"the nodes of a layer graph must be a list, got {type(fields['nodes']).__name__}")
        return cls(tuple(_node(item) for item in fields["nodes"]))


def _order(rank: _Rank) -> tuple[bool, _Rank]:
    """The place of an input of a commutative operation: v0, v1, x, what is built on them, and 0 at the end."""
    return rank[-1] == "zero", rank


def _node(data: object) -> Node:
    fields = _object(data, "a node", {"op", "inputs"}, {"over"})
    return Node(fields["op"], fields["inputs"], fields.get("over"))


def _object(data: object, what: str, needed: set[str], allowed: set[str] | frozenset[str]) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise ValueError(f"{what} must be an object with {', '.join(sorted(needed))}, got {type(data).__name__}")
    missing, unknown = needed - set(data), set(data) - needed - allowed
    if missing or unknown:
        names = ", ".join(sorted(needed | allowed))
        got = f"no {min(missing)}" if missing else f"{min(unknown)[:60]!r}"
        raise ValueError(f"the fields of {what} must be {names}, got {got}")
    return data


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"got {', '.join(name for name, _ in pairs)[:60]}")
    return found
