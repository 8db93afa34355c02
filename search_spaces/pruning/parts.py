"""Makes runnable modules of sections of a network's graph. Their layers and parameters are those of the network."""

from typing import Any, cast

import torch
from torch import fx, nn
from torch.fx.node import Node

from search_spaces.pruning.module_graph import CONSTANT, FunctionalDropout, ModuleGraph
from search_spaces.pruning.splitting import Section


class Part(fx.GraphModule):
    """A section of a network as a module, which can be copied like any other."""

    def __copy__(self) -> "Part":
        # `GraphModule` would write the code of its forward anew.
        twin = object.__new__(type(self))
        twin.__dict__ = dict(self.__dict__)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> "Part":
        twin = cast("Part", super().__deepcopy__(memo))
        # `GraphModule` makes the modules around its layers anew.
        for path, inner in twin.named_modules():
            original = self.get_submodule(path)
            inner.training = original.training
            inner._non_persistent_buffers_set = set(original._non_persistent_buffers_set)
        return twin


def part(model: nn.Module, made: ModuleGraph, section: Section, *, own_input: bool = False) -> Part:
    """The module of a section: from the features before it to those behind it.

    Args:
        model: the whole network.
        made: its graph.
        section: its nodes, from the features before them to those behind them.
        own_input: whether to copy the features first, because the section writes into them.
    """
    graph = fx.Graph()
    start = graph.placeholder("x")
    values = {section.source: graph.call_function(torch.clone, (start,)) if own_input else start}

    def value(node: Node) -> Node:
        # Weights, constants and the number of rows are copied into every section that needs them.
        return values[node] if node in values else copied(node)

    def copied(node: Node) -> Node:
        if node.target is torch.ops.aten.sym_size.int and node not in inside:
            values[node] = graph.call_function(torch.ops.aten.sym_size.int, (start, 0))
        else:
            values[node] = graph.node_copy(node, value)
            values[node].meta = {}
        return values[node]

    inside = set(section.nodes)
    for node in section.nodes:
        copied(node)
    graph.output(values[section.result])
    return _module(model, made, graph)


def _module(model: nn.Module, made: ModuleGraph, graph: fx.Graph) -> Part:
    # To own a buffer is to save it, to a `GraphModule`; what the model does not save, the part does not either.
    unsaved = {id(owner): set(owner._non_persistent_buffers_set) for owner in model.modules()}
    names = [str(node.target) for node in graph.nodes if node.op in ("get_attr", "call_module")]
    found = Part({name: made.targets[name] for name in names}, graph, "Part")
    layers = {id(layer) for layer in model.modules()}
    for path, inner in found.named_modules():
        if isinstance(inner, FunctionalDropout):
            continue
        if id(inner) not in layers:
            inner.training = model.training
        whole = unsaved[id(model.get_submodule(path))]
        inner._non_persistent_buffers_set = {
            name for name in inner._buffers if name in whole or name.startswith(CONSTANT)
        }
    follow_mode(found, model)
    return found


def follow_mode(part: nn.Module, model: nn.Module) -> None:
    """Give what stands in for functions of the model the model's mode; layers are the model's own and have it."""
    for layer in part.modules():
        if isinstance(layer, FunctionalDropout):
            layer.training = model.training
