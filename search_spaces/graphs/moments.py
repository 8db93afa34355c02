"""Moments of one tensor over several index sets, from one pass over its elements.

Every moment over a larger index set follows from those within the channels of a row, which are few numbers: the mean
is the mean of their means, and the variance is the mean of their variances plus the variance of their means. All terms
are positive, so nothing cancels, as it may in E[x^2] - E[x]^2.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Which axes of a tensor are what: axis 0 is the batch.

    Args:
        channels: the axis of the channels, from 1 on.
        spatial: all other axes.
        groups: into how many groups the channels fall; divides their number.
    """

    channels: int
    spatial: tuple[int, ...]
    groups: int


class Moments:
    """Raw moments of a value: means, mean squares and variances, without epsilon or root.

    Args:
        value: a tensor with as many axes as x; of size 1 along those where it does not vary.
        axes: those along which it varies, see `Fact`.
        layout: that of x.
        central: whether any variance will be asked for, of which mean squares then follow.
    """

    def __init__(self, value: Tensor, axes: frozenset[str], layout: Layout, central: bool) -> None:
        self._value = value
        self._axes = axes
        self._layout = layout
        self._central = central
        # The axes within a channel of a row along which the value varies.
        self._within = layout.spatial if "s" in axes else ()
        self._known: dict[str, Tensor] = {}

    def raw(self, op: str, over: str) -> Tensor:
        """The mean ("mean"), mean square ("rms") or variance ("std", over n, not n - 1) over an index set.

        The result has as many axes as the value, of size 1 where it does not vary.
        """
        pool = self._pool(over)
        if op == "mean":
            return pool(self._mean())
        if op == "rms":
            return pool(self._square())
        means, variances = self._mean(), self._variance()
        mean = pool(means)
        distance = means - mean
        return variances if mean is means else pool(variances + distance * distance)

    def _mean(self) -> Tensor:
        if "mean" not in self._known:
            self._known["mean"] = self._value.mean(self._within, keepdim=True) if self._within else self._value
        return self._known["mean"]

    def _variance(self) -> Tensor:
        if "variance" not in self._known:
            # Not torch.var, which takes ten times as long on a CPU.
            distance = self._value - self._mean()
            self._known["variance"] = self._mean_of_squares(distance)
        return self._known["variance"]

    def _square(self) -> Tensor:
        if "square" not in self._known:
            # The variance is known or needed anyway: the squares of large tensors can be spared.
            if self._central:
                self._known["square"] = self._variance() + self._mean() * self._mean()
            else:
                self._known["square"] = self._mean_of_squares(self._value)
        return self._known["square"]

    def _mean_of_squares(self, value: Tensor) -> Tensor:
        squares = value * value
        return squares.mean(self._within, keepdim=True) if self._within else squares

    def _pool(self, over: str) -> Callable[[Tensor], Tensor]:
        """The mean of a small tensor over what an index set has beyond the channels of a row."""
        axis = self._layout.channels
        if over == "batch" and "n" in self._axes:
            return lambda small: small.mean(0, keepdim=True)
        if over == "layer" and "c" in self._axes:
            return lambda small: small.mean(axis, keepdim=True)
        if over == "group" and "c" in self._axes:
            return self._pool_groups
        return lambda small: small

    def _pool_groups(self, small: Tensor) -> Tensor:
        axis = self._layout.channels
        grouped = small.reshape(*small.shape[:axis], self._layout.groups, -1, *small.shape[axis + 1 :])
        return grouped.mean(axis + 1, keepdim=True).expand_as(grouped).flatten(axis, axis + 1)
