"""An additive model of costs whose relative errors are corrected by a Gaussian process.

The additive trend extrapolates well and needs few rows. The process learns what does not add up, such as kernels that
are slower at odd sizes or caches that are too small. Cross-validation decides how much of the correction is used, so
errors of the trend that are only noise are not learned.
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
    """`Additive` on the first features, multiplied by one plus a `GaussianProcess` on all features.

    The spread is that of the process, noise included, scaled to fit the errors of the cross-validation.

    Args:
        trend: number of features, the first ones, that the additive model uses. The process sees them too, scaled to
            deviation 1 and with one weight each.
        groups: the groups of the other features, as in `GaussianProcess`; None: each has a weight of its own.
        folds: number of folds of the cross-validation.
        steps: largest number of iterations in which the process fits its hyper-parameters.

    Raises:
        ValueError: `trend` is negative, or there are fewer than 2 folds.
    """

    trend: int
    groups: tuple[int, ...] | None = None
    folds: int = 5
    steps: int = 25
    _state: "_TrendAndProcess | None" = field(default=None, init=False, repr=False, compare=False)
    _data: tuple[FloatArray, FloatArray] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.groups = None if self.groups is None else tuple(self.groups)
        if self.trend < 0 or self.folds < 2:
            raise ValueError(f"trend must not be negative and folds at least 2, got {self.trend} and {self.folds}")

    def fit(self, x: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """See `Predictor`; raises ValueError also if there are fewer features than `trend`."""
        rows, labels = cleaned(x, y)
        if rows.shape[1] < self.trend:
            raise ValueError(f"fit needs at least the {self.trend} features of the trend, got {rows.shape[1]}")
        self._data = (rows, labels)
        whole = self._fitted(rows, labels)
        # With fewer rows the folds would be too small to judge the process: it is used as it is.
        if len(labels) >= 2 * self.folds:
            # For each row, by models that have not seen it: the trend's relative error, and what the process predicts
            # for that error.
            wrong, process, spread = np.zeros((3, len(labels)))
            for train, test in _folds(len(labels), self.folds):
                part = self._fitted(rows[train], labels[train])
                trend = part.trend(rows[test])
                wrong[test] = labels[test] / trend - 1
                process[test], spread[test] = part.correction(rows[test])
            # The share of the correction that minimises the squared errors: least squares in one unknown, clipped.
            square = float(process @ process)
            whole.share = min(1.0, max(0.0, float(wrong @ process) / square)) if square > 0 else 0.0
            # Standardised errors should have a mean square of 1; the spread is scaled until they do.
            remaining = wrong - whole.share * process
            whole.scale = root_mean_square(remaining / np.maximum(spread, 1e-12)) if spread.any() else 1.0
        self._state = whole
        return self

    def predict(self, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """See `Predictor`."""
        state, rows = self._checked(x)
        trend = state.trend(rows)
        process, spread = state.correction(rows)
        return trend * (1 + state.share * process), np.abs(trend) * state.scale * spread

    def mean(self, x: npt.ArrayLike) -> FloatArray:
        """See `Predictor`."""
        state, rows = self._checked(x)
        return state.trend(rows) * (1 + state.share * state.process.mean(state.scaled(rows)))

    def data(self) -> tuple[FloatArray, FloatArray]:
        """See `Predictor`."""
        if self._data is None:
            raise ValueError("fit must come before data, got a predictor that was not fitted")
        return self._data

    def _checked(self, x: npt.ArrayLike) -> tuple["_TrendAndProcess", FloatArray]:
        if self._state is None:
            raise ValueError("fit must come before predict, got a predictor that was not fitted")
        return self._state, checked(x, self.data()[0].shape[1])

    def _fitted(self, rows: FloatArray, labels: FloatArray) -> "_TrendAndProcess":
        """The trend fitted to the rows, and the process fitted to the trend's relative errors on them."""
        additive = Additive().fit(rows[:, : self.trend], labels)
        groups = None if self.groups is None else (*range(self.trend), *(self.trend + group for group in self.groups))
        process = GaussianProcess(groups, steps=self.steps)
        state = _TrendAndProcess(additive, process, self.trend, float(np.abs(labels).max()), rows)
        process.fit(state.scaled(rows), labels / state.trend(rows) - 1)
        return state


class _TrendAndProcess:
    """The fitted parts.

    `share`, from 0 to 1, is how much of the correction by the process is used, and `scale` the factor of its spread.

    Args:
        additive: the trend.
        process: the process for its relative errors.
        split: number of features of the trend.
        largest: the largest absolute label.
        x: the training features (n, f), from which the scaling of the trend's features is computed.
    """

    def __init__(self, additive: Additive, process: GaussianProcess, split: int, largest: float, x: FloatArray) -> None:
        self.additive, self.process, self.split, self._largest = additive, process, split, largest
        self.share, self.scale = 1.0, 1.0
        deviation = x[:, :split].std(axis=0)
        self._middle = x[:, :split].mean(axis=0)
        # Constant features are divided by infinity: the process sees 0.
        self._deviation = np.where(deviation > 1e-12 * np.maximum(np.abs(self._middle), 1.0), deviation, np.inf)

    def scaled(self, rows: FloatArray) -> FloatArray:
        """The features (n, f) for the process: those of the trend standardised, the others as they are."""
        trend = (rows[:, : self.split] - self._middle) / self._deviation
        return np.concatenate([trend, rows[:, self.split :]], axis=1)

    def trend(self, rows: FloatArray) -> FloatArray:
        """The additive part (n,), kept away from 0 so that relative errors exist.

        It has the sign of the mean label, and at least a thousandth of the largest label as its absolute value.
        """
        found = self.additive.mean(rows[:, : self.split])
        least = max(1e-3 * self._largest, 1e-300)
        sign = -1.0 if self.additive.data()[1].mean() < 0 else 1.0
        return np.asarray(np.where(sign * found < least, sign * least, found))

    def correction(self, rows: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and spread (n,) of the trend's relative error, as the process predicts it."""
        return self.process.predict(self.scaled(rows))


def _folds(count: int, folds: int) -> Iterator[tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]:
    """Masks (count,) of the training and the test rows of every fold; rows are dealt out to the folds in turn."""
    fold = np.arange(count) % folds
    for held_out in range(folds):
        yield fold != held_out, fold == held_out
