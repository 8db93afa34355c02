"""The graph of a network in which every call of a layer is one node, made from the graph of `torch.export`.

An exported graph is that of evaluation mode: its batch norms and dropouts stay in it for ever. Here the operators of
one call of a layer (a module without children) become one call of that very layer, so the graph follows `train()` and
`eval()`, and it trains the layers of the model. Everything between the layers stays as operators. Unlike a symbolic
trace of `torch.fx`, this takes all forwards that can be exported.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, TensorArgument
from torch.fx.node import Node
from torch.utils import _pytree as pytree

from search_spaces.evaluating import evaluating
from search_spaces.inputs import Inputs, split_inputs
from search_spaces.tracing.exported import exported

# How the names of tensors begin that a forward makes once and for all; the model has none of these.
CONSTANT = "_constant_"
# Operators that only act while training.
_DROPOUTS = frozenset({"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"})


class FunctionalDropout(nn.Module):
    """Stands in for a dropout that a forward calls as a function, so that the graph drops while training alone.

    Args:
        name: of the function in `torch`.
        p: probability of zero.
    """

    def __init__(self, name: str, p: float) -> None:
        super().__init__()
        self.name, self.p = name, p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The tensor with some of it zero while training, and itself otherwise."""
        dropped: torch.Tensor = getattr(torch, self.name)(x, self.p, self.training)
        return dropped


@dataclass
class ModuleGraph:
    """The graph of a network, with every call of a layer as one node.

    The metadata of its nodes: `val` is a fake tensor of the result, whose axis 0 has a symbolic size; `calls` are the
    calls of modules around the node, the outermost first.

    Attributes:
        graph: one placeholder, then all nodes in the order of execution.
        source: the placeholder.
        logits: the node of the logits; None while the graph is being made.
        targets: layers, parameters and buffers by the name by which the nodes call them.
    """

    graph: fx.Graph
    source: Node
    logits: Node | None = None
    targets: dict[str, nn.Module | torch.Tensor] = field(default_factory=dict)


def module_graph(model: nn.Module, inputs: Inputs) -> ModuleGraph:
    """Make the graph of a network.

    Args:
        model: any module that takes one tensor and returns logits; it is left as it is.
        inputs: one tensor of batch above 1, as a tuple or a mapping with its keyword.

    Raises:
        ValueError: `torch.export` cannot trace the module, it takes or returns several tensors, or it does something
            that a graph for training cannot hold.
    """
    program = exported(model, inputs, calls_of=_leaves(model), runnable=True)
    _check(program)
    return _Builder(model, program).build(_which_output(model, inputs))


def logits_of(output: Any) -> torch.Tensor:
    """The logits in the output of a model: the output itself, its `logits`, or its only tensor of floats.

    Raises:
        ValueError: the output has several tensors of floats, none of them called `logits`.
    """
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, Mapping) and isinstance(output.get("logits"), torch.Tensor):
        found: torch.Tensor = output["logits"]
        return found
    tensors = [
        leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
    ]
    if len(tensors) != 1:
        names = f": {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
        raise ValueError(
            f"the model must return one tensor of floats, or a mapping with logits, got {len(tensors)} in a "
            f"{type(output).__name__}{names}"
        )
    return tensors[0]


def _which_output(model: nn.Module, inputs: Inputs) -> int:
    """The position of the logits among all leaves of the model's output."""
    args, kwargs = split_inputs(inputs)
    with torch.no_grad(), evaluating(model):
        output = model(*args, **kwargs)
    logits = logits_of(output)
    return next(index for index, leaf in enumerate(pytree.tree_leaves(output)) if leaf is logits)


def _leaves(model: nn.Module) -> list[str]:
    """Paths of the layers: the modules without children."""
    return [path for path, part in model.named_modules() if path and next(part.children(), None) is None]


def _check(program: ExportedProgram) -> None:
    """Raise ValueError for a graph that changes buffers, or that has graphs inside."""
    changed = list(program.graph_signature.buffers_to_mutate.values())
    if changed:
        raise ValueError(f"the model must not change its buffers in evaluation mode, it changes {changed[0]}")
    for node in program.graph.nodes:
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            raise ValueError(
                f"the forward of {_owner(node)} must be free of blocks that the graph keeps apart, such as "
                f"torch.no_grad() or torch.autocast(), it has {node.target}"
            )


@dataclass
class _LayerCall:
    """One call of a layer: its path, arguments, and the node of the exported graph that is its result."""

    path: str
    call: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: str

    @property
    def silent(self) -> bool:
        """Whether the layer does nothing in evaluation mode, so that its result is one of its arguments."""
        return _Ref(self.result) in pytree.tree_leaves((self.args, self.kwargs))


@dataclass(frozen=True)
class _Ref:
    """A node of the exported graph, by its name."""

    name: str


class _Builder:
    """Walks an exported graph and makes the graph of calls."""

    def __init__(self, model: nn.Module, program: ExportedProgram) -> None:
        self._model = model
        self._program = program
        signature = program.graph_signature
        self._weights = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self._constants = dict(signature.inputs_to_lifted_tensor_constants)
        self._paths = {id(part): path for path, part in model.named_modules()}
        # Tied weights and shared layers have several names; the first is that of `named_parameters`.
        tensors = [*model.named_parameters(), *model.named_buffers()]
        self._names = {id(tensor): name for name, tensor in tensors}
        source = next(node for node in program.graph.nodes if node.name in signature.user_inputs)
        graph = fx.Graph()
        self._made = ModuleGraph(graph, graph.placeholder("x"))
        self._made.source.meta.update(val=source.meta["val"], calls=())
        self._values: dict[str, Any] = {source.name: self._made.source}
        self._vals = {node.name: node.meta.get("val") for node in program.graph.nodes}
        self._standing_in = 0

    def build(self, output: int) -> ModuleGraph:
        """The graph whose logits are the given leaf of the model's output."""
        calls = {each.call: each for each in self._layer_calls()}
        inner = {call: each for call, each in calls.items() if not each.silent}
        silent: dict[str, list[_LayerCall]] = {}
        for each in calls.values():
            if each.silent and not isinstance(self._model.get_submodule(each.path), nn.Identity | nn.Sequential):
                silent.setdefault(each.result, []).append(each)
        done: set[str] = set()
        for node in self._program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "call_function":
                layer = next((inner[call] for call in _calls(node) if call in inner), None)
                if layer is None:
                    self._values[node.name] = self._operator(node)
                elif layer.call not in done:
                    done.add(layer.call)
                    self._values[layer.result] = self._layer(layer, _calls(node))
            for layer in silent.pop(node.name, ()):
                self._values[node.name] = self._layer(layer, _calls_of_path(layer.call, _calls(node)))
        name = self._program.graph_signature.user_outputs[output]
        logits = self._values.get(str(name))
        assert isinstance(logits, Node)
        self._made.logits = logits
        _without_dead_code(self._made)
        return self._made

    def _placeholder(self, node: Node) -> None:
        """Parameters, buffers and constants; the inputs are known."""
        if node.name in self._weights:
            name = self._weights[node.name]
            path, _, attribute = name.rpartition(".")
            tensor = getattr(self._model.get_submodule(path), attribute)
            name = self._names.get(id(tensor), name)
        elif node.name in self._constants:
            name = f"{CONSTANT}{node.name}"
            tensor = self._program.constants[self._constants[node.name]]
        else:
            return
        made = self._made.graph.get_attr(name)
        self._made.targets[name] = tensor
        made.meta.update(val=node.meta["val"], calls=())
        self._values[node.name] = made

    def _layer_calls(self) -> Iterator[_LayerCall]:
        """All calls of layers whose arguments are tensors and plain values, and whose result is one tensor."""
        for entry in self._program.module_call_graph:
            signature = entry.signature
            if signature is None or not entry.fqn or len(signature.outputs) != 1:
                continue
            outputs, arguments = signature.outputs, [_argument(each) for each in signature.inputs]
            if not isinstance(outputs[0], TensorArgument) or _UNKNOWN in arguments:
                continue
            args, kwargs = pytree.tree_unflatten(arguments, signature.in_spec)
            yield _LayerCall(entry.fqn.partition("@")[0], entry.fqn, args, kwargs, outputs[0].name)

    def _layer(self, layer: _LayerCall, calls: tuple[str, ...]) -> Node:
        """The node of a call of a layer."""

        def given(value: Any) -> Any:
            return self._value(value.name) if isinstance(value, _Ref) else value

        part = self._model.get_submodule(layer.path)
        path = self._paths[id(part)]
        self._made.targets[path] = part
        args, kwargs = pytree.tree_map(given, (layer.args, layer.kwargs))
        node = self._made.graph.call_module(path, args, kwargs)
        node.meta.update(val=self._vals[layer.result], calls=calls)
        return node

    def _value(self, name: str) -> Any:
        """What stands for a node of the exported graph."""
        if name not in self._values:
            # The inside of a layer was replaced by one call, of which only the result is left.
            raise ValueError(f"layers must give their results by returning them, {name} comes from inside of one")
        return self._values[name]

    def _operator(self, node: Node) -> Any:
        """The node of an operator between layers."""
        schema = getattr(node.target, "_schema", None)
        name = str(schema.name) if schema else ""
        if name == "aten::batch_norm":
            raise ValueError(f"{_owner(node)} must have its batch norm as a layer, it calls one as a function")
        args = fx.map_arg(node.args, lambda each: self._value(each.name))
        kwargs = fx.map_arg(node.kwargs, lambda each: self._value(each.name))
        short = name.removeprefix("aten::")
        if short.removesuffix("_") in _DROPOUTS and node.args[2] is False:
            return self._dropout(node, short, args)
        assert callable(node.target)
        made = self._made.graph.call_function(node.target, args, kwargs)
        made.meta.update(val=node.meta.get("val"), calls=_calls(node))
        return made

    def _dropout(self, node: Node, name: str, args: Any) -> Any:
        """A layer in place of a dropout that is called as a function, so that it drops while training."""
        path = f"_dropout_{self._standing_in}"
        self._standing_in += 1
        layer = FunctionalDropout(name, args[1])
        layer.training = self._model.training
        self._made.targets[path] = layer
        made = self._made.graph.call_module(path, (args[0],))
        made.meta.update(val=node.meta["val"], calls=_calls(node))
        return made


_UNKNOWN = object()


def _argument(argument: Any) -> Any:
    if isinstance(argument, ConstantArgument):
        return argument.value
    return _Ref(argument.name) if hasattr(argument, "name") else _UNKNOWN


def _calls(node: Node) -> tuple[str, ...]:
    """The calls of modules around a node, the outermost first: paths, with `@` and a number after the first call."""
    stack = node.meta.get("nn_module_stack") or {}
    return tuple(call for key in stack if (call := str(key).removeprefix("L__self__")) != str(key) and call)


def _calls_of_path(call: str, around: tuple[str, ...]) -> tuple[str, ...]:
    """The calls around a layer that has no node of its own, as far as the calls around its argument tell."""
    path = call.partition("@")[0]
    return (*(each for each in around if path.startswith(f"{each.partition('@')[0]}.")), call)


def _owner(node: Node) -> str:
    """The module that calls an operator, for messages."""
    calls = _calls(node)
    return calls[-1].partition("@")[0] if calls else "the model"


def _without_dead_code(made: ModuleGraph) -> None:
    """Remove operators without users, but neither layers nor operators that change a tensor in place."""
    assert made.logits is not None
    for node in reversed(made.graph.nodes):
        schema = getattr(node.target, "_schema", None)
        changes = node.op == "call_module" or (schema is not None and schema.is_mutable)
        if not node.users and node is not made.logits and node.op != "placeholder" and not changes:
            made.graph.erase_node(node)
