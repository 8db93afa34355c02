"""Networks computed in float32 with the rounding of a policy, as nncf would quantize them and OpenVINO compute them.

A search needs the accuracy of many policies, and writing one with nncf takes seconds. Here the same arithmetic is done
on the module itself. What is followed of nncf 3 (`nncf.quantize` and `nncf.compress_weights`, OpenVINO backend):

- `int8`: inputs with one scale for the tensor, from the means over rows of the least and largest values. With attention
  (`ModelType.TRANSFORMER`) they have a zero point, and SmoothQuant (arXiv 2211.10438) moves scales of input channels
  into the weights of linear layers, with one choice for all layers that read a tensor; without attention they are
  symmetric. Depthwise convolutions have a scale for each input channel. Weights are symmetric with a scale for each
  output channel, or have a zero point where the policy says so, and have one bit less in the first convolutions. Then
  the bias makes up for the mean error of the weights (fast bias correction), where it is not changed by too much.
- `int8-weights`: a scale and a zero point for each output channel, and for each row of an embedding.
- `int4-weights`: a signed scale for each 64 weights of a row, or for the row where it is no multiple of 64;
  convolutions take `int8-weights`, as nncf does.

What is not followed: OpenVINO also rounds the inputs of layers with small weights, by groups while it computes; and
what a policy computes in bfloat16 is computed in float32 here.

`torch.fake_quantize_per_tensor_affine` is not used: it takes twenty times as long as multiplying, rounding and cutting
off. The scale of the inputs goes into the weights, so that inputs are whole numbers here as they are in OpenVINO.
"""

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from hardware.policy import LayerPrecision, Policy
from nas.networks.ranges import INPUT, Ranges, calibrate, plain_convolution, version

__all__ = ["Arithmetic", "Quantized", "Ranges", "calibrate", "quantize", "shared_copy"]

_ALPHA, _QUANTILE, _MOST = 0.95, 0.1, 1e2
"""Of SmoothQuant: the share of the inputs in the scales, and the bounds of the scales."""
_LEAST = 1e-5
"""Least value of the statistics that SmoothQuant divides by."""
_EPS = torch.finfo(torch.float32).eps
_THRESHOLD = 2.0
"""A bias is corrected unless any part of it would change by this many times itself."""
_GROUP = 64
"""Weights with one scale in 4 bits."""


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


@dataclass(frozen=True)
class Rounding:
    """Turns inputs into whole numbers: round(input * factor), cut off at `low` and `high`.

    Attributes:
        factor: a number, or a tensor that fits the input's channels.
        low, high: bounds, numbers or tensors like `factor`.
    """

    factor: Tensor | float
    low: Tensor | float
    high: Tensor | float

    def __call__(self, value: Tensor) -> Tensor:
        """The whole numbers as float32, in a new tensor."""
        return (value * self.factor).round_().clamp_(self.low, self.high)  # type: ignore[arg-type]


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
    twin = shared_copy(module)
    arithmetic = Arithmetic(module, ranges or Ranges(), policy.of("int8-weights", "int4-weights"))
    if ranges is None and policy.of("int8"):
        raise ValueError(f"layers in int8 need the ranges of their inputs, got none for {policy.of('int8')[0]}")
    for precision in ("int8-weights", "int4-weights"):
        for path in policy.of(precision):
            layer = _layer(twin, path)
            if isinstance(layer, nn.Embedding):
                if precision != "int8-weights":
                    raise ValueError(f"the embedding {path} must be in int8-weights or float32, got {precision}")
                # A row is quantized by itself, so this may be done to the few rows that are read.
                layer.register_forward_hook(_rounded_rows)
            else:
                replace_tensors(layer, arithmetic.layer(path, precision))
    in_int8 = policy.of("int8")
    half = arithmetic.first_convolutions(in_int8, policy.asymmetric)
    by_tensor: dict[int, list[str]] = {}
    for path in in_int8:
        if path in arithmetic.ranges.of:
            by_tensor.setdefault(arithmetic.ranges.of[path], []).append(path)
    for path in in_int8:
        layer = _layer(twin, path)
        index = arithmetic.ranges.of.get(path)
        together = by_tensor[index] if index is not None else [path]
        found = arithmetic.layer(
            path, "int8", asymmetric=path in policy.asymmetric, half=path in half, together=together
        )
        replace_tensors(layer, found)
    for index, paths in by_tensor.items():
        rounding = arithmetic.rounding(index, paths)
        hook = partial(_round_once, _Shared(rounding, len(paths)))
        if any(path in arithmetic.ranges.repeated for path in paths):
            hook = partial(_round_always, rounding)
        for path in paths:
            twin.get_submodule(path).register_forward_pre_hook(hook, with_kwargs=True)
    return twin


def shared_copy(module: nn.Module) -> nn.Module:
    """A copy of the structure of a module with the same parameters and buffers."""
    tensors: dict[int, Any] = {id(value): value for value in [*module.parameters(), *module.buffers()]}
    return copy.deepcopy(module, tensors)


def replace_tensors(layer: nn.Module, found: Quantized) -> None:
    """Give a layer of a copy the weight and bias of its precision."""
    layer._parameters["weight"] = nn.Parameter(found.weight, requires_grad=False)
    if found.bias is not None:
        layer._parameters["bias"] = nn.Parameter(found.bias, requires_grad=False)


class Arithmetic:
    """How the layers of one network are quantized.

    Args:
        module: the network in evaluation mode.
        ranges: of what its layers read.
        small: the layers whose weights alone are small. Theirs are made first, so SmoothQuant leaves them out.
    """

    def __init__(self, module: nn.Module, ranges: Ranges, small: Collection[str] = ()) -> None:
        self._module, self.ranges, self._small = module, ranges, frozenset(small)
        self._smoothing: dict[int, Tensor | None] = {}

    def layer(
        self,
        path: str,
        precision: LayerPrecision,
        *,
        asymmetric: bool = False,
        half: bool = False,
        together: Sequence[str] = (),
    ) -> Quantized:
        """A linear layer or convolution in a precision that is not float32.

        Args:
            path: of the layer.
            precision: `int8`, `int8-weights` or `int4-weights`.
            asymmetric: whether its weights in `int8` have a zero point.
            half: whether its weights in `int8` use half of the numbers, see `first_convolutions`.
            together: the layers in `int8` that read the same tensor; none: this layer alone.

        Raises:
            ValueError: there is no such layer.
        """
        layer = _layer(self._module, path)
        weight, bias = _tensors(layer)
        if precision != "int8":
            if precision == "int4-weights" and isinstance(layer, nn.Linear):
                return Quantized(_in_4_bits(weight), bias)
            return Quantized(_with_zero_point(weight, _axis(layer)), bias)
        gain, offset = self._norm(path, layer)
        index = self.ranges.of.get(path)
        smoothing = self._smoothing_of(index) if index is not None else None
        if smoothing is not None and isinstance(layer, nn.Linear):
            weight = weight * smoothing
        axis = _axis(layer)
        rounded = _tuned(weight, axis) if asymmetric else _symmetric(weight, axis, gain, half)
        if index is None:
            return Quantized(rounded, bias)
        mean = self.ranges.reads[index].mean
        if isinstance(layer, nn.Linear):
            if bias is not None:
                mean = mean if smoothing is None else mean / smoothing
                bias = _corrected(bias, (weight - rounded) @ mean, bias)
        elif plain_convolution(layer) and path in self.ranges.outputs and (bias is not None or offset is not None):
            blob = mean.reshape(1, -1, *[1] * (weight.ndim - 2)).expand(self.ranges.reads[index].shape)
            there = layer._conv_forward(blob, rounded, bias)  # type: ignore[operator]
            shift = self.ranges.outputs[path] - there.flatten(2).mean(2)[0]
            own = torch.zeros_like(shift) if bias is None else bias
            # The bias in the file is the one behind the batch norm, and so is the shift of it.
            there_bias = own if gain is None or offset is None else own * gain + offset
            bias = _corrected(own, shift, there_bias, gain)
        rounding, scale = self._activation(index, together or [path])
        if isinstance(scale, Tensor):
            scale = scale.reshape(-1, *[1] * (rounded.ndim - 1))
        return Quantized(rounded * scale, bias, rounding)

    def rounding(self, index: int, together: Sequence[str]) -> Rounding:
        """What is done to a tensor (by its index in the ranges) before the layers in `int8` that read it."""
        return self._activation(index, together)[0]

    def first_convolutions(self, in_int8: Sequence[str], asymmetric: frozenset[str] = frozenset()) -> frozenset[str]:
        """The convolutions in `int8` with a way from the network's inputs that passes no other one in `int8`.

        nncf uses half of the numbers for their weights, so that sums of products do not overflow on old processors.
        Weights with a zero point always use all of them.
        """
        chosen = set(in_int8)
        reached, found = {INPUT}, set()
        for path, sources in self.ranges.sources.items():
            if sources & reached:
                if path in chosen:
                    found.add(path)
                else:
                    reached.add(path)
        return frozenset(found - asymmetric)

    def _norm(self, path: str, layer: nn.Module) -> tuple[Tensor | None, Tensor | None]:
        """Gain and offset (channels,) of the batch norm behind a convolution, which is part of it in a file."""
        name = self.ranges.norms.get(path)
        norm = self._module.get_submodule(name) if name is not None else None
        if not isinstance(norm, _BatchNorm) or norm.running_mean is None or norm.running_var is None:
            return None, None
        gain = (norm.running_var + norm.eps).rsqrt()
        if norm.weight is not None:
            gain = gain * norm.weight
        offset = -norm.running_mean * gain
        return gain, offset if norm.bias is None else offset + norm.bias

    def _smoothing_of(self, index: int) -> Tensor | None:
        """The scales (channels,) by which SmoothQuant divides a tensor; None: it stays as it is."""
        if not self.ranges.attention:
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
            if other != index or path in self._small | self.ranges.repeated or not isinstance(layer, nn.Linear):
                continue
            weights = layer.weight.detach().abs().amax(0).clamp_min(_LEAST)
            scales = inputs**_ALPHA / (weights ** (1 - _ALPHA) + _EPS)
            scales = scales.clamp(float(torch.quantile(scales, _QUANTILE)), _MOST)
            ratio = float(scales.min() / (scales.max() + _EPS))
            if ratio > best_ratio:
                best, best_ratio = scales, ratio
        return best

    def _activation(self, index: int, together: Sequence[str]) -> tuple[Rounding, Tensor | float]:
        """The rounding of a tensor, and the scale of its numbers: one, or one for each channel (channels,)."""
        layers = [self._module.get_submodule(path) for path in together]
        linear = isinstance(layers[0], nn.Linear)
        read, smoothing = self.ranges.reads[index], self._smoothing_of(index) if linear else None
        low, high = read.low, read.high
        if smoothing is not None:
            low, high = low / smoothing, high / smoothing
        if all(_depthwise(layer) for layer in layers):
            bounds = _Bounds(low.amin(0), high.amax(0), torch.maximum(low.abs(), high.abs()).amax(0))
        else:
            largest = torch.maximum(low.abs(), high.abs()).amax(1).mean()
            bounds = _Bounds(low.amin(1).mean(), high.amax(1).mean(), largest)
        scale, least, most = bounds.asymmetric if self.ranges.attention else bounds.symmetric
        factor = 1 / scale if smoothing is None else 1 / (scale * smoothing)
        if scale.ndim:
            ones = [1] * (len(read.shape) - 2)
            return Rounding(factor.reshape(-1, *ones), least.reshape(-1, *ones), most.reshape(-1, *ones)), scale
        return Rounding(factor if factor.ndim else float(factor), float(least), float(most)), float(scale)


@dataclass(frozen=True)
class _Bounds:
    """Bounds of inputs: least, largest and largest absolute value, numbers or (channels,)."""

    low: Tensor
    high: Tensor
    largest: Tensor

    @cached_property
    def symmetric(self) -> tuple[Tensor, Tensor, Tensor]:
        """Scale, least and largest whole number of inputs whose zero is in the middle, or at the end of the range."""
        signed = bool((self.low < 0).any())
        scale = _floored(self.largest) / (127 if signed else 255)
        zeros = torch.zeros_like(scale)
        return scale, zeros - (128 if signed else 0), zeros + (127 if signed else 255)

    @cached_property
    def asymmetric(self) -> tuple[Tensor, Tensor, Tensor]:
        """Scale, least and largest whole number of inputs whose zero is a whole number anywhere in the range."""
        scale, zero = _asymmetric(self.low, self.high)
        return scale, -zero, 255 - zero


def _asymmetric(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and zero point in 8 bits; the range is widened so that its zero is a whole number (`tune_range`)."""
    narrow = torch.where(high - low > 8e-4, 0.0, 8e-4)
    low, high = (low - narrow).clamp_max(0), (high + narrow).clamp_min(0)
    zero = (-low * 255 / (high - low)).round()
    # One end stays and the other moves outwards.
    scale = torch.maximum(torch.where(zero < 255, high / (255 - zero), 0), torch.where(zero > 0, -low / zero, 0))
    return scale, zero


def _floored(largest: Tensor) -> Tensor:
    """Largest absolute values of channels, those of dead ones lifted (`fix_zero_filters_symmetric`)."""
    return largest.maximum((largest.max() * 0.01).clamp_min(8e-5))


def _symmetric(weight: Tensor, axis: int, gain: Tensor | None, half: bool) -> Tensor:
    """Weights rounded to -127 .. 127 of a scale for each index of `axis`, or to -64 .. 64 of a doubled one."""
    others = [dim for dim in range(weight.ndim) if dim != axis]
    largest = weight.abs().amax(others, keepdim=True)
    if gain is not None:
        # The file has the weights behind the batch norm, with its gains; that only matters for dead channels.
        gains = gain.abs().reshape(largest.shape).clamp_min(1e-12)
        largest = _floored(largest * gains) / gains
    scale = (_floored(largest) if gain is None else largest) / (63.5 if half else 127)
    return (weight / scale).round_().clamp_(-127, 127).mul_(scale)


def _tuned(weight: Tensor, axis: int) -> Tensor:
    """Weights rounded to 8 bits with a scale and a zero point for each index of `axis`."""
    others = [dim for dim in range(weight.ndim) if dim != axis]
    scale, zero = _asymmetric(weight.amin(others, keepdim=True), weight.amax(others, keepdim=True))
    return (weight / scale).round_().clamp_(-zero, 255 - zero).mul_(scale)


def _with_zero_point(weight: Tensor, axis: int) -> Tensor:
    """Weights kept in 8 bits with a scale and a zero point for each index of `axis` (INT8_ASYM)."""
    others = [dim for dim in range(weight.ndim) if dim != axis]
    low, high = weight.amin(others, keepdim=True).clamp_max(0), weight.amax(others, keepdim=True).clamp_min(0)
    scale = ((high - low) / 255).clamp_min(_EPS)
    zero = (-low / scale).round_()
    return (weight / scale).add_(zero).round_().clamp_(0, 255).sub_(zero).mul_(scale.half().float())


def _in_4_bits(weight: Tensor) -> Tensor:
    """The weights of a linear layer kept in 4 bits with a signed scale for each group (INT4_SYM)."""
    groups = weight.reshape(len(weight), -1, _GROUP if weight.shape[1] % _GROUP == 0 else weight.shape[1])
    low, high = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)
    scale = torch.where(low.abs() >= high, low.abs(), -high) / 8
    scale = torch.where(scale.abs() < _EPS, _EPS, scale)
    return (groups / scale).round_().clamp_(-8, 7).mul_(scale.half().float()).reshape(weight.shape)


def _corrected(bias: Tensor, shift: Tensor, there: Tensor, gain: Tensor | None = None) -> Tensor:
    """A bias moved by `shift`, unless that is too much beside the bias as it is in the file (`there`)."""
    moved = shift if gain is None else shift * gain
    if bool((there == 0).any()) or float((moved / there).abs().max()) >= _THRESHOLD:
        return bias
    return bias + shift


def _axis(layer: nn.Module) -> int:
    """The axis of the output channels in a weight."""
    return 1 if isinstance(layer, _ConvTransposeNd) else 0


def _depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, _ConvNd) and layer.groups > 1 and layer.groups == layer.in_channels


def _layer(module: nn.Module, path: str) -> nn.Module:
    """The layer at a path; raises ValueError unless its weights can be quantized."""
    found = dict(module.named_modules()).get(path)
    if not isinstance(found, nn.Linear | _ConvNd | nn.Embedding) or found._parameters.get("weight") is None:
        raise ValueError(f"a policy must name linear layers, convolutions and embeddings, {path} is none of them")
    return found


def _tensors(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    weight = layer._parameters["weight"]
    assert weight is not None
    return weight, layer._parameters.get("bias")


def _rounded_rows(_: nn.Module, args: tuple[Any, ...], rows: Tensor) -> Tensor:
    return _with_zero_point(rows.reshape(-1, rows.shape[-1]), 0).reshape(rows.shape)


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


def _round_once(shared: _Shared, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return _with_input(args, kwargs, shared)


def _round_always(rounding: Rounding, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return _with_input(args, kwargs, rounding)


def _with_input(args: tuple[Any, ...], kwargs: dict[str, Any], change: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if args:
        return (change(args[0]), *args[1:]), kwargs
    return args, {**kwargs, "input": change(kwargs["input"])}
