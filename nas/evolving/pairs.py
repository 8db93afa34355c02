"""Where a network normalizes and activates, read from the graph of its calls of layers."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import nn
from torch.fx.node import Node

from search_spaces.pruning.module_graph import ModuleGraph

__all__ = ["Found", "Norm", "find", "layers_only"]

Norm = nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm

_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish)
_FUNCTIONS = frozenset({"relu", "relu6", "silu", "gelu", "hardswish"})
# A norm before one of these is left as it is: it is no pair, and neither is it one without an activation.
_OTHER_MODULES = ("torch.nn.modules.activation", "transformers.activations")
_OTHER_FUNCTIONS = frozenset(
    {"elu", "hardsigmoid", "hardtanh", "leaky_relu", "mish", "prelu", "selu", "sigmoid", "softplus", "tanh"}
)


@dataclass(frozen=True)
class Found:
    """A normalization in the graph of a network.

    Attributes:
        path: of the layer.
        norm: the layer.
        node: its call.
        activation: the call of the activation behind it, a layer or a function; None: there is none.
    """

    path: str
    norm: Norm
    node: Node
    activation: Node | None


def find(made: ModuleGraph, keep: Collection[str], layer_norms: bool) -> list[Found]:
    """The normalizations that can be replaced, in the order of execution: those that are called once.

    Left out are those before an activation of another kind, such as a leaky ReLU.

    Args:
        made: the graph of the network.
        keep: paths of layers that are left as they are, or of modules around them.
        layer_norms: whether layer norms over the last axis count, too.
    """
    calls = Counter(node.target for node in made.graph.nodes if node.op == "call_module")
    found = []
    for node in made.graph.nodes:
        if node.op != "call_module" or calls[node.target] > 1 or _kept(str(node.target), keep):
            continue
        norm = made.targets[str(node.target)]
        if not isinstance(norm, Norm) or not _replaceable(norm, node, layer_norms):
            continue
        user = _only_user(node, made)
        activates = user is not None and _is(user, made, _ACTIVATIONS, _FUNCTIONS)
        if activates or isinstance(norm, nn.LayerNorm) or user is None or not _activates_otherwise(user, made):
            found.append(Found(str(node.target), norm, node, user if activates else None))
    return found


def layers_only(found: Collection[Found], made: ModuleGraph) -> bool:
    """Whether all activations to be taken out are layers that are called nowhere else.

    Then an identity may stand in their place. Others, functions or one layer for many places, are only in the code of
    a forward, so that they can be left out of a graph alone.
    """
    calls = Counter(node.target for node in made.graph.nodes if node.op == "call_module")
    taken_out = (each.activation for each in found if each.activation is not None)
    return all(node.op == "call_module" and calls[node.target] == 1 for node in taken_out)


def _kept(path: str, keep: Collection[str]) -> bool:
    return any(path == each or path.startswith(f"{each}.") for each in keep)


def _replaceable(norm: Norm, node: Node, layer_norms: bool) -> bool:
    value = node.meta.get("val")
    rank = value.ndim if isinstance(value, torch.Tensor) else 0
    # Of these very types: what derives from them may do more.
    if type(norm) is nn.LayerNorm:
        return layer_norms and len(norm.normalized_shape) == 1 and rank >= 3
    return (type(norm) is nn.GroupNorm and rank >= 3) or type(norm) is nn.BatchNorm2d


def _only_user(node: Node, made: ModuleGraph) -> Node | None:
    """What alone uses the result of a node, or changes it in place before others use it."""
    if node is made.logits or not node.users:
        return None
    first = next(iter(node.users))
    return first if len(node.users) == 1 or _in_place(first, made) else None


def _in_place(node: Node, made: ModuleGraph) -> bool:
    if node.op == "call_module":
        return bool(getattr(made.targets[str(node.target)], "inplace", False))
    return _name(node).endswith("_")


def _name(node: Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return str(schema.name).removeprefix("aten::") if schema else ""


def _is(node: Node, made: ModuleGraph, layers: tuple[type[nn.Module], ...], functions: Collection[str]) -> bool:
    if node.op == "call_module":
        return type(made.targets[str(node.target)]) in layers
    name = _name(node).removesuffix("_")
    # This is what a functional ReLU6 is in a graph.
    return name in functions or (name == "hardtanh" and tuple(node.args[1:3]) == (0.0, 6.0))


def _activates_otherwise(node: Node, made: ModuleGraph) -> bool:
    if node.op == "call_module":
        return type(made.targets[str(node.target)]).__module__ in _OTHER_MODULES
    return _name(node).removesuffix("_") in _OTHER_FUNCTIONS
