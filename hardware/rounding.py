"""Weights as small whole numbers, as nncf rounds them without any data."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

GROUP = 64
"""Number of weights that share a scale in 4 bits."""


def eight_bits(weight: Array, inside: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Round weights to 8 bits with a zero point: weight is about (levels - zero) * scale.

    Args:
        weight: in float32.
        inside: the axes whose weights share a scale and a zero point.

    Returns:
        Levels from 0 to 255, float32 scales and zero points; the last two have size 1 along `inside`.
    """
    low = np.minimum(weight.min(inside, keepdims=True), 0)
    scale = _not_tiny((np.maximum(weight.max(inside, keepdims=True), 0) - low) / 255)
    zero = np.clip(-np.round(low / scale), 0, 255)
    levels = np.clip(np.round(weight / scale + zero), 0, 255)
    return levels.astype(np.uint8), scale, zero.astype(np.uint8)


def four_bits(weight: Array, inside: tuple[int, ...]) -> tuple[Array, Array]:
    """Round weights to 4 bits: weight is about levels * scale, with levels from -8 to 7; else as `eight_bits`."""
    low, high = np.abs(weight.min(inside, keepdims=True)), weight.max(inside, keepdims=True)
    # The larger end of the range becomes -8, since there is no level 8: scales may be negative.
    scale = _not_tiny(np.where(low >= high, low, -high) / 8)
    return np.clip(np.round(weight / scale), -8, 7).astype(np.int8), scale


def symmetric(weight: Array, inside: tuple[int, ...]) -> tuple[Array, Array]:
    """Round weights to 8 bits without a zero point: weight is about levels * scale; else as `eight_bits`."""
    scale = _not_tiny(np.abs(weight).max(inside, keepdims=True) / 127)
    return np.round(weight / scale).astype(np.int8), scale


def grouped(weight: Array, axis: int) -> tuple[Array, tuple[int, ...]]:
    """Split an axis of a weight into groups of `GROUP`, for `four_bits`.

    Returns:
        The weight with the axis split in two, and the axes that share a scale. Where the axis is no multiple of
        `GROUP`, it stays whole.
    """
    shape, size = weight.shape, weight.shape[axis]
    if size % GROUP:
        return weight, (axis,)
    return weight.reshape([*shape[:axis], size // GROUP, GROUP, *shape[axis + 1 :]]), (axis + 1,)


def packed(levels: Array) -> Array:
    """4-bit levels as bytes, two in each, the first in the lower half."""
    halves = levels.astype(np.int8).reshape(-1).view(np.uint8) & 0xF
    halves = np.append(halves, np.zeros(halves.size % 2, np.uint8))
    return halves[::2] | halves[1::2] << 4


def _not_tiny(scale: Array) -> Array:
    smallest = np.finfo(np.float32).eps
    return np.where(np.abs(scale) < smallest, smallest, scale).astype(np.float32)
