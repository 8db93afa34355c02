"""The primitives on tensors, safe where a number has no quotient, root or logarithm.

Nothing here is undefined at 0, nor are its first and second derivatives: a search trains layers that are wrong in every
way, and asks for the gradient of the norm of a gradient. Where a bound keeps an operand away from 0, the plain
operation is used.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def reciprocal(value: Tensor, low: float, eps: float) -> Tensor:
    """1 / value, of any shape; less and less than that where |value| approaches `eps`, and 0 at 0.

    Args:
        value: the denominator.
        low: no value is below it. From `eps` on the quotient is exact.
        eps: a small number.
    """
    if low >= eps:
        return value.reciprocal()
    return value / (value * value + eps * eps)


def quotient(value: Tensor, by: Tensor, low: float, eps: float) -> Tensor:
    """value / by, with the arguments of `reciprocal`."""
    return value / by if low >= eps else value * reciprocal(by, low, eps)


def signed_sqrt(value: Tensor, low: float, eps: float) -> Tensor:
    """sign(value) sqrt(|value|), of any shape; less where |value| approaches eps^2, so that its slope is bounded."""
    if low >= eps:
        return value.sqrt()
    return value * (value.abs() + eps * eps).rsqrt()


def signed_log(value: Tensor, low: float, eps: float) -> Tensor:
    """sign(value) ln(|value|), of any shape; bounded by ln(eps) where |value| is below `eps`, and 0 at 0."""
    if low >= eps:
        return value.log()
    return value.sign() * (value * value + eps * eps).log() * 0.5


class _Maximum(torch.autograd.Function):
    """`torch.maximum` with a gradient that multiplies by a mask of truth values.

    That of PyTorch fills copies where a mask is set, which takes 40 times as long on a CPU as the maximum itself.

    A separate `setup_context`, which the transforms of torch.func want, would take longer than all else in this file.
    """

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(first, second)
        return torch.maximum(first, second)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        first, second = ctx.saved_tensors
        to_first = gradient * (first > second)
        return to_first.sum_to_size(first.shape), (gradient - to_first).sum_to_size(second.shape)


def maximum(first: Tensor, second: Tensor) -> Tensor:
    """The larger of two tensors that broadcast; where they are equal, the gradient goes to the second."""
    # Exporters know PyTorch's own operator, and record no gradients.
    if torch.compiler.is_compiling():
        return torch.maximum(first, second)
    result: Tensor = _Maximum.apply(first, second)  # type: ignore[no-untyped-call]
    return result


UNARY: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "sigmoid": lambda value, low, eps: value.sigmoid(),
    "tanh": lambda value, low, eps: value.tanh(),
    "exp": lambda value, low, eps: value.exp(),
    "log": signed_log,
    "abs": lambda value, low, eps: value if low >= 0 else value.abs(),
    "square": lambda value, low, eps: value * value,
    "sqrt": signed_sqrt,
}
"""Primitives of one operand: f(value, the bound below it, epsilon)."""
