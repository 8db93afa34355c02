"""Estimates of accuracies that hold on new rows: measured ones, shrunk towards a curve over the costs.

The best of many measured accuracies is too good: its own noise is part of why it is the best. So the accuracies of
some candidates on the same rows are taken as noisy measurements of true ones, which lie around a smooth curve over the
costs (empirical Bayes; Efron and Morris, 1975).

Networks lie further below such a curve than above it: some architectures are bad, none is far better than its cost
lets expect. So the spread is another one above than below, or the best would be shrunk too little.

The noise of two candidates is not independent, because they find the same rows hard. It is split into a part that all
share, which moves the level of the curve and no choice, and a part of each candidate, by which it is shrunk. The whole
covariance, which the rows give, is not used: generalised least squares with strongly correlated noise puts the curve
far from all measurements (Peelle's puzzle), and then the estimates are too low.
"""

from dataclasses import dataclass

import numpy as np

from nas.errors import UserError
from search_spaces.arrays import BoolArray, FloatArray

_Z = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution: a two-sided interval of 95 %."""
_SPREADS = np.concatenate([[0.0], np.geomspace(1e-7, 1e-2, 60)])
"""Variances of the true accuracies around the curve that are tried: up to a standard deviation of ten points."""
_FEWEST_ROWS = 20


@dataclass(frozen=True)
class Estimate:
    """What an accuracy is on new rows, 0 to 1.

    Args:
        value: the estimate.
        low, high: its 95 % interval.
        raw: as measured, the share of rows that are right.
        rows: how many rows it was measured on.
    """

    value: float
    low: float
    high: float
    raw: float
    rows: int


@dataclass(frozen=True)
class Hits:
    """Which rows a candidate has right, one bit a row.

    Args:
        packed: the bits, as `numpy.packbits` has them.
        rows: how many rows there are.
    """

    packed: bytes
    rows: int

    @classmethod
    def of(cls, right: BoolArray) -> "Hits":
        """From one bool a row (n,)."""
        return cls(np.packbits(right).tobytes(), len(right))

    @classmethod
    def from_hex(cls, text: str, rows: int) -> "Hits":
        """What `to_hex` wrote; raises ValueError where that is not the bits of so many rows."""
        packed = bytes.fromhex(text)
        if len(packed) != -(-rows // 8):
            raise ValueError(f"{rows} rows need {-(-rows // 8)} bytes, got {len(packed)}")
        return cls(packed, rows)

    def to_hex(self) -> str:
        """The bits as hexadecimal digits, for JSON."""
        return self.packed.hex()

    def array(self) -> BoolArray:
        """One bool a row (n,)."""
        return np.unpackbits(np.frombuffer(self.packed, dtype=np.uint8), count=self.rows).astype(np.bool_)


@dataclass(frozen=True)
class Others:
    """Candidates of the same search whose right rows are not known: they show where the curve lies.

    The candidates that are scored again are the best ones, so a curve through them alone would be too high.

    Args:
        accuracies: as the search measured them (m,).
        costs: of these candidates (m, k).
        rows: that the search measured them on, among those of the other candidates.
    """

    accuracies: FloatArray
    costs: FloatArray
    rows: int


def estimated(hits: BoolArray, costs: FloatArray, others: Others | None = None) -> list[Estimate]:
    """Estimate the accuracies of candidates that were measured on the same rows.

    Args:
        hits: which rows each candidate has right (c, n).
        costs: of each candidate (c, k), above 0; k may be 0.
        others: further candidates of the search; None: there are none.

    Returns:
        Estimates of the c candidates, then of the others.

    Raises:
        UserError: other shapes.
    """
    if hits.ndim != 2 or costs.ndim != 2 or len(hits) != len(costs):
        raise UserError(f"estimates need hits (c, n) and costs (c, k), got {hits.shape} and {costs.shape}")
    count, rows = hits.shape
    values, sizes = hits.mean(axis=1), np.full(count, rows)
    if others is not None and len(others.accuracies):
        values, costs = np.concatenate([values, others.accuracies]), np.concatenate([costs, others.costs])
        sizes = np.concatenate([sizes, np.full(len(others.accuracies), others.rows)])
    if count < 2 or rows < _FEWEST_ROWS:
        return [_alone(float(value), int(size)) for value, size in zip(values, sizes, strict=True)]
    alike = _correlation(hits)
    # Half a row more of each kind: an accuracy of 0 or 1 is not known without noise.
    smooth = (values * sizes + 0.5) / (sizes + 1)
    noise = smooth * (1 - smooth) / sizes
    own, curve = noise * (1 - alike), _curve(costs)
    spread = max(_SPREADS, key=lambda each: _likelihood(values, curve, own + each))
    value, variance = _posterior(values, curve, own, float(spread))
    half = _Z * np.sqrt(variance + alike * noise)
    return [
        Estimate(float(v), float(max(0.0, v - h)), float(min(1.0, v + h)), float(r), int(size))
        for v, h, r, size in zip(np.clip(value, 0.0, 1.0), half, values, sizes, strict=True)
    ]


def _alone(raw: float, rows: int) -> Estimate:
    """Nothing to shrink towards: the measured value, with the interval of Agresti and Coull (1998)."""
    trials = rows + _Z**2
    centre = (raw * rows + _Z**2 / 2) / trials
    half = _Z * float(np.sqrt(centre * (1 - centre) / trials))
    return Estimate(raw, max(0.0, min(raw, centre - half)), min(1.0, max(raw, centre + half)), raw, rows)


def _correlation(hits: BoolArray) -> float:
    """Mean correlation of the hits of two candidates, 0 to 0.99: the share of the noise that all have in common."""
    covariance = np.cov(hits.astype(np.float64))
    own = float(np.trace(covariance)) / len(hits)
    shared = float(covariance.sum() - np.trace(covariance)) / (len(hits) * (len(hits) - 1))
    # Candidates that agree on all rows are still not known to be the same on others.
    return min(0.99, max(0.0, shared / own)) if own > 0 else 0.0


def _curve(costs: FloatArray) -> FloatArray:
    """Columns that span a quadratic curve over each cost (c, at most 1 + 2 k), in logarithms: costs act by ratios."""
    logs = np.log(np.maximum(costs, 1e-12))
    spread = logs.std(axis=0)
    logs = ((logs - logs.mean(axis=0)) / np.where(spread > 0, spread, 1.0))[:, spread > 0]
    columns = np.concatenate([np.ones((len(costs), 1)), logs, logs**2], axis=1)
    # Few candidates do not determine a curve: a third of their number at most.
    columns = columns[:, : max(1, len(costs) // 3)]
    # Costs that go together give columns that do, and candidates of two sizes no curvature: an independent basis.
    basis, sizes, _ = np.linalg.svd(columns, full_matrices=False)
    return np.asarray(basis[:, sizes > 1e-6 * sizes[0]])


def _fitted(values: FloatArray, curve: FloatArray, variances: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Coefficients of the curve by weighted least squares (p,), and their covariance (p, p)."""
    weighted = curve / variances[:, None]
    uncertain: FloatArray = np.asarray(np.linalg.inv(weighted.T @ curve), dtype=np.float64)
    return uncertain @ (weighted.T @ values), uncertain


def _likelihood(values: FloatArray, curve: FloatArray, variances: FloatArray) -> float:
    """Restricted log-likelihood of variances (c,) around the curve, up to a constant (Patterson and Thompson, 1971)."""
    beta, uncertain = _fitted(values, curve, variances)
    residual = values - curve @ beta
    return float(-0.5 * ((residual**2 / variances).sum() + np.log(variances).sum() - np.linalg.slogdet(uncertain)[1]))


def _posterior(values: FloatArray, curve: FloatArray, own: FloatArray, spread: float) -> tuple[FloatArray, FloatArray]:
    """Means and variances of the true accuracies (c,), with the curve's own uncertainty.

    Args:
        values: measured (c,).
        curve: its columns (c, p).
        own: variances of the noise of each candidate (c,).
        spread: variance of the true accuracies around the curve.
    """
    beta, uncertain = _fitted(values, curve, own + spread)
    above = values - curve @ beta
    sides = np.where(above > 0, _spread(above[above > 0], own[above > 0], spread), spread)
    towards = own / (own + sides)
    value = values - towards * above
    return value, sides * towards + towards**2 * np.einsum("ij,jk,ik->i", curve, uncertain, curve)


def _spread(above: FloatArray, own: FloatArray, most: float) -> float:
    """Variance of the true accuracies on one side of the curve, by moments; at most that of both sides."""
    return min(most, max(0.0, float((above**2 - own).mean()))) if len(above) else most
