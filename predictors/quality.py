"""Measures of how good predictions are: rank correlations, relative error, and coverage of the intervals."""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from predictors.predictor import FloatArray


@dataclass(frozen=True)
class Quality:
    """How well values were predicted; measures that are undefined for the values are None (see `quality`).

    Args:
        count: number of values.
        kendall_tau: rank correlation tau-b, from -1 to 1.
        spearman: rank correlation rho, from -1 to 1.
        mape: mean absolute percentage error, in percent.
        coverage: share of the values inside their central 90 % intervals, from 0 to 1.
    """

    count: int
    kendall_tau: float | None
    spearman: float | None
    mape: float | None
    coverage: float


def quality(truth: npt.ArrayLike, mean: npt.ArrayLike, spread: npt.ArrayLike) -> Quality:
    """Compute all measures.

    Args:
        truth: true values (n,), at least one.
        mean: predicted means (n,).
        spread: predicted standard deviations (n,).

    Returns:
        The measures; rank correlations are None for a single value, `mape` is None if a true value is 0.

    Raises:
        ValueError: lengths differ, there are no values, or some are NaN.
    """
    values = np.asarray(truth, dtype=np.float64)
    ranked = len(values) > 1
    return Quality(
        len(values),
        kendall_tau(values, mean) if ranked else None,
        spearman(values, mean) if ranked else None,
        mape(values, mean) if (values != 0).all() else None,
        coverage(values, mean, spread),
    )


def kendall_tau(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Kendall's tau-b of two sequences of values (n,), from -1 to 1; 0 if either is constant.

    Raises:
        ValueError: lengths differ, there are fewer than two values, or some are NaN.
    """
    a, b = _pair(truth, predicted)
    signs_a, signs_b = np.sign(a[:, None] - a), np.sign(b[:, None] - b)
    scale = float(np.sqrt((signs_a**2).sum()) * np.sqrt((signs_b**2).sum()))
    return float((signs_a * signs_b).sum()) / scale if scale else 0.0


def spearman(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Spearman's rank correlation of two sequences of values (n,), from -1 to 1; 0 if either is constant.

    Equal values get the mean of their ranks.

    Raises:
        ValueError: lengths differ, there are fewer than two values, or some are NaN.
    """
    a, b = (_mean_ranks(values) for values in _pair(truth, predicted))
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else 0.0


def mape(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Mean absolute percentage error of predictions (n,), in percent of the true values.

    Raises:
        ValueError: a true value is 0, lengths differ, there are no values, or some are NaN.
    """
    a, b = _pair(truth, predicted, least=1)
    if (a == 0).any():
        raise ValueError("a percentage error needs true values other than 0, got 0")
    return float(100 * np.mean(np.abs((a - b) / a)))


def coverage(truth: npt.ArrayLike, mean: npt.ArrayLike, spread: npt.ArrayLike, level: float = 0.9) -> float:
    """The share of true values inside their central prediction intervals.

    Args:
        truth: true values (n,).
        mean: predicted means (n,).
        spread: predicted standard deviations (n,).
        level: the share that the intervals should contain if errors are normally distributed.

    Raises:
        ValueError: lengths differ, there are no values, some are NaN, or `level` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    a, b = _pair(truth, mean, least=1)
    _, width = _pair(truth, spread, least=1)
    return float(np.mean(np.abs(a - b) <= NormalDist().inv_cdf(0.5 + level / 2) * width))


def _pair(first: npt.ArrayLike, second: npt.ArrayLike, least: int = 2) -> tuple[FloatArray, FloatArray]:
    """Both as float arrays (n,); raises ValueError unless n is the same, at least `least`, and nothing is NaN."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or len(a) < least:
        raise ValueError(f"both must be rows of the same length, at least {least}, got shapes {a.shape} and {b.shape}")
    if np.isnan(a).any() or np.isnan(b).any():
        raise ValueError("the numbers must not be NaN")
    return a, b


def _mean_ranks(values: FloatArray) -> FloatArray:
    """The rank of every value (n,) from 1, the mean of their ranks for equal values."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=np.float64)
