"""What a layer computes on fixed inputs, in a few digits: layers of the same function have the same fingerprint."""

from hashlib import sha256

import numpy as np
import torch
from torch import Tensor

from search_spaces.arrays import FloatArray
from search_spaces.graphs.graph import LayerGraph
from search_spaces.graphs.layer import GraphLayer

# (shape, groups, factor of the inputs): no two index sets are the same elements, and large inputs saturate what can.
_INPUTS = (((4, 6, 3, 2), 2, 1.0), ((3, 4, 2, 2), 2, 6.0))
_BATCHES = 2
_VECTORS = 3
_EPS = 1e-12
_DIGITS = 20
_SMALLEST = 1e-9


def fingerprint(graph: LayerGraph) -> str:
    """32 hexadecimal digits that tell which layers compute the same function.

    The layer runs in float64 on random but fixed inputs of two shapes, with v0 and v1 as they begin and at two random
    values: two training batches, then one in evaluation mode with the mean of what those two left. The outputs are
    rounded to 20 bits, and numbers below 1e-9 to 0. Epsilon is 1e-12, so that layers that differ only in where it is
    added are the same. The affine after the graph is left out.

    Layers that are equal by algebra (x + 0, reordered sums, a mean of squares for `rms`) have one fingerprint, unless
    rounding errors grow above 1e-9, as where something divides by what is 0 but for rounding, or 2^-20 of the number.
    Different layers have different ones, unless they differ only where these inputs do not come: far from 0 (max(x,
    -100) is x), in channels, rows or places of a certain number, by less than the rounding, or in their gradient at
    single points. NaN and infinity are values like others, so all layers that give nothing but NaN are one.

    Args:
        graph: any graph.

    Returns:
        A text that is the same in every process; another version of PyTorch may give another one for layers that
        amplify rounding errors.
    """
    digest = sha256()
    rng = np.random.default_rng(2004_02967)
    for shape, groups, factor in _INPUTS:
        batches = [torch.from_numpy(factor * (rng.normal(size=shape) + 0.3)) for _ in range(_BATCHES + 1)]
        for turn in range(_VECTORS):
            vectors = [torch.from_numpy(rng.normal(size=shape[1])) for _ in range(2)]
            layer = GraphLayer(graph, shape[1], groups, affine=False, momentum=None, eps=_EPS).double()
            for output in _outputs(layer, batches, vectors if turn else None):
                digest.update(_rounded(output.numpy()).tobytes())
    return digest.hexdigest()[:32]


@torch.no_grad()
def _outputs(layer: GraphLayer, batches: list[Tensor], vectors: list[Tensor] | None) -> list[Tensor]:
    """The outputs for all batches but the last one while training, and for the last one in evaluation mode."""
    for own, value in zip((layer.v0, layer.v1), vectors or (), strict=False):
        if own is not None:
            own.copy_(value)
    outputs = [layer.train()(batch) for batch in batches[:-1]]
    return [*outputs, layer.eval()(batches[-1])]


def _rounded(values: FloatArray) -> FloatArray:
    """The values with a mantissa of 20 bits, 0 for tiny ones, and one kind of NaN and of 0."""
    # Constants of a layer may be exact halves of a last digit. A factor that no layer has keeps them away from those.
    with np.errstate(over="ignore"):
        mantissa, exponent = np.frexp(values * 1.2345678912345)
        rounded = np.ldexp(np.round(mantissa * 2**_DIGITS), exponent - _DIGITS)
    rounded[np.abs(values) < _SMALLEST] = 0.0
    rounded[np.isnan(values)] = np.nan
    return np.asarray(rounded + 0.0, dtype=np.float64)
