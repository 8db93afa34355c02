"""A linear model of costs: a constant and a coefficient for each feature, fitted to the relative errors of totals.

With one-hot features of the options of each choice, the coefficients are a lookup table of costs as in nn-Meter and
Once-for-All (OFA, arXiv 1908.09791). Differs: the entries are fitted to whole networks instead of measured for each
block alone, so they include overheads that blocks share and time that is saved by fusing them. With sums over operators
as features, the coefficients are costs for each kind of work, which transfer to other networks.
"""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

from predictors.predictor import FloatArray, checked, cleaned, root_mean_square

# Features that vary by less than this, relative to their mean, count as constant.
_TOO_CLOSE = 1e-12
# The value of the feature for the constant: so large that its coefficient is tiny and the penalty does not act on it.
_FREE = 1e3


@dataclass
class Additive:
    """Ridge regression of relative errors; the spread is a fixed share of the mean, the leave-one-out relative error.

    Args:
        penalties: factors of the squared coefficients, for features of deviation 1 and totals of mean 1. The one with
            the smallest leave-one-out error is used.

    Raises:
        ValueError: there are no penalties, or one is not positive.
    """

    penalties: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    _state: "_Coefficients | None" = field(default=None, init=False, repr=False, compare=False)
    _data: tuple[FloatArray, FloatArray] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.penalties = tuple(self.penalties)
        if not self.penalties or min(self.penalties) <= 0:
            raise ValueError(f"penalties must be at least one number above 0, got {self.penalties}")

    def fit(self, x: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """See `Predictor`; the error of a label of 0 is taken relative to the mean label."""
        rows, totals = cleaned(x, y)
        self._data = (rows, totals)
        self._state = _best(rows, totals, self.penalties)
        return self

    def predict(self, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """See `Predictor`."""
        mean = self.mean(x)
        assert self._state is not None
        return mean, self._state.error * np.abs(mean)

    def mean(self, x: npt.ArrayLike) -> FloatArray:
        """See `Predictor`."""
        if self._state is None:
            raise ValueError("fit must come before predict, got a predictor that was not fitted")
        rows = checked(x, self.data()[0].shape[1])
        # A matrix product may sum in another order for another number of rows; this way a row's prediction does not
        # depend on which others are predicted with it.
        weighted = np.einsum("nf,f->n", rows - self._state.middle, self._state.weights)
        return np.asarray(self._state.constant + weighted)

    def data(self) -> tuple[FloatArray, FloatArray]:
        """See `Predictor`."""
        if self._data is None:
            raise ValueError("fit must come before data, got a predictor that was not fitted")
        return self._data


@dataclass(frozen=True)
class _Coefficients:
    """A fitted model.

    Attributes:
        constant: the prediction at the mean features.
        middle: the mean features (f,).
        weights: the coefficients (f,).
        error: the leave-one-out root mean square of the relative errors.
    """

    constant: float
    middle: FloatArray
    weights: FloatArray
    error: float


def _best(rows: FloatArray, totals: FloatArray, penalties: tuple[float, ...]) -> _Coefficients:
    """The fit with the penalty of the smallest leave-one-out error, for features (n, f) and totals (n,)."""
    middle, mean = rows.mean(axis=0), float(totals.mean())
    deviation = rows.std(axis=0)
    varies = deviation > _TOO_CLOSE * np.maximum(np.abs(middle), 1.0)
    if len(totals) < 2 or np.ptp(totals) == 0 or not varies.any():
        spread = float(totals.std()) / abs(mean) if mean else 0.0
        return _Coefficients(mean, middle, np.zeros(rows.shape[1]), spread)
    unit = mean or float(np.abs(totals).max())
    # Weighting every row by one over its total turns squared errors into squared relative errors. The first column is
    # that of the constant, the others are the features of deviation 1.
    constant = np.full((len(rows), 1), _FREE)
    design = np.concatenate([constant, (rows - middle)[:, varies] / deviation[varies]], axis=1)
    row_weights = 1 / np.where(totals == 0, 1.0, np.abs(totals) / abs(unit))
    # One decomposition serves all penalties.
    left, values, right = np.linalg.svd(design * row_weights[:, None], full_matrices=False)
    target = totals / unit * row_weights
    fits = [_fit(left, values, right, target, penalty) for penalty in penalties]
    solution, error = min(fits, key=lambda fit: fit[1])
    weights = np.zeros(rows.shape[1])
    weights[varies] = unit * solution[1:] / deviation[varies]
    return _Coefficients(unit * _FREE * float(solution[0]), middle, weights, error)


def _fit(
    left: FloatArray, values: FloatArray, right: FloatArray, target: FloatArray, penalty: float
) -> tuple[FloatArray, float]:
    """Solve the ridge regression of `target` (n,) on a matrix given by its singular value decomposition.

    Returns:
        The coefficients, that of the constant first, and the leave-one-out root mean square error.
    """
    strength = len(target) * penalty
    kept = values**2 / (values**2 + strength)
    residuals = target - left @ (kept * (left.T @ target))
    # The error of a row in a fit without it is its residual over one minus its leverage (Allen's PRESS): no new fits.
    leverage = np.einsum("nk,k->n", left**2, kept)
    solution = right.T @ (values / (values**2 + strength) * (left.T @ target))
    return solution, root_mean_square(residuals / np.maximum(1 - leverage, 1e-3))
