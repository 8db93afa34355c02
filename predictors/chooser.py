"""Model selection by cross-validation, as in LINAS (arXiv 2205.10358; `Predictor` in the code of DyNAS-T)."""

import math
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

from predictors.predictor import (
    Fitted,
    FloatArray,
    FromFitted,
    Learner,
    Mean,
    cleaned,
    learned,
    out_of_sample,
    root_mean_square,
)
from predictors.ridge import Ridge
from predictors.svr import Svr


@dataclass
class Chooser(FromFitted):
    """The model with the smallest cross-validated error, fitted again to all rows; the spread is that error.

    Args:
        options: the models to choose from.
        folds: number of folds of the cross-validation; fewer if there are fewer rows.
        relative: whether the error is the mean absolute percentage error (True) or the root mean square error (False).
        decimal: divide labels by 10^(floor(log10 max|y|) - 1) before fitting, as DyNAS-T does.
        most_rows: the cross-validation uses at most this many rows, evenly spaced; the chosen model is fitted to all.

    Raises:
        ValueError: there are no options.
    """

    options: tuple[Learner, ...]
    folds: int = 5
    relative: bool = False
    decimal: bool = False
    most_rows: int = 250
    _chosen: Learner | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.options = tuple(self.options)
        if not self.options:
            raise ValueError("a chooser needs at least one option, got none")

    @property
    def chosen(self) -> Learner:
        """The option that the last fit chose; raises ValueError before fit."""
        if self._chosen is None:
            raise ValueError("fit must come before chosen, got a predictor that was not fitted")
        return self._chosen

    def fit(self, x: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """See `Predictor`."""
        rows, labels = cleaned(x, y)
        scale = _decimal_scale(labels) if self.decimal else 1.0
        scaled = labels / scale
        picked = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), self.most_rows)).astype(np.int64))
        held_out = [out_of_sample(option, rows[picked], scaled[picked], self.folds) for option in self.options]
        best = int(np.argmin([self._error(scaled[picked], predicted) for predicted in held_out]))
        self._chosen = self.options[best]
        mean = learned(self._chosen, rows, scaled)
        spread = scale * root_mean_square(scaled[picked] - held_out[best])
        self._state = Fitted(rows, labels, _rescaled(mean, scale), spread)
        return self

    def _error(self, truth: FloatArray, predicted: FloatArray) -> float:
        """The error by which options are compared; labels of 0 do not divide by zero."""
        residuals = truth - predicted
        if self.relative:
            return float(np.mean(np.abs(residuals) / np.maximum(np.abs(truth), np.finfo(np.float64).eps)))
        return root_mean_square(residuals)


def _rescaled(mean: Mean, scale: float) -> Mean:
    return lambda rows: mean(rows) * scale


def _decimal_scale(y: FloatArray) -> float:
    """The power of ten by which labels are divided, so that the largest lies between 10 and 100."""
    largest = float(np.abs(y).max())
    return float(10.0 ** (math.floor(math.log10(largest)) - 1)) if largest > 0 else 1.0


def published_chooser() -> Chooser:
    """The grid of DyNAS-T, as in the published LINAS, chosen by mean absolute percentage error.

    It has ridge regression with alpha from 0.1 to 10 in steps of 0.1, and support vector regression with costs from 1
    to 100 in steps of 1.
    """
    ridges = [Ridge(round(0.1 * step, 1)) for step in range(1, 101)]
    vectors = [Svr(float(cost), standardize=False) for cost in range(1, 101)]
    return Chooser((*ridges, *vectors), relative=True, decimal=True, most_rows=1_000_000)
