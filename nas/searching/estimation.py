"""Estimates of accuracies that hold on new rows: measured ones, shrunk towards a curve over the costs.

The best of many measured accuracies is too good: its own noise is part of why it is the best. So the accuracies of
some candidates on the same rows are taken as noisy measurements of true ones, which lie around a smooth curve over the
costs (empirical Bayes; Efron and Morris, 1975). The noise of two candidates is not independent, because they find the
same rows hard. Its covariance is known from the rows, so differences between candidates, which are far better known
than their level, are shrunk less.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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
        Estimates of the c candidates.

    Raises:
        UserError: other shapes.
    """
    if hits.ndim != 2 or costs.ndim != 2 or len(hits) != len(costs):
        raise UserError(f"estimates need hits (c, n) and costs (c, k), got {hits.shape} and {costs.shape}")
    count, rows = hits.shape
    raw = hits.mean(axis=1)
    if count < 2 or rows < _FEWEST_ROWS:
        return [_alone(float(value), rows) for value in raw]
    noise = _noise(hits)
    values = raw
    if others is not None and len(others.accuracies):
        noise = _with_others(noise, rows, others)
        values, costs = np.concatenate([raw, others.accuracies]), np.concatenate([costs, others.costs])
    curve = _curve(costs)
    spread = max(_SPREADS, key=lambda each: _likelihood(values, curve, noise + each * np.eye(len(values))))
    value, variance = _posterior(values, curve, noise, float(spread))
    half = _Z * np.sqrt(variance)
    return [
        Estimate(float(v), float(max(0.0, v - h)), float(min(1.0, v + h)), float(r), rows)
        for v, h, r in zip(np.clip(value[:count], 0.0, 1.0), half[:count], raw, strict=True)
    ]


def _with_others(noise: FloatArray, rows: int, others: Others) -> FloatArray:
    """The covariance with that of further candidates (c + m, c + m), taken to be like that of the known ones.

    Their rows are among those of the known ones, so the covariance between the two kinds is that of all rows.
    """
    count, more = len(noise), len(others.accuracies)
    own = float(np.diag(noise).mean()) * rows
    shared = min(own, float((noise.sum() - np.trace(noise)) / (count * (count - 1))) * rows)
    whole = np.full((count + more, count + more), shared / rows)
    whole[:count, :count] = noise
    whole[count:, count:] = shared / others.rows
    whole[range(count, count + more), range(count, count + more)] = own / others.rows
    return whole


def _alone(raw: float, rows: int) -> Estimate:
    """Nothing to shrink towards: the measured value, with the interval of Agresti and Coull (1998)."""
    trials = rows + _Z**2
    centre = (raw * rows + _Z**2 / 2) / trials
    half = _Z * float(np.sqrt(centre * (1 - centre) / trials))
    return Estimate(raw, max(0.0, min(raw, centre - half)), min(1.0, max(raw, centre + half)), raw, rows)


def _noise(hits: BoolArray) -> FloatArray:
    """Covariance of the measured accuracies (c, c)."""
    rows = hits.shape[1]
    # One row more on which exactly one candidate is right keeps candidates apart that agree on all rows.
    covariance: FloatArray = np.cov(hits.astype(np.float64)) / rows + np.eye(len(hits)) / rows**2
    return covariance


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


def _likelihood(raw: FloatArray, curve: FloatArray, covariance: FloatArray) -> float:
    """Restricted log-likelihood, but for a constant (Patterson and Thompson, 1971)."""
    root = np.linalg.cholesky(covariance)
    columns, values = np.linalg.solve(root, curve), np.linalg.solve(root, raw)
    beta = np.linalg.lstsq(columns, values, rcond=None)[0]
    residual = values - columns @ beta
    log_det = 2 * np.log(np.diag(root)).sum() + np.linalg.slogdet(columns.T @ columns)[1]
    return float(-0.5 * (residual @ residual + log_det))


def _posterior(
    raw: FloatArray, curve: FloatArray, noise: FloatArray, spread: float
) -> tuple[FloatArray, npt.NDArray[np.float64]]:
    """Means and variances of the true accuracies (c,), with the curve's own uncertainty."""
    precision = np.linalg.inv(noise + spread * np.eye(len(raw)))
    uncertain = np.linalg.inv(curve.T @ precision @ curve)
    beta = uncertain @ (curve.T @ (precision @ raw))
    value = curve @ beta + spread * (precision @ (raw - curve @ beta))
    left = curve - spread * (precision @ curve)
    variance = spread - spread**2 * np.diag(precision) + np.einsum("ij,jk,ik->i", left, uncertain, left)
    return value, np.maximum(variance, 0.0)
