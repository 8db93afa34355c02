"""The interface of predictors, and what they share: validation of data, cross-validation and out-of-sample spread."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt

# The same types as in `search_spaces.arrays`, which this package may not import.
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Mean = Callable[[FloatArray], FloatArray]
"""A fitted model: the function from features (n, f) to predicted means (n,)."""


class Predictor(Protocol):
    """A regression model that predicts a mean and a spread.

    Implementations are dataclasses whose fields are their settings; `saving` relies on this. Fitting again replaces
    what was learned before.
    """

    def fit(self, x: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """Learn from rows of features and labels.

        Args:
            x: features (n, f), all finite.
            y: labels (n,); rows whose label is NaN or infinite are ignored.

        Returns:
            The predictor itself.

        Raises:
            ValueError: shapes do not fit, features are not finite, or no label is finite.
        """

    def predict(self, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Predict labels.

        Args:
            x: features (n, f), all finite.

        Returns:
            Mean (n,) and spread (n,), one standard deviation of a label around its mean.

        Raises:
            ValueError: the predictor is not fitted, or the features have another shape or are not finite.
        """

    def mean(self, x: npt.ArrayLike) -> FloatArray:
        """The mean (n,) of `predict` alone, which may be faster; raises ValueError as `predict` does."""

    def data(self) -> tuple[FloatArray, FloatArray]:
        """The rows that were learned from, features (n, f) and labels (n,); raises ValueError before fit."""


class Learner(Protocol):
    """A model that predicts means only: the part of a predictor that cross-validation needs."""

    def learn(self, x: FloatArray, y: FloatArray) -> Mean:
        """Fit to finite features (n, f) and labels (n,), of which at least two differ; return the fitted function."""


def cleaned(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Validate training data and drop the rows whose label is not finite.

    Args:
        x: features (n, f).
        y: labels (n,).

    Returns:
        Features and labels as floats.

    Raises:
        ValueError: as in `Predictor.fit`.
    """
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
    """Return `x` (n, features) as floats; raise ValueError if it has another shape or values that are not finite."""
    rows = np.asarray(x, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != features:
        raise ValueError(f"predict needs x of shape (n, {features}), got {rows.shape}")
    if not np.isfinite(rows).all():
        raise ValueError("the features must be finite, got NaN or infinity in x")
    return rows


def learned(learner: Learner, x: FloatArray, y: FloatArray) -> Mean:
    """Fit `learner` to validated data; a constant function if labels are all equal or there are no features."""
    if x.shape[1] == 0 or np.ptp(y) == 0:
        middle = float(np.mean(y))
        return lambda rows: np.full(len(rows), middle)
    return learner.learn(x, y)


def out_of_sample(learner: Learner, x: FloatArray, y: FloatArray, folds: int) -> FloatArray:
    """Predict every row by cross-validation, with a model that was fitted without it.

    Args:
        learner: the model.
        x: validated features (n, f).
        y: validated labels (n,).
        folds: number of folds; at least 2 and at most n are used.

    Returns:
        Predictions (n,); for a single row, its own label.
    """
    if len(y) < 2:
        return y.copy()
    # Rows of a search are in the order of their measurement, and later ones tend to be better. Dealt out in turn, they
    # give every fold early and late rows.
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
    """The result of a fit: validated data, the function for the mean, and one spread for all rows.

    Args:
        x: features (n, f) that were learned from.
        y: labels (n,) that were learned from.
        mean: the fitted function.
        spread: one standard deviation of the errors.
    """

    def __init__(self, x: FloatArray, y: FloatArray, mean: Mean, spread: float) -> None:
        self.data = (x, y)
        self._mean, self._spread = mean, spread

    def predict(self, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """Mean and spread (n,) for features (n, f); raises ValueError for another number of features."""
        rows = checked(x, self.data[0].shape[1])
        mean = self._mean(rows) if len(rows) else np.zeros(0)
        return np.asarray(mean, dtype=np.float64), np.full(len(rows), self._spread)


@dataclass
class FromFitted:
    """Base of the predictors that keep the result of a fit as a `Fitted`."""

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
    """Base of predictors that learn a mean only; the spread, equal for all rows, is the cross-validated error.

    Args:
        folds: number of folds of the cross-validation.
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
