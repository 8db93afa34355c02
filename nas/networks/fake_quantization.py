"""Networks computed in float32 with the rounding of a policy, as nncf would quantize them and OpenVINO compute them.

A search needs the accuracy of many policies, and writing one with nncf takes seconds. Here the same arithmetic is done
on the module itself. What is followed of nncf 3 (`nncf.quantize` and `nncf.compress_weights`, OpenVINO backend):

- All layers are quantized together, and a policy takes what it needs of that: `hardware.grafting` does the same.
- `int8`: inputs with one scale for the tensor, from the means over rows of the least and largest values. With attention
  (`ModelType.TRANSFORMER`) they have a zero point, and SmoothQuant (arXiv 2211.10438) moves scales of input channels
  into the weights of linear layers, with one choice for all layers that read a tensor; without attention they are
  symmetric. Depthwise convolutions have a scale for each input channel. Weights are symmetric with a scale for each
  output channel, or have a zero point where the policy says so, and have one bit less in the first convolution. Then
  the bias makes up for the mean error of the weights (fast bias correction), where it is not changed by too much.
- `int8-weights`: a scale and a zero point for each output channel, and for each row of an embedding.
- `int4-weights`: a signed scale for each 64 weights of a row, or for the row where it is no multiple of 64, or for each
  output channel of a convolution.

What is not followed: OpenVINO also rounds the inputs of layers with small weights, by groups while it computes; what a
policy computes in bfloat16 is computed in float32 here; and processors without instructions for INT8 products get seven
bits for all weights.

`torch.fake_quantize_per_tensor_affine` is not used: it takes twenty times as long as multiplying, rounding and cutting
off. The scale of the inputs goes into the weights, so that inputs are whole numbers here as they are in OpenVINO.
"""

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from hardware.policy import Policy
from nas.networks.ranges import Ranges, calibrate, plain_convolution, version
from nas.networks.rounding import EPS, Bounds, Rounding, in_4_bits, in_8_bits, symmetric, with_zero_point
from search_spaces.quantization import LayerPrecision

__all__ = ["Arithmetic", "Quantized", "Ranges", "calibrate", "quantize", "shared_copy"]

_ALPHA, _QUANTILE, _MOST = 0.95, 0.1, 1e2
"""Of SmoothQuant: the share of the inputs in the scales, and the bounds of the scales."""
_LEAST = 1e-5
"""Least value of the statistics that SmoothQuant divides by."""
_THRESHOLD = 2.0
"""A bias is corrected unless any part of it would change by this many times itself."""


@dataclass(frozen=True)
class Quantized:
    """One layer in a precision.

    Attributes:
        weight: what takes the place of the layer's weight; of its shape.
        bias: what takes the place of its bias.
        rounding: what is done to its input before; None: nothing.
    """

    weight: Tensor
    bias: Tensor | None
    rounding: "Rounding | None" = None


@torch.no_grad()
def quantize(module: nn.Module, ranges: Ranges | None, policy: Policy) -> nn.Module:
    """A network that computes with the precisions of a policy.

    Args:
        module: the network in evaluation mode; it is not changed.
        ranges: of the same network, from `calibrate`; they are needed for `int8` only.
        policy: by the paths of layers in `module`. A layer in `int8` that did not run in the calibration has its
            weights rounded and not its inputs.

    Returns:
        A copy of the module's structure that shares all weights that the policy leaves in float32. It is called like
        the module; where the policy leaves all layers in float32, its outputs are bit-equal to the module's.

    Raises:
        ValueError: the policy names a path without a layer that can be quantized, an embedding in another precision
            than `int8-weights`, or `int8` without ranges.
    """
    in_int8 = policy.of("int8")
    if ranges is None and in_int8:
        raise ValueError(f"layers in int8 need the ranges of their inputs, got none for {in_int8[0]}")
    twin, arithmetic = shared_copy(module), Arithmetic(module, ranges or Ranges())
    for path, precision in policy.layers.items():
        layer = layer_at(twin, path)
        if precision == "float32":
            continue
        if isinstance(layer, nn.Embedding):
            if precision != "int8-weights":
                raise ValueError(f"the embedding {path} must be in int8-weights or float32, got {precision}")
            # A row is quantized by itself, so this may be done to the few rows that are read.
            layer.register_forward_hook(_rounded_rows)
            continue
        found = arithmetic.layer(path, precision, asymmetric=path in policy.asymmetric)
        layer._parameters["weight"] = nn.Parameter(found.weight, requires_grad=False)
        if found.bias is not None:
            layer._parameters["bias"] = nn.Parameter(found.bias, requires_grad=False)
    for paths in arithmetic.reading_together(in_int8):
        rounding = arithmetic.rounding(paths[0])
        # What runs several times reads another tensor each time.
        once = _Shared(rounding, len(paths)) if paths[0] not in arithmetic.ranges.repeated else rounding
        for path in paths:
            twin.get_submodule(path).register_forward_pre_hook(partial(_with_input, once), with_kwargs=True)
    return twin


def shared_copy(module: nn.Module) -> nn.Module:
    """A copy of the structure of a module with the same parameters and buffers."""
    tensors: dict[int, Any] = {id(value): value for value in [*module.parameters(), *module.buffers()]}
    return copy.deepcopy(module, tensors)


class Arithmetic:
    """How the layers of one network are quantized.

    Args:
        module: the network in evaluation mode.
        ranges: of what its layers read.
    """

    def __init__(self, module: nn.Module, ranges: Ranges) -> None:
        self._module, self.ranges = module, ranges
        self._smoothing: dict[int, Tensor | None] = {}

    def layer(self, path: str, precision: LayerPrecision, *, asymmetric: bool = False) -> Quantized:
        """A linear layer or convolution in a precision that is not float32.

        Args:
            path: of the layer.
            precision: `int8`, `int8-weights` or `int4-weights`.
            asymmetric: whether its weights in `int8` have a zero point.

        Raises:
            ValueError: there is no such layer.
        """
        layer = layer_at(self._module, path)
        weight, bias = _tensors(layer)
        axis = 1 if isinstance(layer, _ConvTransposeNd) else 0
        if precision == "int8":
            return self._in_int8(path, layer, axis, asymmetric)
        return Quantized(in_4_bits(weight, axis) if precision == "int4-weights" else in_8_bits(weight, axis), bias)

    def rounding(self, path: str) -> Rounding:
        """What is done to the input of a layer in `int8`, alike for all layers that read the same tensor."""
        return self._activation(path)[0]

    def reading_together(self, paths: Collection[str]) -> list[list[str]]:
        """The layers among `paths` that have ranges, those together that read the same tensor in the same way."""
        found: dict[tuple[int, bool], list[str]] = {}
        for path in paths:
            if path in self.ranges.of:
                key = self.ranges.of[path], self._smoothing_of(path) is not None
                found.setdefault(key, []).append(path)
        return list(found.values())

    def _in_int8(self, path: str, layer: nn.Module, axis: int, asymmetric: bool) -> Quantized:
        weight, bias = _tensors(layer)
        norm = self._norm(path, layer)
        if norm is not None:
            weight, bias = norm.into(weight, bias)
        smoothing = self._smoothing_of(path)
        if smoothing is not None:
            weight = weight * smoothing
        rounded = (
            with_zero_point(weight, axis) if asymmetric else symmetric(weight, axis, half=path in self.ranges.first)
        )
        scale: Tensor | float = 1.0
        rounding = None
        if path in self.ranges.of:
            if bias is not None:
                bias = _corrected(bias, self._shift(path, layer, weight, rounded, bias, norm, smoothing))
            rounding, scale = self._activation(path)
        if norm is not None:
            rounded, bias = norm.out_of(rounded, bias, layer)
        if isinstance(scale, Tensor):
            scale = scale.reshape(-1, *[1] * (rounded.ndim - 1))
        return Quantized(rounded * scale, bias, rounding)

    def _shift(
        self,
        path: str,
        layer: nn.Module,
        weight: Tensor,
        rounded: Tensor,
        bias: Tensor,
        norm: "_Norm | None",
        smoothing: Tensor | None,
    ) -> Tensor:
        """By how much rounded weights miss the mean of each output channel (channels,); 0 where it is not corrected."""
        read = self.ranges.reads[self.ranges.of[path]]
        if isinstance(layer, nn.Linear):
            return (weight - rounded) @ (read.mean if smoothing is None else read.mean / smoothing)
        if path not in self.ranges.outputs or not plain_convolution(layer):
            return torch.zeros_like(bias)
        # At the edges padding counts, so what goes through is a whole image of the means.
        image = read.mean.reshape(1, -1, *[1] * (weight.ndim - 2)).expand(read.shape)
        there: Tensor = layer._conv_forward(image, rounded, bias)  # type: ignore[operator]
        mean = self.ranges.outputs[path]
        return (mean if norm is None else mean * norm.gain + norm.offset) - there.flatten(2).mean(2)[0]

    def _norm(self, path: str, layer: nn.Module) -> "_Norm | None":
        """The batch norm behind a convolution, which is part of it in a file."""
        name = self.ranges.norms.get(path)
        norm = self._module.get_submodule(name) if name is not None else None
        if not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.running_var is None:
            return None
        if isinstance(layer, _ConvTransposeNd):
            return None
        gain = (norm.running_var + norm.eps).rsqrt()
        if norm.weight is not None:
            gain = gain * norm.weight
        offset = -norm.running_mean * gain
        return _Norm(gain, offset if norm.bias is None else offset + norm.bias)

    def _smoothing_of(self, path: str) -> Tensor | None:
        """The scales (channels,) by which SmoothQuant divides the input of a layer; None: it stays as it is."""
        index = self.ranges.of.get(path)
        if index is None or not self.ranges.attention or not isinstance(self._module.get_submodule(path), nn.Linear):
            return None
        if index not in self._smoothing:
            self._smoothing[index] = self._found_smoothing(index)
        return self._smoothing[index]

    def _found_smoothing(self, index: int) -> Tensor | None:
        read = self.ranges.reads[index]
        inputs = torch.maximum(read.low.abs(), read.high.abs()).amax(0).clamp_min(_LEAST)
        best, best_ratio = None, 0.0
        for path, other in self.ranges.of.items():
            layer = self._module.get_submodule(path)
            if other != index or path in self.ranges.repeated or not isinstance(layer, nn.Linear):
                continue
            weights = layer.weight.detach().abs().amax(0).clamp_min(_LEAST)
            scales = inputs**_ALPHA / (weights ** (1 - _ALPHA) + EPS)
            scales = scales.clamp(float(torch.quantile(scales, _QUANTILE)), _MOST)
            ratio = float(scales.min() / (scales.max() + EPS))
            if ratio > best_ratio:
                best, best_ratio = scales, ratio
        return best

    def _activation(self, path: str) -> tuple[Rounding, Tensor | float]:
        """The rounding of a layer's input, and the scale of its numbers: one, or one for each channel (channels,)."""
        read, smoothing = self.ranges.reads[self.ranges.of[path]], self._smoothing_of(path)
        low, high = read.low, read.high
        if smoothing is not None:
            low, high = low / smoothing, high / smoothing
        if all(_depthwise(self._module.get_submodule(other)) for other in self.ranges.readers(path)):
            bounds = Bounds(low.amin(0), high.amax(0), torch.maximum(low.abs(), high.abs()).amax(0))
        else:
            largest = torch.maximum(low.abs(), high.abs()).amax(1).mean()
            bounds = Bounds(low.amin(1).mean(), high.amax(1).mean(), largest)
        scale, least, most = bounds.asymmetric if self.ranges.attention else bounds.symmetric
        factor = 1 / scale if smoothing is None else 1 / (scale * smoothing)
        if scale.ndim:
            ones = [1] * (len(read.shape) - 2)
            return Rounding(factor.reshape(-1, *ones), least.reshape(-1, *ones), most.reshape(-1, *ones)), scale
        return Rounding(factor if factor.ndim else float(factor), float(least), float(most)), float(scale)


@dataclass(frozen=True)
class _Norm:
    """What a batch norm does to each channel: times `gain`, plus `offset`, both (channels,)."""

    gain: Tensor
    offset: Tensor

    def into(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Weight and bias of the convolution with the norm in it."""
        gains = self.gain.reshape(-1, *[1] * (weight.ndim - 1))
        return weight * gains, self.offset if bias is None else bias * self.gain + self.offset

    def out_of(self, weight: Tensor, bias: Tensor | None, layer: nn.Module) -> tuple[Tensor, Tensor | None]:
        """Weight and bias that give the same with the norm behind; those of `layer` where the gain is 0."""
        before, own = _tensors(layer)
        gains = self.gain.reshape(-1, *[1] * (weight.ndim - 1))
        weight = torch.where(gains == 0, before, weight / gains)
        if bias is not None:
            bias = torch.where(self.gain == 0, 0.0 if own is None else own, (bias - self.offset) / self.gain)
        return weight, bias


def _corrected(bias: Tensor, shift: Tensor) -> Tensor:
    """A bias moved by `shift`, unless that is too much for any part of it."""
    if bool((bias == 0).any()) or float((shift / bias).abs().max()) >= _THRESHOLD:
        return bias
    return bias + shift


def _depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, _ConvNd) and layer.groups > 1 and layer.groups == layer.in_channels


def layer_at(module: nn.Module, path: str) -> nn.Module:
    """The layer at a path; raises ValueError unless its weights can be quantized."""
    try:
        found: nn.Module | None = module.get_submodule(path)
    except AttributeError:
        found = None
    if not isinstance(found, nn.Linear | _ConvNd | nn.Embedding) or found._parameters.get("weight") is None:
        raise ValueError(f"a policy must name linear layers, convolutions and embeddings, {path} is none of them")
    return found


def _tensors(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    weight = layer._parameters["weight"]
    assert weight is not None
    return weight, layer._parameters.get("bias")


def _rounded_rows(_: nn.Module, args: tuple[Any, ...], rows: Tensor) -> Tensor:
    return in_8_bits(rows.reshape(-1, rows.shape[-1]), 0).reshape(rows.shape)


class _Shared:
    """The rounded form of the tensor that layers have read last, kept until all of them have read it."""

    def __init__(self, rounding: Rounding, readers: int) -> None:
        self._rounding, self._readers = rounding, readers
        self._last: tuple[Tensor, int, Tensor] | None = None
        self._left = 0

    def __call__(self, value: Tensor) -> Tensor:
        if self._readers == 1:
            return self._rounding(value)
        if self._last is None or self._last[0] is not value or self._last[1] != version(value):
            self._last, self._left = (value, version(value), self._rounding(value)), self._readers
        rounded = self._last[2]
        self._left -= 1
        if not self._left:
            self._last = None
        return rounded


def _with_input(
    change: Callable[[Tensor], Tensor], _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if args:
        return (change(args[0]), *args[1:]), kwargs
    return args, {**kwargs, "input": change(kwargs["input"])}
