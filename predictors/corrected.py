"""An additive trend, and a Gaussian process for what it gets wrong.

The trend alone extrapolates well and needs few rows; the process learns what does not add up (kernels that are slower
at odd sizes, caches that are too small). How much of the process is believed is found on rows that were left out, so
that where the trend's errors are noise, they are not learned.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

from predictors.additive import Additive
from predictors.gaussian_process import GaussianProcess
from predictors.predictor import FloatArray, checked, cleaned, root_mean_square


@dataclass
class Corrected:
    """`Additive` on the first `trend` features, times one plus a `GaussianProcess` on all of them.

    The spread is the process's, noise included, scaled to be right on rows that were left out.

    Args:
        trend: how many features carry the trend.
        groups: of the other features, as in `GaussianProcess`; those of the trend have a weight each, and are scaled to
            a deviation of 1 for the process.
        folds: in which rows are left out; rows go round the folds in their order.
        steps: of the maximisation of the process.
    """

    trend: int
    groups: tuple[int, ...] | None = None
    folds: int = 5
    steps: int = 25
    _state: "_Sum | None" = field(default=None, init=False, repr=False, compare=False)
    _data: tuple[FloatArray, FloatArray] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.groups = None if self.groups is None else tuple(self.groups)
        if self.trend < 0 or self.folds < 2:
            raise ValueError(f"trend must not be negative and folds at least 2, got {self.trend} and {self.folds}")

    def fit(self, x: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """See `Predictor`; raises ValueError too where there are fewer features than `trend`."""
        rows, labels = cleaned(x, y)
        if rows.shape[1] < self.trend:
            raise ValueError(f"fit needs at least the {self.trend} features of the trend, got {rows.shape[1]}")
        self._data = (rows, labels)
        whole = self._fitted(rows, labels)
        if len(labels) >= 2 * self.folds:
            wrong, process, spread = np.zeros((3, len(labels)))
            for train, test in _folds(len(labels), self.folds):
                part = self._fitted(rows[train], labels[train])
                trend = part.trend(rows[test])
                wrong[test] = labels[test] / trend - 1
                process[test], spread[test] = part.correction(rows[test])
            square = float(process @ process)
            whole.belief = min(1.0, max(0.0, float(wrong @ process) / square)) if square > 0 else 0.0
            left = wrong - whole.belief * process
            whole.scale = root_mean_square(left / np.maximum(spread, 1e-12)) if spread.any() else 1.0
        self._state = whole
        return self

    def predict(self, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """See `Predictor`."""
        state, rows = self._checked(x)
        trend = state.trend(rows)
        process, spread = state.correction(rows)
        return trend * (1 + state.belief * process), np.abs(trend) * state.scale * spread

    def mean(self, x: npt.ArrayLike) -> FloatArray:
        """See `Predictor`."""
        state, rows = self._checked(x)
        return state.trend(rows) * (1 + state.belief * state.process.mean(state.scaled(rows)))

    def data(self) -> tuple[FloatArray, FloatArray]:
        """See `Predictor`."""
        if self._data is None:
            raise ValueError("fit must come before data, got a predictor that was not fitted")
        return self._data

    def _checked(self, x: npt.ArrayLike) -> tuple["_Sum", FloatArray]:
        if self._state is None:
            raise ValueError("fit must come before predict, got a predictor that was not fitted")
        return self._state, checked(x, self.data()[0].shape[1])

    def _fitted(self, rows: FloatArray, labels: FloatArray) -> "_Sum":
        additive = Additive().fit(rows[:, : self.trend], labels)
        groups = None if self.groups is None else (*range(self.trend), *(self.trend + group for group in self.groups))
        process = GaussianProcess(groups, steps=self.steps)
        state = _Sum(additive, process, self.trend, float(np.abs(labels).max()), rows)
        process.fit(state.scaled(rows), labels / state.trend(rows) - 1)
        return state


class _Sum:
    """The fitted parts; `belief` is how much of the process counts, `scale` that of its spread."""

    def __init__(self, additive: Additive, process: GaussianProcess, split: int, largest: float, x: FloatArray) -> None:
        self.additive, self.process, self.split, self._largest = additive, process, split, largest
        self.belief, self.scale = 1.0, 1.0
        deviation = x[:, :split].std(axis=0)
        self._middle = x[:, :split].mean(axis=0)
        self._deviation = np.where(deviation > 1e-12 * np.maximum(np.abs(self._middle), 1.0), deviation, np.inf)

    def scaled(self, rows: FloatArray) -> FloatArray:
        """What the process sees of `rows` (n, f)."""
        trend = (rows[:, : self.split] - self._middle) / self._deviation
        return np.concatenate([trend, rows[:, self.split :]], axis=1)

    def trend(self, rows: FloatArray) -> FloatArray:
        """The additive part (n,), away from 0 by a thousandth of the largest label, so that it can be divided by."""
        found = self.additive.mean(rows[:, : self.split])
        least = max(1e-3 * self._largest, 1e-300)
        sign = -1.0 if self.additive.data()[1].mean() < 0 else 1.0
        return np.asarray(np.where(sign * found < least, sign * least, found))

    def correction(self, rows: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and spread (n,) of the relative error of the trend."""
        return self.process.predict(self.scaled(rows))


def _folds(count: int, folds: int) -> Iterator[tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]:
    fold = np.arange(count) % folds
    for held_out in range(folds):
        yield fold != held_out, fold == held_out
