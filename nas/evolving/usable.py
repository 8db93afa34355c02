"""Which layers can be of no use, found without training: one forward and backward on fixed inputs.

This test is not in the paper. Most random layers are constant, linear or overflow, and it spares the training of
these. What it asks of a layer:

- that it is finite, as are its gradients, at inputs of scale 1 and 10, while training and in evaluation mode;
- that its output depends on the row and on the place: a layer that gives one number for a whole channel keeps nothing
  of the shape of its input, and one that gives all rows the same keeps nothing at all. To keep nothing of the scale is
  what a normalization is for, and no fault;
- that its input has a gradient;
- that it is not linear: with an identity, or a product with v1, the network is one linear function.
"""

import torch
from torch import Tensor

from nas.evolving.verdict import Verdict
from search_spaces.graphs import GraphLayer, LayerGraph

__all__ = ["usable"]

_SHAPE, _GROUPS = (8, 16, 5, 5), 4
_SCALES = (1.0, 10.0)
_LEAST = {"places": 1e-3, "rows": 1e-3, "gradient": 1e-2, "curvature": 1e-3}
_TINY = 1e-3
_X = 0


def usable(graph: LayerGraph) -> Verdict:
    """Test a layer without training it; equal for layers of one key, in milliseconds.

    Args:
        graph: the layer.

    Returns:
        `measured` has what must not be 0: at least 1e-3, and 1e-2 for `gradient`. `places` and `rows` are the
        deviations of the output from its means over places and rows, relative to its norm. `gradient` is the share of
        the input's elements whose gradient is not tiny (above 1e-3 of that of an identity of this size). `curvature`
        is how far f(a + b) is from f(a) + f(b) - f(0), relative to the norm of all, at random v0 and v1.
    """
    if not _reaches_input(graph):
        return Verdict("usable", "the output does not depend on the input")
    for scale in _SCALES:
        reason = _not_finite(graph, scale)
        if reason:
            return Verdict("usable", reason)
    measured = {**_deviations(graph), "gradient": _gradient(graph), "curvature": _curvature(graph)}
    small = next((name for name, value in measured.items() if not value >= _LEAST[name]), None)
    return Verdict("usable" if small else None, _REASONS[small] if small else "", measured)


_REASONS = {
    "places": "the output is the same at all places of a channel",
    "rows": "the output is the same for all rows",
    "gradient": "the gradient of the input is 0",
    "curvature": "the output is linear in the input",
}


def _reaches_input(graph: LayerGraph) -> bool:
    return any(_X in node.inputs for node in graph.canonical().nodes)


def _inputs(scale: float = 1.0, number: int = 0) -> Tensor:
    """Fixed inputs whose channels have different means."""
    rng = torch.Generator().manual_seed(2004 + number)
    means = torch.randn(1, _SHAPE[1], 1, 1, generator=rng)
    return scale * (torch.randn(_SHAPE, generator=rng) + 0.3 * means)


def _weights() -> Tensor:
    return torch.randn(_SHAPE, generator=torch.Generator().manual_seed(2967))


def _layer(graph: LayerGraph) -> GraphLayer:
    return GraphLayer(graph, _SHAPE[1], _GROUPS, affine=False)


def _not_finite(graph: LayerGraph, scale: float) -> str:
    """What is not finite in the float32 of a training; empty if all is."""
    layer, x = _layer(graph).train(), _inputs(scale).requires_grad_()
    y = layer(x)
    if not torch.isfinite(y).all():
        return f"the output is not finite for inputs of scale {scale:g}"
    if y.requires_grad:
        (y * _weights()).sum().backward()
        gradients = [each.grad for each in (x, layer.v0, layer.v1) if each is not None and each.grad is not None]
        if not all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
            return f"the gradient is not finite for inputs of scale {scale:g}"
    with torch.no_grad():
        if not torch.isfinite(layer.eval()(x)).all():
            return f"the output in evaluation mode is not finite for inputs of scale {scale:g}"
    return ""


@torch.no_grad()
def _deviations(graph: LayerGraph) -> dict[str, float]:
    y = _layer(graph).double()(_inputs().double())
    axes = {"places": (2, 3), "rows": (0,)}
    return {name: _ratio((y - y.mean(axis, keepdim=True)).norm(), y.norm()) for name, axis in axes.items()}


def _gradient(graph: LayerGraph) -> float:
    x, weights = _inputs().double().requires_grad_(), _weights().double()
    y = _layer(graph).double()(x)
    if not y.requires_grad:
        return 0.0
    (gradient,) = torch.autograd.grad((y * weights).sum(), x, allow_unused=True)
    if gradient is None:
        return 0.0
    expected = weights.square().mean().sqrt() * y.detach().norm() / x.detach().norm()
    return float((gradient.abs() > _TINY * expected).double().mean())


@torch.no_grad()
def _curvature(graph: LayerGraph) -> float:
    layer = _layer(graph).double()
    rng = torch.Generator().manual_seed(4)
    for vector in (layer.v0, layer.v1):
        if vector is not None:
            vector.copy_(torch.randn(vector.shape, generator=rng) + 1)
    first, second = (_inputs(number=number).double() for number in (1, 2))
    parts = [layer(x) for x in (first, second, first + second, torch.zeros_like(first))]
    return _ratio((parts[0] + parts[1] - parts[2] - parts[3]).norm(), torch.stack(parts[:3]).norm())


def _ratio(value: Tensor, of: Tensor) -> float:
    return float(value / of) if of > 0 else 0.0
