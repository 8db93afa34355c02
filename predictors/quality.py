"""How good predictions are: rank correlations, relative error, coverage of the intervals."""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from predictors.predictor import FloatArray


@dataclass(frozen=True)
class Quality:
    """How well values were predicted; what the numbers do not allow is None (see `quality`).

    Args:
        count: of the values.
        kendall_tau, spearman: -1 to 1.
        mape: percent.
        coverage: share of the values inside their central 90 % intervals.
    """

    count: int
    kendall_tau: float | None
    spearman: float | None
    mape: float | None
    coverage: float


def quality(truth: npt.ArrayLike, mean: npt.ArrayLike, spread: npt.ArrayLike) -> Quality:
    """All of them for values (n,), at least one: no rank correlation of one value, no percentage of 0."""
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
    """Kendall's tau-b of two rows of numbers (n,), from -1 to 1; 0 where either is constant.

    Raises:
        ValueError: different lengths, fewer than two numbers, or NaN.
    """
    a, b = _pair(truth, predicted)
    signs_a, signs_b = np.sign(a[:, None] - a), np.sign(b[:, None] - b)
    scale = float(np.sqrt((signs_a**2).sum()) * np.sqrt((signs_b**2).sum()))
    return float((signs_a * signs_b).sum()) / scale if scale else 0.0


def spearman(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Spearman's rank correlation (mean ranks for ties), -1 to 1; 0 where either is constant; raises ValueError."""
    a, b = (_mean_ranks(values) for values in _pair(truth, predicted))
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else 0.0


def mape(truth: npt.ArrayLike, predicted: npt.ArrayLike) -> float:
    """Mean absolute percentage error, in percent of each true value; raises ValueError where a true value is 0."""
    a, b = _pair(truth, predicted, least=1)
    if (a == 0).any():
        raise ValueError("a percentage error needs true values other than 0, got 0")
    return float(100 * np.mean(np.abs((a - b) / a)))


def coverage(truth: npt.ArrayLike, mean: npt.ArrayLike, spread: npt.ArrayLike, level: float = 0.9) -> float:
    """Share of true values inside the central interval that should hold `level` of them, if errors were normal.

    Raises:
        ValueError: different lengths, no numbers, NaN, or a level outside 0..1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    a, b = _pair(truth, mean, least=1)
    _, width = _pair(truth, spread, least=1)
    return float(np.mean(np.abs(a - b) <= NormalDist().inv_cdf(0.5 + level / 2) * width))


def _pair(first: npt.ArrayLike, second: npt.ArrayLike, least: int = 2) -> tuple[FloatArray, FloatArray]:
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or len(a) < least:
        raise ValueError(f"both must be rows of the same length, at least {least}, got shapes {a.shape} and {b.shape}")
    if np.isnan(a).any() or np.isnan(b).any():
        raise ValueError("the numbers must not be NaN")
    return a, b


def _mean_ranks(values: FloatArray) -> FloatArray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place], dtype=np.float64)
