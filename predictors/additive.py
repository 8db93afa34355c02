"""Costs that add up: a price for every feature, fitted to measured totals, with errors counted relative to the total.

With one feature for each option of each choice (0 where the choice does not matter) this is the table of costs of
nn-Meter and Once-for-All, except that the prices come from whole networks and not from blocks measured alone, so that
what networks share, and what they save by being fused, is in the prices. With sums over operators as features it is a
price for each kind of work, which carries over to other networks.
"""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

from predictors.predictor import FloatArray, checked, cleaned, root_mean_square

_TOO_CLOSE, _FREE = 1e-12, 1e3


@dataclass
class Additive:
    """A constant and a price a feature, the penalised least squares of relative errors; spread: relative, left out.

    Args:
        penalties: of the squared prices, features scaled to a deviation of 1 and totals to a mean of 1; the one with
            the smallest error on rows that were left out (one at a time) is taken.
    """

    penalties: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    _state: "_Prices | None" = field(default=None, init=False, repr=False, compare=False)
    _data: tuple[FloatArray, FloatArray] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.penalties = tuple(self.penalties)
        if not self.penalties or min(self.penalties) <= 0:
            raise ValueError(f"penalties must be at least one number above 0, got {self.penalties}")

    def fit(self, x: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """See `Predictor`; a label of 0, whose relative error means nothing, counts as the mean of the others."""
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
        # Summed row by row, so that a row's prediction does not depend on its company.
        priced = np.einsum("nf,f->n", rows - self._state.middle, self._state.prices)
        return np.asarray(self._state.constant + priced)

    def data(self) -> tuple[FloatArray, FloatArray]:
        """See `Predictor`."""
        if self._data is None:
            raise ValueError("fit must come before data, got a predictor that was not fitted")
        return self._data


@dataclass(frozen=True)
class _Prices:
    """`constant` at the features `middle` (f,), `prices` (f,), and the root mean square relative error left out."""

    constant: float
    middle: FloatArray
    prices: FloatArray
    error: float


def _best(rows: FloatArray, totals: FloatArray, penalties: tuple[float, ...]) -> _Prices:
    middle, mean = rows.mean(axis=0), float(totals.mean())
    deviation = rows.std(axis=0)
    varies = deviation > _TOO_CLOSE * np.maximum(np.abs(middle), 1.0)
    if len(totals) < 2 or np.ptp(totals) == 0 or not varies.any():
        spread = float(totals.std()) / abs(mean) if mean else 0.0
        return _Prices(mean, middle, np.zeros(rows.shape[1]), spread)
    unit = mean or float(np.abs(totals).max())
    # Columns: the constant, so large that its penalty is none, then features of deviation 1; every row weighted by one
    # over its total.
    constant = np.full((len(rows), 1), _FREE)
    design = np.concatenate([constant, (rows - middle)[:, varies] / deviation[varies]], axis=1)
    weights = 1 / np.where(totals == 0, 1.0, np.abs(totals) / abs(unit))
    left, values, right = np.linalg.svd(design * weights[:, None], full_matrices=False)
    target = totals / unit * weights
    fits = [_fit(left, values, right, target, penalty) for penalty in penalties]
    price, error = min(fits, key=lambda fit: fit[1])
    prices = np.zeros(rows.shape[1])
    prices[varies] = unit * price[1:] / deviation[varies]
    return _Prices(unit * _FREE * float(price[0]), middle, prices, error)


def _fit(
    left: FloatArray, values: FloatArray, right: FloatArray, target: FloatArray, penalty: float
) -> tuple[FloatArray, float]:
    """Prices (with the constant first) and the root mean square error on rows left out one at a time (PRESS)."""
    strength = len(target) * penalty
    kept = values**2 / (values**2 + strength)
    residuals = target - left @ (kept * (left.T @ target))
    leverage = np.einsum("nk,k->n", left**2, kept)
    price = right.T @ (values / (values**2 + strength) * (left.T @ target))
    return price, root_mean_square(residuals / np.maximum(1 - leverage, 1e-3))
