"""Where a network may be cut into consecutive parts, and where its spatial resolution changes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch.fx.node import Node

from search_spaces.pruning.module_graph import ModuleGraph

# Sizes (height, width) of a feature map; None for what is none.
_Resolution = tuple[int, ...] | None


@dataclass(frozen=True)
class Section:
    """Consecutive nodes of the main path, with the one tensor that they need and the one that they make.

    Attributes:
        nodes: in the order of execution.
        source: the node of the features before the section.
        result: the node of those behind it; one of `nodes`.
    """

    nodes: tuple[Node, ...]
    source: Node
    result: Node

    def then(self, other: "Section") -> "Section":
        """This section and the one that follows it."""
        return Section(self.nodes + other.nodes, self.source, other.result)


def main_path(made: ModuleGraph) -> list[Node]:
    """The nodes whose results depend on the values of the input, in the order of execution; the input is the first.

    Weights, constants and the number of rows are not among them: every part can have its own copies of these.
    """
    found: dict[Node, None] = {made.source: None}
    for node in made.graph.nodes:
        if not _counts_rows(node, made) and any(each in found for each in node.all_input_nodes):
            found[node] = None
    return list(found)


def _counts_rows(node: Node, made: ModuleGraph) -> bool:
    """Whether a node is the number of rows of the input."""
    return node.target is torch.ops.aten.sym_size.int and str(node.meta["val"]) == str(rows_of(made.source))


def rows_of(node: Node) -> object:
    """The size of axis 0 of a tensor, a symbol if it is that of the input; None where there is no such axis."""
    value = node.meta.get("val")
    return value.shape[0] if isinstance(value, torch.Tensor) and value.dim() else None


def sections(made: ModuleGraph) -> list[Section]:
    """Cut the main path where a new resolution begins; the sections together hold all of it but the input.

    Positions at which only one tensor is needed later, with a row for each row of the input, are possible cuts. A stage
    of a network usually begins with the module that changes the resolution somewhere inside. So a change leads to a cut
    at the last possible position before the outermost module that contains this change alone, at most half of it before
    the change, and that begins nearer to it than to the change before. A change by less than a factor of 1.5, as by
    convolutions without padding, is none, nor is padding; from a map to something else, such as a vector, is one.
    """
    path = main_path(made)
    single = _single_tensors(made, path)
    changes = _changes(path, {p: tensor for p, tensor in single.items() if not _pads(tensor, made)})
    ranges = _ranges(path)
    cuts = {max((p for p in single if p <= _begin(path, each, changes, ranges)), default=1) for each in changes}
    edges = [1, *sorted(cuts - {1}), len(path)]
    # Behind the last node that the logits need may be layers that are called for nothing.
    at = {**single, len(path): made.logits or path[-1]}
    return [Section(tuple(path[a:b]), at[a], at[b]) for a, b in pairwise(edges)]


def _single_tensors(made: ModuleGraph, path: Sequence[Node]) -> dict[int, Node]:
    """By position, the only tensor from before the position that is needed from there on."""
    number = {node: index for index, node in enumerate(path)}
    last = {node: max((number[user] for user in node.users if user in number), default=0) for node in path}
    assert made.logits is not None
    last[made.logits] = len(path)
    rows, found, live = str(rows_of(made.source)), {}, dict.fromkeys(path[:1])
    for position in range(1, len(path) + 1):
        live = {node: None for node in live if last[node] >= position}
        if len(live) == 1 and str(rows_of(only := next(iter(live)))) == rows:
            found[position] = only
        if position < len(path):
            live[path[position]] = None
    return found


def _resolution(node: Node) -> _Resolution:
    value = node.meta.get("val")
    return tuple(value.shape[2:]) if isinstance(value, torch.Tensor) and value.dim() == 4 else None


def _differ(before: _Resolution, behind: _Resolution) -> bool:
    """Whether two resolutions are those of different stages."""
    if before is None or behind is None:
        return before is not behind
    return any(a >= 1.5 * b or b >= 2 * a for a, b in zip(before, behind, strict=True))


def _pads(node: Node, made: ModuleGraph) -> bool:
    """Whether a node only pads: frameworks differ in whether a convolution does this itself."""
    what = type(made.targets[str(node.target)]).__name__ if node.op == "call_module" else str(node.target)
    return "pad" in what.lower()


def _changes(path: Sequence[Node], single: Mapping[int, Node]) -> list[int]:
    """The positions of the nodes with which a new resolution begins.

    Only tensors that are alone count: the gates of squeeze-excite are of another size, but beside the features.
    """
    found, previous, resolution = [], 0, _resolution(path[0])
    for position, tensor in single.items():
        new = _resolution(tensor)
        if _differ(resolution, new):
            found.append(next(i for i in range(previous, position) if not _differ(new, _resolution(path[i]))))
            resolution = new
        previous = position
    return found


def _ranges(path: Sequence[Node]) -> dict[str, list[int]]:
    """The positions of the nodes of every call of a module."""
    found: dict[str, list[int]] = {}
    for index, node in enumerate(path):
        for call in node.meta["calls"]:
            found.setdefault(call, []).append(index)
    return found


def _begin(path: Sequence[Node], change: int, changes: Sequence[int], ranges: Mapping[str, Sequence[int]]) -> int:
    """The position where the module begins that a change of resolution is the beginning of."""
    previous = max((other for other in changes if other < change), default=0)
    for call in path[change].meta["calls"]:
        inside = ranges[call]
        alone = sum(other in inside for other in changes) == 1
        early = 2 * sum(index < change for index in inside) <= len(inside)
        # A backbone of two stages contains one change too, but the first stage is no beginning of the second.
        near = 2 * (change - inside[0]) <= change - previous
        if alone and early and near:
            return inside[0]
    return change
