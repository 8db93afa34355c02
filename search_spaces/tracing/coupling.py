"""Finds which axes of which parameters shrink together, in the exported graph of any module.

Every axis of every parameter begins as a symbol of its own. The graph is walked in execution order, and the rule of
each operator (`aten.py`) unifies the symbols that hold the same indices (`axes.py`). Every symbol that may shrink in
the end is a *dimension*: a number of units, with all parameter axes that must be narrowed together with them.

The same idea is known as the dependency graph of structured pruning (DepGraph, Fang et al., arXiv 2301.12900). Differs:
it works on the axes of tensors and not on layers, so reshapes into heads and fused weights need no special cases.

The graph does not show the numbers that a forward hard-codes in Python, so a space accepts a dimension only after
running it (`search_spaces.families.oracle`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx.node import Argument, Node

from search_spaces.cuts import AttributeCut, AxisCut
from search_spaces.inputs import Inputs
from search_spaces.tracing.aten import RULES, elementwise
from search_spaces.tracing.axes import Axis
from search_spaces.tracing.exported import exported
from search_spaces.tracing.walk import HEADS, Call, ContractionKind, Rule, Tensor, Walk, unknown

# A block is residual if its input reaches its output through these operators only, with at least one addition.
_ADDITIONS = frozenset({"aten::add", "aten::add_"})
_ON_A_RESIDUAL_PATH = _ADDITIONS | {
    *("aten::layer_norm", "aten::rms_norm", "aten::batch_norm", "aten::dropout", "aten::dropout_"),
    *("aten::relu", "aten::relu_", "aten::hardtanh", "aten::hardtanh_", "aten::gelu", "aten::silu", "aten::silu_"),
    *("aten::contiguous", "aten::clone", "aten::to", "aten::_to_copy", "aten::view", "aten::reshape"),
}


@dataclass(frozen=True)
class Dimension:
    """Units of a network that can only be removed from all of their axes at once.

    Attributes:
        size: number of units.
        cuts: the parameter and buffer axes that hold the units.
        attributes: the `groups` of convolutions that must follow.
        heads: whether the units are attention heads.
    """

    size: int
    cuts: tuple[AxisCut, ...]
    attributes: tuple[AttributeCut, ...]
    heads: bool


AxisSize = tuple[tuple[int, tuple[int, ...]], ...]
"""The size of an axis as a sum of terms (factor, dimensions): the factor times the units kept of these dimensions."""


@dataclass(frozen=True)
class Contraction:
    """A matrix product or convolution; its multiply-accumulates are the product of the sizes of `axes`.

    Attributes:
        module: path of the module that calls it.
        kind: which operator it is.
        axes: sizes of the rows of its output, of its output channels, then of the axes that it sums over.
        inner: how many axes it sums over, at the end of `axes`.
        per_row: whether its operands depend on the inputs, so that its cost grows with the batch; False where they are
            computed from weights alone.
    """

    module: str
    kind: ContractionKind
    axes: tuple[AxisSize, ...]
    inner: int
    per_row: bool


@dataclass(frozen=True)
class Submodule:
    """What the graph shows of a module inside the network that is called exactly once.

    Attributes:
        outputs: the dimensions (by index) that its outputs have.
        residual: whether one of its inputs reaches an output through additions, norms and activations alone.
    """

    outputs: frozenset[int]
    residual: bool


@dataclass(frozen=True)
class Coupling:
    """What was found in the graph of a module.

    Attributes:
        dimensions: all that may be narrowed, in the order of the parameters that hold them.
        contractions: all matrix products and convolutions, in execution order.
        parameters: name and axis sizes of every parameter.
        submodules: by path, the modules inside that are called exactly once.
        unknown: names of the operators that no rule covers, sorted.
    """

    dimensions: tuple[Dimension, ...]
    contractions: tuple[Contraction, ...]
    parameters: tuple[tuple[str, tuple[AxisSize, ...]], ...]
    submodules: Mapping[str, Submodule]
    unknown: tuple[str, ...]


def analyse(model: nn.Module, example_inputs: Inputs) -> Coupling:
    """Trace `model` with `torch.export` and find its dimensions.

    Args:
        model: any module; it is left as it is.
        example_inputs: a tuple of positional or a mapping of keyword tensors. Their batch must be above 1, because an
            axis of size 1 cannot be told from one that broadcasts.

    Raises:
        ValueError: `torch.export` cannot trace the module.
    """
    return _Reader(model, exported(model, example_inputs)).read()


class _Reader:
    """One walk over an exported graph.

    `_values` holds the symbolic result of every node, `_input_dependent` the nodes that the inputs reach, and `_owners`
    the calling module of every contraction.
    """

    def __init__(self, model: nn.Module, program: torch.export.ExportedProgram) -> None:
        self._program = program
        self._walk = Walk()
        self._values: dict[Node, Any] = {}
        self._owners: list[tuple[str, bool]] = []
        self._input_dependent: set[Node] = set()
        self._grouped: list[tuple[str, Axis]] = []
        self._parameter_names = [name for name, _ in model.named_parameters()]
        names: dict[int, str] = {}
        # The graph names tied weights by any of their names. They are one tensor, so they must share their symbols:
        # every alias is mapped to the first name.
        tensors = [*model.named_parameters(), *model.named_buffers()]
        for name, tensor in tensors:
            names[id(tensor)] = name
        everything = [
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        ]
        self._canonical = {alias: names[id(tensor)] for alias, tensor in everything}
        self._weights = {name: self._weight(tensor) for name, tensor in tensors}

    def _weight(self, tensor: torch.Tensor) -> Tensor:
        """The symbols of a parameter or buffer."""
        # Integers are positions or counters; where they index an axis, that axis must keep its size.
        if not tensor.is_floating_point():
            return self._walk.fixed(tensor.shape, "holds integers")
        return Tensor(tuple(self._walk.axes.fresh(size) for size in tensor.shape), weight=True)

    def read(self) -> Coupling:
        """Walk the graph and collect what was found."""
        signature = self._program.graph_signature
        weights = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        for node in self._program.graph.nodes:
            if node.op == "placeholder":
                name = self._canonical.get(weights.get(node.name, ""))
                self._values[node] = self._weights[name] if name else self._fixed(node, "is an input")
                if node.name not in weights:
                    self._input_dependent.add(node)
            elif node.op == "call_function":
                if not self._input_dependent.isdisjoint(node.all_input_nodes):
                    self._input_dependent.add(node)
                self._values[node] = self._visit(node)
            elif node.op == "output":
                for tensor in _flatten(self._lookup(node.args)):
                    for axis in tensor.axes:
                        # The sub-networks must give outputs of the same shape as the full network.
                        self._walk.axes.freeze(axis, "is an output")
        return self._result()

    def _fixed(self, node: Node, reason: str) -> Any:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            return self._walk.fixed(value.shape, reason)
        if isinstance(value, (tuple, list)):
            return [self._walk.fixed(item.shape, reason) if isinstance(item, torch.Tensor) else item for item in value]
        return value

    def _lookup(self, value: Argument) -> Any:
        if isinstance(value, Node):
            return self._values.get(value)
        if isinstance(value, (tuple, list)):
            return [self._lookup(item) for item in value]
        if isinstance(value, dict):
            return {key: self._lookup(item) for key, item in value.items()}
        return value

    def _visit(self, node: Node) -> Any:
        if getattr(node.target, "__name__", "") == "getitem":
            container, index = self._lookup(node.args)
            return container[index]
        schema = getattr(node.target, "_schema", None)
        call = self._call(node, schema)
        if not call.shapes and not isinstance(node.meta.get("val"), torch.Tensor):
            # Python numbers (sizes, assertions) stay as they are.
            return node.meta.get("val")
        # PyTorch tags most elementwise operators, so the table need only list the others.
        rule: Rule | None = RULES.get(schema.name) if schema else None
        if rule is None and torch.Tag.pointwise in getattr(node.target, "tags", ()):
            rule = elementwise
        if rule is None and _flatten(list(call.arguments.values())):
            self._walk.unknown.add(str(node.target))
        contractions, groups = len(self._walk.contractions), len(self._walk.groups)
        result = (rule or unknown)(self._walk, call)
        # Rules do not know the node: what they have added belongs to the innermost module that contains it.
        paths = _paths(node)
        owner = paths[-1] if paths else ""
        self._owners.extend([(owner, node in self._input_dependent)] * (len(self._walk.contractions) - contractions))
        self._grouped.extend((owner, axis) for axis in self._walk.groups[groups:])
        return result

    def _call(self, node: Node, schema: Any) -> Call:
        """The call of a node, with its arguments by name and the shapes of its results."""
        names = [argument.name for argument in schema.arguments] if schema else []
        names += [f"argument{index}" for index in range(len(names), len(node.args))]
        arguments = {name: self._lookup(value) for name, value in zip(names, node.args, strict=False)}
        arguments |= {name: self._lookup(value) for name, value in node.kwargs.items()}
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            return Call(arguments, tuple(value.shape))
        items = value if isinstance(value, (tuple, list)) else ()
        shapes = tuple(tuple(item.shape) for item in items if isinstance(item, torch.Tensor))
        return Call(arguments, (), shapes)

    def _result(self) -> Coupling:
        """The dimensions, and all sizes as formulas of them: their index is the order in which atoms are met."""
        axes = self._walk.axes
        held: dict[int, list[AxisCut]] = {}
        for name, tensor in self._weights.items():
            for index, axis in enumerate(tensor.axes):
                for atom, cut in self._cuts(name, index, axis):
                    held.setdefault(atom, []).append(cut)
        # Which axes are heads is known only after the whole graph was walked.
        self._freeze_beside_heads()
        # An atom that no parameter holds costs nothing and cannot be cut: only atoms of parameters become dimensions.
        atoms = [atom for atom in held if axes.frozen(atom) is None]
        numbers = {atom: index for index, atom in enumerate(atoms)}
        return Coupling(
            dimensions=tuple(
                Dimension(
                    size=axes.atom_size(atom),
                    cuts=tuple(held[atom]),
                    attributes=self._group_counts(atom),
                    heads=HEADS in axes.tags(atom),
                )
                for atom in atoms
            ),
            contractions=tuple(
                Contraction(
                    owner,
                    product.kind,
                    tuple(self._size_of(axis, numbers) for axis in (*product.rows, product.channel, *product.inner)),
                    len(product.inner),
                    per_row,
                )
                for (owner, per_row), product in zip(self._owners, self._walk.contractions, strict=True)
            ),
            parameters=tuple(
                (name, tuple(self._size_of(axis, numbers) for axis in self._weights[name].axes))
                for name in self._parameter_names
            ),
            submodules=self._submodules(numbers),
            unknown=tuple(sorted(self._walk.unknown)),
        )

    def _group_counts(self, atom: int) -> tuple[AttributeCut, ...]:
        """The `groups` attributes of the convolutions whose groups are the units of an atom, or fixed multiples."""
        axes, found = self._walk.axes, []
        for module, axis in self._grouped:
            products = axes.resolve(axis)
            if len(products) == 1 and atom in products[0]:
                found.append(AttributeCut(module, "groups", 0, axes.size(axis) // axes.atom_size(atom)))
        return tuple(found)

    def _submodules(self, numbers: Mapping[int, int]) -> dict[str, Submodule]:
        """By path, the modules inside that are called once; `numbers` maps atoms to dimensions."""
        inside: dict[str, dict[Node, None]] = {}
        calls: dict[str, set[str]] = {}
        for node in self._program.graph.nodes:
            for path, call in _calls(node):
                inside.setdefault(path, {})[node] = None
                calls.setdefault(path, set()).add(call)
        return {
            path: self._submodule(nodes, numbers) for path, nodes in inside.items() if len(calls[path]) == 1 and path
        }

    def _submodule(self, nodes: Mapping[Node, None], numbers: Mapping[int, int]) -> Submodule:
        """What is seen of the module whose operators are `nodes`, from the tensors that enter and leave it."""
        # Weights enter a module like activations, but no residual path begins at them.
        sources = {source for node in nodes for source in node.all_input_nodes if source not in nodes}
        results = [node for node in nodes if any(user not in nodes for user in node.users)]
        resolve = self._walk.axes.resolve
        outputs = [axis for node in results for tensor in _flatten(self._values.get(node)) for axis in tensor.axes]
        atoms = {atom for axis in outputs for product in resolve(axis) for atom in product}
        streams = {node for node in sources if any(not tensor.weight for tensor in _flatten(self._values.get(node)))}
        return Submodule(
            outputs=frozenset(numbers[atom] for atom in atoms if atom in numbers),
            residual=any(_passes_on(node, streams) for node in results),
        )

    def _cuts(self, name: str, index: int, axis: Axis) -> list[tuple[int, AxisCut]]:
        """Every atom of a parameter's axis with the cut that narrows it, read off its place in the sum of products."""
        axes, start, cuts = self._walk.axes, 0, []
        for product in axes.resolve(axis):
            # In row-major order the atoms before an atom repeat it (`outer`), and those behind it are its unit.
            sizes = [axes.atom_size(atom) for atom in product]
            for position, atom in enumerate(product):
                outer, unit = math.prod(sizes[:position]), math.prod(sizes[position + 1 :])
                cuts.append((atom, AxisCut(name, index, start, outer, sizes[position], unit)))
            start += math.prod(sizes)
        return cuts

    def _freeze_beside_heads(self) -> None:
        """Freeze what shares a parameter axis with heads: the head dimension, by which the scores are scaled."""
        axes = self._walk.axes
        for tensor in self._weights.values():
            for axis in tensor.axes:
                for product in axes.resolve(axis):
                    if any(HEADS in axes.tags(atom) for atom in product):
                        inner = tuple(atom for atom in product if HEADS not in axes.tags(atom))
                        axes.freeze((inner,), "is a head dimension")

    def _size_of(self, axis: Axis, numbers: Mapping[int, int]) -> AxisSize:
        """The size of an axis as a formula of the dimensions; frozen atoms go into the factors."""
        axes = self._walk.axes
        return tuple(
            (
                math.prod(axes.atom_size(atom) for atom in product if atom not in numbers),
                tuple(numbers[atom] for atom in product if atom in numbers),
            )
            for product in axes.resolve(axis)
        )


def _flatten(value: Any) -> list[Tensor]:
    """All symbolic tensors in nested lists, tuples and mappings."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for item in value for tensor in _flatten(item)] if isinstance(value, (tuple, list)) else []


def _passes_on(result: Node, streams: set[Node]) -> bool:
    """Whether a residual path with at least one addition leads back from the result to one of `streams`."""
    # A search backwards. `added` counts for all paths once one of them has met an addition: this is enough to find the
    # candidates, since the oracle runs the network without a block before it may be dropped.
    seen: set[Node] = set()
    open_nodes, added = [result], False
    while open_nodes:
        node = open_nodes.pop()
        if node in streams and added:
            return True
        if node in seen or node in streams or _name(node) not in _ON_A_RESIDUAL_PATH:
            continue
        seen.add(node)
        added = added or _name(node) in _ADDITIONS
        open_nodes.extend(node.all_input_nodes)
    return False


def _name(node: Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return str(schema.name) if schema else ""


def _calls(node: Node) -> list[tuple[str, str]]:
    """(path, call) of the modules that an operator belongs to, the outermost first; `@` marks calls after the first."""
    stack = node.meta.get("nn_module_stack") or {}
    return [(str(path).partition("@")[0], str(path)) for path, _ in stack.values()]


def _paths(node: Node) -> list[str]:
    return [path for path, _ in _calls(node)]
