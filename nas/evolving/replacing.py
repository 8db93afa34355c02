"""Puts a normalization-activation layer in the place of those that a network has (EvoNorm, arXiv 2004.02967)."""

import copy
import inspect
from collections.abc import Collection, Mapping

from torch import nn

from nas.evolving.pairs import Found, find, layers_only
from nas.evolving.substitutes import substitute
from search_spaces.graphs import LayerGraph, published
from search_spaces.inputs import Inputs, default_inputs
from search_spaces.pruning.module_graph import ModuleGraph, module_graph
from search_spaces.pruning.parts import part
from search_spaces.pruning.splitting import Section
from search_spaces.pruning.training import writes_into_its_input

__all__ = ["replace"]


def replace(
    model: nn.Module,
    layer: LayerGraph | str,
    example_inputs: Inputs | None = None,
    *,
    keep: Collection[str] = (),
    layer_norms: bool = False,
    groups: int = 32,
) -> nn.Module:
    """Replace the normalizations of a network and the activations behind them by a layer, on a copy.

    A pair is an `nn.BatchNorm2d` or `nn.GroupNorm` that is called once and used by one ReLU, ReLU6, SiLU, GELU or
    Hardswish, a layer or a function. The layer takes the place of both. Where a normalization has no activation behind
    it, its affine part remains, as in the paper; that of a batch norm then does what the batch norm does in evaluation
    mode. A network needs some training afterwards, unless the layer computes what was there.

    What means the same is kept: scale and shift where the layer normalizes before it activates (BN-ReLU, GN-ReLU and
    GN-SiLU of `search_spaces.graphs.published`), running averages of moments of the input, and the groups of group
    norms. All else begins as new.

    Left as they are: norms that are called several times or as functions, those of other types (and classes derived
    from these), those in front of other activations, and activations without a norm before them.

    Args:
        model: any network that takes one tensor and can be traced by `torch.export` for any number of rows.
        layer: the layer, or the name of a published one, e.g. "B0" or "S0".
        example_inputs: one tensor of batch 2 or more, in a tuple or by its keyword; None: from the configuration of
            a network of `transformers`.
        keep: paths of norms that are left as they are, or of modules around them.
        layer_norms: whether every `nn.LayerNorm` over the last axis of (N, L, C) is replaced, too, also where no
            activation follows it, as in transformers.
        groups: as of `GraphLayer`, for norms without groups of their own.

    Returns:
        A network with its own parameters, in the mode of the model. It is of the class of the model, unless an
        activation is a function or a layer for several places: these cannot be taken out of the model's own forward,
        so that the network is a graph of the model's layers under their names instead, which returns the logits alone.

    Raises:
        ValueError: the network has nothing to replace or cannot be traced, a path of `keep` is none of its modules, or
            the name of the layer is unknown.
    """
    graph = published(layer) if isinstance(layer, str) else layer
    inputs = _one_input(model, example_inputs)
    paths = {path for path, _ in model.named_modules(remove_duplicate=False)}
    unknown = next((path for path in keep if path not in paths), None)
    if unknown is not None:
        raise ValueError(f"keep must name modules of the network, it has no {unknown!r}")
    twin = copy.deepcopy(model)
    made = module_graph(twin, inputs)
    found = find(made, keep, layer_norms)
    if not any(each.activation is not None or isinstance(each.norm, nn.LayerNorm) for each in found):
        raise ValueError(
            "the network must have a BatchNorm2d or GroupNorm, called once, whose result goes to a ReLU, ReLU6, SiLU, "
            f"GELU or Hardswish alone, or layer norms with layer_norms=True; {type(model).__name__} has none to replace"
        )
    if layers_only(found, made):
        for each in found:
            if each.activation is not None:
                path = str(each.activation.target)
                _put(twin, path, nn.Identity().train(twin.get_submodule(path).training))
        result = twin
    else:
        result = _without_activations(twin, made, found, inputs)
    for each in found:
        _put(result, each.path, substitute(each, graph, groups))
    return result


def _one_input(model: nn.Module, example_inputs: Inputs | None) -> Inputs:
    if example_inputs is None:
        # Texts without padding need no mask.
        name, tensor = next(iter(default_inputs(model).items()))
        return {name: tensor}
    if len(example_inputs) != 1:
        raise ValueError(f"example_inputs must be one tensor in a tuple or mapping, got {len(example_inputs)}")
    return example_inputs


def _without_activations(model: nn.Module, made: ModuleGraph, found: Collection[Found], inputs: Inputs) -> nn.Module:
    """The network as a graph of its layers, in which the activations behind norms are left out."""
    # A forward that does something else while training would lose that in a graph.
    writes_into_its_input(model, [_module(model, made, inputs)], inputs)
    for each in found:
        if each.activation is not None:
            each.activation.replace_all_uses_with(each.node)
            if made.logits is each.activation:
                made.logits = each.node
            made.graph.erase_node(each.activation)
    return _module(model, made, inputs)


def _module(model: nn.Module, made: ModuleGraph, inputs: Inputs) -> nn.Module:
    """The whole graph as a module whose input has the name that it has in the model."""
    assert made.logits is not None
    nodes = tuple(node for node in made.graph.nodes if node.op != "placeholder")
    module = part(model, made, Section(nodes, made.source, made.logits))
    source = next(node for node in module.graph.nodes if node.op == "placeholder")
    source.target = next(iter(inputs)) if isinstance(inputs, Mapping) else _first_argument(model)
    module.recompile()
    return module


def _first_argument(model: nn.Module) -> str:
    first = next(iter(inspect.signature(model.forward).parameters.values()), None)
    named = first is not None and first.kind == inspect.Parameter.POSITIONAL_OR_KEYWORD
    return first.name if first is not None and named else "x"


def _put(model: nn.Module, path: str, new: nn.Module) -> None:
    """Put a module in the place of another one, under all names that it has."""
    old = model.get_submodule(path)
    for name, other in list(model.named_modules(remove_duplicate=False)):
        if other is old:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, new)
