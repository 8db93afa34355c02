"""The layer that takes the place of a normalization, with those of its numbers that mean the same there."""

import torch
from torch import Tensor, nn

from nas.evolving.layer_makers import Affine
from nas.evolving.pairs import Found, Norm
from search_spaces.graphs import GraphLayer, LayerGraph, published
from search_spaces.graphs.operations import INITIAL

__all__ = ["substitute"]

_NORMALIZED_FIRST = frozenset(published(name).key for name in ("BN-ReLU", "GN-ReLU", "GN-SiLU"))
"""Graphs with v1 and v0 between the normalization and the activation, where norms have their scale and shift."""
_X = INITIAL.index("x")


def substitute(found: Found, graph: LayerGraph, groups: int) -> nn.Module:
    """The new layer in place of a normalization, on its device, of its type and in its mode.

    Args:
        found: the normalization; what has an activation, and every layer norm, becomes a `GraphLayer`, all else an
            `Affine`.
        graph: the new layer.
        groups: for norms that have no groups of their own.
    """
    norm = found.norm
    whole = found.activation is not None or isinstance(norm, nn.LayerNorm)
    new = _graph_layer(norm, graph, groups) if whole else _affine(norm)
    like = next((tensor for tensor in (*norm.parameters(), *norm.buffers()) if tensor.is_floating_point()), None)
    if like is not None:
        new.to(like.device, like.dtype)
    return new.train(norm.training)


def _channels(norm: Norm) -> int:
    if isinstance(norm, nn.LayerNorm):
        return int(norm.normalized_shape[0])
    return norm.num_channels if isinstance(norm, nn.GroupNorm) else norm.num_features


@torch.no_grad()
def _graph_layer(norm: Norm, graph: LayerGraph, groups: int) -> GraphLayer:
    before = graph.key in _NORMALIZED_FIRST
    new = GraphLayer(
        graph,
        _channels(norm),
        norm.num_groups if isinstance(norm, nn.GroupNorm) else groups,
        affine=not before,
        channel_axis=-1 if isinstance(norm, nn.LayerNorm) else 1,
        momentum=norm.momentum if isinstance(norm, nn.BatchNorm2d) else 0.1,
        eps=norm.eps if before else 1e-5,
    )
    if before:
        _fill(new.v1, norm.weight)
        _fill(new.v0, norm.bias)
    if isinstance(norm, nn.BatchNorm2d):
        _carry_averages(norm, new)
    return new


def _carry_averages(norm: nn.BatchNorm2d, new: GraphLayer) -> None:
    """Averages of moments of x itself are those of the batch norm, whatever the layer makes of them."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        return
    known = {"mean": mean, "std": variance, "rms": variance + mean * mean}
    for index, node in enumerate(new.graph.canonical().nodes, len(INITIAL)):
        if node.over == "batch" and node.inputs == (_X,):
            getattr(new, f"running_{node.op}_{index}").copy_(known[node.op])
    if norm.num_batches_tracked is not None and hasattr(new, "num_batches_tracked"):
        new.num_batches_tracked.copy_(norm.num_batches_tracked)


@torch.no_grad()
def _affine(norm: Norm) -> Affine:
    """The affine part; that of a batch norm does what the batch norm does in evaluation mode."""
    new = Affine(_channels(norm))
    _fill(new.weight, norm.weight)
    _fill(new.bias, norm.bias)
    if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None:
        new.weight.mul_((norm.running_var.to(new.weight) + norm.eps).rsqrt())
        new.bias.sub_(norm.running_mean.to(new.bias) * new.weight)
    return new


def _fill(parameter: Tensor | None, value: Tensor | None) -> None:
    if parameter is not None and value is not None:
        parameter.copy_(value)
