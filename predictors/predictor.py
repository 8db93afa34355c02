"""The interface of a predictor, and what all predictors share: clean training data, folds, out-of-sample spread."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Mean = Callable[[FloatArray], FloatArray]


class Predictor(Protocol):
    """Numbers in, numbers out. A predictor is a dataclass whose fields are its settings; fitting again forgets."""

    def fit(self, x: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """Learn from features `x` (n, f) and labels `y` (n,); rows whose label is not finite are left out.

        Raises:
            ValueError: shapes that do not fit, features that are not finite, or no row with a finite label.
        """

    def predict(self, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Mean (n,) and spread (n,), one standard deviation, for features `x` (n, f); raises ValueError before fit."""

    def mean(self, x: npt.ArrayLike) -> FloatArray:
        """The mean (n,) of `predict` alone, which may be quicker."""

    def data(self) -> tuple[FloatArray, FloatArray]:
        """The rows `x` (n, f), `y` (n,) that were learned from; raises ValueError before fit."""


class Learner(Protocol):
    """What cross-validation needs of a model: the mean that it learns from clean data of at least two labels."""

    def learn(self, x: FloatArray, y: FloatArray) -> Mean:
        """Learn from `x` (n, f), `y` (n,) and return the function from features to means."""


def cleaned(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """`x` (n, f) and `y` (n,) as floats without the rows whose label is not finite; raises ValueError as `fit` does."""
    features, labels = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(f"fit needs x of shape (n, f) and y of shape (n,), got {features.shape} and {labels.shape}")
    if not np.isfinite(features).all():
        raise ValueError("the features must be finite, got NaN or infinity in x")
    known = np.isfinite(labels)
    if not known.any():
        raise ValueError(f"fit needs at least one finite label, got none in {len(labels)} rows")
    return features[known], labels[known]


def checked(x: npt.ArrayLike, features: int) -> FloatArray:
    """`x` (n, features) as floats; raises ValueError for another shape or numbers that are not finite."""
    rows = np.asarray(x, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != features:
        raise ValueError(f"predict needs x of shape (n, {features}), got {rows.shape}")
    if not np.isfinite(rows).all():
        raise ValueError("the features must be finite, got NaN or infinity in x")
    return rows


def learned(learner: Learner, x: FloatArray, y: FloatArray) -> Mean:
    """What `learner` makes of clean data, or a constant where there is nothing to learn: equal labels or no feature."""
    if x.shape[1] == 0 or np.ptp(y) == 0:
        middle = float(np.mean(y))
        return lambda rows: np.full(len(rows), middle)
    return learner.learn(x, y)


def out_of_sample(learner: Learner, x: FloatArray, y: FloatArray, folds: int) -> FloatArray:
    """Prediction (n,) of every row by a model that has not seen it; with a single row, its own label.

    Rows go round the folds in their order, so that each fold has early and late rows of a search.
    """
    if len(y) < 2:
        return y.copy()
    fold = np.arange(len(y)) % min(max(folds, 2), len(y))
    predicted = np.empty(len(y))
    for held_out in range(int(fold.max()) + 1):
        test = fold == held_out
        predicted[test] = learned(learner, x[~test], y[~test])(x[test])
    return predicted


def root_mean_square(residuals: FloatArray) -> float:
    """Root of the mean square of `residuals` (n,)."""
    return float(np.sqrt(np.mean(residuals**2)))


class Fitted:
    """What a fit leaves behind: the clean data, the mean and one spread for all rows."""

    def __init__(self, x: FloatArray, y: FloatArray, mean: Mean, spread: float) -> None:
        self.data = (x, y)
        self._mean, self._spread = mean, spread

    def predict(self, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Mean and spread, each (n,); raises ValueError for another number of features."""
        rows = checked(x, self.data[0].shape[1])
        mean = self._mean(rows) if len(rows) else np.zeros(0)
        return np.asarray(mean, dtype=np.float64), np.full(len(rows), self._spread)


@dataclass
class FromFitted:
    """What the predictors share that keep a `Fitted`."""

    _state: Fitted | None = field(default=None, init=False, repr=False, compare=False)

    def _fitted(self) -> Fitted:
        if self._state is None:
            raise ValueError("fit must come before predict, got a predictor that was not fitted")
        return self._state

    def predict(self, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """See `Predictor`."""
        return self._fitted().predict(x)

    def mean(self, x: npt.ArrayLike) -> FloatArray:
        """See `Predictor`."""
        return self.predict(x)[0]

    def data(self) -> tuple[FloatArray, FloatArray]:
        """See `Predictor`."""
        return self._fitted().data


@dataclass
class CrossValidated(FromFitted):
    """A learner as a predictor: it learns from all rows; its spread, equal for all, is that of rows held out.

    Args:
        folds: of the rows.
    """

    folds: int = field(default=5, kw_only=True)

    def learn(self, x: FloatArray, y: FloatArray) -> Mean:
        """See `Learner`."""
        raise NotImplementedError

    def fit(self, x: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """See `Predictor`."""
        rows, labels = cleaned(x, y)
        residuals = labels - out_of_sample(self, rows, labels, self.folds)
        self._state = Fitted(rows, labels, learned(self, rows, labels), root_mean_square(residuals))
        return self
