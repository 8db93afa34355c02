"""How numbers are rounded as nncf and OpenVINO do it: weights to 8 and 4 bits, inputs to whole numbers of a scale."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hardware.rounding import GROUP

EPS = torch.finfo(torch.float32).eps


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


@dataclass(frozen=True)
class Bounds:
    """Bounds of inputs: least, largest and largest absolute value, numbers or (channels,)."""

    low: Tensor
    high: Tensor
    largest: Tensor

    @property
    def symmetric(self) -> tuple[Tensor, Tensor, Tensor]:
        """Scale, least and largest whole number of inputs whose zero is in the middle, or at the end of the range."""
        signed = bool((self.low < 0).any())
        scale = _floored(self.largest) / (127 if signed else 255)
        zeros = torch.zeros_like(scale)
        return scale, zeros - (128 if signed else 0), zeros + (127 if signed else 255)

    @property
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


def symmetric(weight: Tensor, axis: int, half: bool) -> Tensor:
    """Weights rounded to -127 .. 127 of a scale for each index of `axis`, or to -64 .. 64 of a doubled one."""
    others = [dim for dim in range(weight.ndim) if dim != axis]
    largest = _floored(weight.abs().amax(others, keepdim=True))
    if half:
        # Written as nncf does: the largest weight lies half-way between two numbers, and this says which one it gets.
        return (((weight + 2 * largest) / (4 * largest) * 254).round_() - 127) * (largest / 63.5)
    scale = largest / 127
    return (weight / scale).round_().clamp_(-127, 127).mul_(scale)


def with_zero_point(weight: Tensor, axis: int) -> Tensor:
    """Weights rounded to 8 bits with a scale and a zero point for each index of `axis`."""
    others = [dim for dim in range(weight.ndim) if dim != axis]
    scale, zero = _asymmetric(weight.amin(others, keepdim=True), weight.amax(others, keepdim=True))
    return (weight / scale).round_().clamp_(-zero, 255 - zero).mul_(scale)


def in_8_bits(weight: Tensor, axis: int) -> Tensor:
    """Weights kept in 8 bits with a scale and a zero point for each index of `axis` (INT8_ASYM)."""
    others = [dim for dim in range(weight.ndim) if dim != axis]
    low, high = weight.amin(others, keepdim=True).clamp_max(0), weight.amax(others, keepdim=True).clamp_min(0)
    scale = ((high - low) / 255).clamp_min(EPS)
    zero = (-low / scale).round_()
    return (weight / scale).add_(zero).round_().clamp_(0, 255).sub_(zero).mul_(scale.half().float())


def in_4_bits(weight: Tensor, axis: int) -> Tensor:
    """Weights kept in 4 bits with a signed scale for each group, or for each index of `axis` (INT4_SYM)."""
    rows = weight.movedim(axis, 0)
    grouped = weight.ndim == 2 and weight.shape[1] % GROUP == 0
    groups = rows.reshape(-1, GROUP) if grouped else rows.flatten(1)
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    # The larger end of the range becomes -8, of which there is one more than of positive numbers.
    scale = torch.where(low.abs() >= high, low.abs(), -high) / 8
    scale = torch.where(scale.abs() < EPS, EPS, scale)
    found = (groups / scale).round_().clamp_(-8, 7).mul_(scale.half().float())
    return found.reshape(rows.shape).movedim(0, axis)
