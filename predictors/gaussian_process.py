"""Gaussian process regression with one kernel weight for each group of features, and learned noise.

After Rasmussen and Williams 2006, *Gaussian Processes for Machine Learning*: the predictions are algorithm 2.1, the
gradient of the marginal likelihood is section 5.4.1. One weight for each input is the automatic relevance determination
of MacKay and Neal; here the features of a group share one. With the weighted inner product
s(a, b) = sum of w_g a_g . b_g over the groups g, the kernel is

    k(a, b) = c0 + c1 s + c2 s^2 + c3 exp(-(s(a, a) - 2 s(a, b) + s(b, b)) / 2), plus the noise if a and b are one row:

a constant, a linear, a pairwise and a smooth term with the same weights. The hyper-parameters (weights w, amplitudes c
and noise) maximise the posterior density under log-normal priors. They are kept as one vector of logarithms, `theta`:
the weights, the four amplitudes, the noise.

Why not scikit-learn's: its kernels cannot share weights between terms or between the features of a group, its dot
product has a single weight, and the gradient of its Gaussian kernel needs an array of shape (n, n, f). `docs/linas.md`
compares the times of both.
"""

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from predictors.predictor import FloatArray, IntArray, checked, cleaned

# Priors of the logarithms of the four amplitudes and the noise, for labels of deviation 1: effects are mostly linear,
# some are pairwise or smooth, and measurements are precise. The spreads leave room for an order of magnitude or more.
_PRIOR_MEANS = np.log([1.0, 1.0, 0.1, 0.3, 0.003])
_PRIOR_SPREADS = np.array([1.0, 1.0, 1.5, 1.5, 2.0])
_WEIGHT_SPREAD = 1.5
# Without noise, the covariance of nearly equal rows is numerically singular.
_LEAST_NOISE = 1e-6


@dataclass
class GaussianProcess:
    """Gaussian process regression; the spread is that of a new measurement, noise included.

    Labels are scaled to mean 0 and deviation 1 first.

    Args:
        groups: the group (0, 1, ...) of every feature; features of a group share one weight. None: each feature is a
            group of its own.
        start: the hyper-parameters from which the maximisation starts: `found` of an earlier fit. None, or another
            number of them: the means of the priors.
        steps: largest number of iterations of the maximisation.
        steps_rows: largest number of rows used to find the hyper-parameters; see `most_rows`.
        most_rows: largest number of rows that predictions use. Of more rows, the latest are used, and as many earlier
            ones, evenly spaced.
    """

    groups: tuple[int, ...] | None = None
    start: tuple[float, ...] | None = None
    steps: int = 25
    steps_rows: int = 250
    most_rows: int = 500
    _state: "_Posterior | None" = field(default=None, init=False, repr=False, compare=False)
    _data: tuple[FloatArray, FloatArray] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.groups = None if self.groups is None else tuple(self.groups)
        self.start = None if self.start is None else tuple(self.start)

    @property
    def found(self) -> tuple[float, ...] | None:
        """The hyper-parameters of the last fit (logarithms of weights, amplitudes, noise).

        None if there was nothing to learn: no features, or equal labels. Raises ValueError before fit.
        """
        state = self._fitted()
        return None if state.theta is None else tuple(state.theta.tolist())

    def fit(self, x: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """See `Predictor`; raises ValueError also if `groups` has another length than there are features."""
        rows, labels = cleaned(x, y)
        groups = np.array(range(rows.shape[1]) if self.groups is None else self.groups, dtype=np.int64)
        if len(groups) != rows.shape[1]:
            raise ValueError(f"fit needs one group for each of {rows.shape[1]} features, got {len(groups)}")
        self._data = (rows, labels)
        shift, scale = float(labels.mean()), float(labels.std())
        if rows.shape[1] == 0 or np.ptp(labels) == 0:
            self._state = _Posterior(shift, scale, None)
            return self
        standard = (labels - shift) / scale
        # Each iteration of the maximisation costs O(n^3), so it gets fewer rows than the predictions.
        few, many = _picked(len(rows), self.steps_rows), _picked(len(rows), self.most_rows)
        theta = _maximised(rows[few], standard[few], groups, self.start, self.steps)
        self._state = _Posterior(shift, scale, theta).given(rows[many], standard[many], groups)
        return self

    def predict(self, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """See `Predictor`."""
        state = self._fitted()
        return state.predict(checked(x, self.data()[0].shape[1]))

    def mean(self, x: npt.ArrayLike) -> FloatArray:
        """See `Predictor`."""
        state = self._fitted()
        return state.mean(checked(x, self.data()[0].shape[1]))

    def data(self) -> tuple[FloatArray, FloatArray]:
        """See `Predictor`."""
        if self._data is None:
            raise ValueError("fit must come before data, got a predictor that was not fitted")
        return self._data

    def _fitted(self) -> "_Posterior":
        if self._state is None:
            raise ValueError("fit must come before predict, got a predictor that was not fitted")
        return self._state


class _Posterior:
    """The process conditioned on rows, for labels scaled to mean 0 and deviation 1.

    Args:
        shift: mean of the labels.
        scale: standard deviation of the labels.
        theta: the hyper-parameters; None: predictions are the constant `shift` with spread `scale`.
    """

    def __init__(self, shift: float, scale: float, theta: FloatArray | None) -> None:
        self.theta, self._shift, self._scale = theta, shift, scale

    def given(self, x: FloatArray, y: FloatArray, groups: IntArray) -> Self:
        """Condition on features (n, f) and standardised labels (n,), with the group of every feature (f,)."""
        from scipy.linalg import LinAlgError, cho_factor, cho_solve

        assert self.theta is not None
        # Features times the roots of their weights: s is then a plain inner product.
        self._root = np.exp(self.theta[: groups.max() + 1] / 2)[groups]
        self._amplitudes, self._noise = np.exp(self.theta[-5:-1]), float(np.exp(self.theta[-1]))
        self._rows = x * self._root
        covariance = self._covariance(self._rows)
        # Algorithm 2.1: L = cholesky(K + noise I), alpha = L^T \ (L \ y). If rounding makes the matrix indefinite, more
        # noise is added until the factorisation succeeds.
        while True:
            try:
                self._factor = cho_factor(covariance + self._noise * np.eye(len(y)), lower=True)
                break
            except LinAlgError:
                self._noise *= 10
        self._dual = cho_solve(self._factor, y)
        return self

    def mean(self, x: FloatArray) -> FloatArray:
        """The predicted means (n,) for features (n, f)."""
        if self.theta is None:
            return np.full(len(x), self._shift)
        return np.asarray(self._covariance(x * self._root) @ self._dual * self._scale + self._shift)

    def predict(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The predicted means and spreads (n,) for features (n, f)."""
        from scipy.linalg import solve_triangular

        if self.theta is None:
            return self.mean(x), np.full(len(x), self._scale)
        rows = x * self._root
        covariance = self._covariance(rows)
        mean = covariance @ self._dual * self._scale + self._shift
        squared = (rows**2).sum(axis=1)
        # Only the diagonal of the rows' own covariance is needed: the variance before and after conditioning.
        prior = self._amplitudes @ np.stack([np.ones(len(rows)), squared, squared**2, np.ones(len(rows))])
        explained = (solve_triangular(self._factor[0], covariance.T, lower=True, check_finite=False) ** 2).sum(axis=0)
        return mean, self._scale * np.sqrt(np.maximum(prior - explained, 0) + self._noise)

    def _covariance(self, rows: FloatArray) -> FloatArray:
        """The kernel between weighted rows (m, f) and the training rows (n, f), without noise: (m, n)."""
        inner = rows @ self._rows.T
        distance = (rows**2).sum(axis=1)[:, None] + (self._rows**2).sum(axis=1) - 2 * inner
        constant, linear, square, smooth = self._amplitudes
        return np.asarray(constant + inner * (linear + square * inner) + smooth * np.exp(-0.5 * distance))


def _picked(count: int, most: int) -> IntArray:
    """Indices of at most `most` of `count` rows: half of them the latest, the others spaced evenly before them.

    The latest rows of a search are the closest to the front, where predictions matter; the others cover the rest.
    """
    if count <= most:
        return np.arange(count)
    latest = most - most // 2
    early = np.linspace(0, count - latest - 1, most // 2).astype(np.int64)
    return np.concatenate([early, np.arange(count - latest, count)])


def _maximised(x: FloatArray, y: FloatArray, groups: IntArray, start: Any, steps: int) -> FloatArray:
    """The hyper-parameters of the largest posterior density found by at most `steps` iterations of L-BFGS-B.

    Args:
        x: features (n, f).
        y: standardised labels (n,).
        groups: the group of every feature (f,).
        start: where to begin, clipped to the bounds; None: at the means of the priors.
        steps: largest number of iterations.
    """
    from scipy.optimize import minimize

    count = int(groups.max()) + 1
    # The prior mean of a weight is one over their number: however many there are, they add up to about one.
    means = np.concatenate([np.full(count, -np.log(count)), _PRIOR_MEANS])
    spreads = np.concatenate([np.full(count, _WEIGHT_SPREAD), _PRIOR_SPREADS])
    bounds = np.stack([means - 4 * spreads, means + 4 * spreads], axis=1)
    bounds[-1, 0] = np.log(_LEAST_NOISE)
    first = means if start is None or len(start) != len(means) else np.clip(start, bounds[:, 0], bounds[:, 1])

    def loss(theta: FloatArray) -> tuple[float, FloatArray]:
        value, gradient = negative_log_likelihood(theta, x, y, groups)
        standard = (theta - means) / spreads
        return value + 0.5 * float(standard @ standard), gradient + standard / spreads

    found = minimize(loss, first, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps})
    return np.asarray(found.x, dtype=np.float64)


def negative_log_likelihood(
    theta: FloatArray, x: FloatArray, y: FloatArray, groups: IntArray
) -> tuple[float, FloatArray]:
    """The negative log marginal likelihood without its constant term, and its gradient.

    Args:
        theta: the hyper-parameters (logarithms of weights, amplitudes, noise).
        x: features (n, f).
        y: standardised labels (n,).
        groups: the group of every feature (f,).

    Returns:
        The value, and the gradient in `theta`. If the covariance is numerically singular, a large value and a gradient
        of zero, so that the line search steps back.
    """
    from scipy.linalg.lapack import dpotrf, dpotri

    weights, amplitudes, noise = np.exp(theta[:-5]), np.exp(theta[-5:-1]), np.exp(theta[-1])
    inner = (x * weights[groups]) @ x.T
    size = np.diag(inner)
    # A squared distance is never negative, but rounding can make it so.
    smooth = amplitudes[3] * np.exp(np.minimum(inner - 0.5 * size[:, None] - 0.5 * size, 0))
    covariance = amplitudes[0] + inner * (amplitudes[1] + amplitudes[2] * inner) + smooth
    covariance[np.diag_indices_from(covariance)] += noise
    # LAPACK directly: the gradient needs the whole inverse, which `dpotri` makes of the Cholesky factor,
    # with fewer operations than solving for an identity matrix. It fills the lower triangle only.
    factor, failed = dpotrf(covariance, lower=1)
    if failed:
        return 1e10, np.zeros_like(theta)
    half = np.tril(dpotri(factor, lower=1)[0])
    inverse = half + np.tril(half, -1).T
    dual = inverse @ y
    value = 0.5 * float(y @ dual) + float(np.log(np.diag(factor)).sum())
    # The gradient in the covariance (equation 5.9), then by the chain rule in s, the matrix of inner products. In the
    # smooth term s(a, a) and s(b, b) count too, hence the diagonal.
    by_covariance = 0.5 * (inverse - np.outer(dual, dual))
    with_inner = by_covariance * inner
    terms = [by_covariance.sum(), with_inner.sum(), (with_inner * inner).sum()]
    with_smooth = by_covariance * smooth
    by_inner = by_covariance * amplitudes[1] + 2 * amplitudes[2] * with_inner + with_smooth
    by_inner[np.diag_indices_from(by_inner)] -= with_smooth.sum(axis=1)
    # For each feature the sum of by_inner[i, j] x[i] x[j], without an array (n, n, f); then summed over groups. The
    # factors `weights`, `amplitudes` and `noise` come from the logarithms.
    by_feature = (x * (by_inner @ x)).sum(axis=0)
    by_weight = np.bincount(groups, weights=by_feature, minlength=len(weights)) * weights
    by_amplitude = np.array([*terms * amplitudes[:3], with_smooth.sum(), noise * np.trace(by_covariance)])
    return value, np.concatenate([by_weight, by_amplitude])
