"""A Gaussian process whose kernel has one weight for each group of features, and a noise that it learns.

Rasmussen and Williams 2006, *Gaussian Processes for Machine Learning*: algorithm 2.1 and section 5.4.1; one weight for
each input is MacKay's and Neal's automatic relevance determination. With the weighted inner product
s(a, b) = sum of w_g a_g . b_g over the groups g, the kernel is

    k(a, b) = c0 + c1 s + c2 s^2 + c3 exp(-(s(a, a) - 2 s(a, b) + s(b, b)) / 2) + noise where a is b:

a constant, a linear, a pairwise and a smooth part that share the weights. Weights, amplitudes and noise maximise the
posterior under log-normal priors.

Why not scikit-learn's: its kernels cannot share weights between terms or between the features of a group, its dot
product has one weight in all, and the gradient of its Gaussian kernel holds an array (n, n, f). `docs/linas.md` has
the times of both.
"""

from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from predictors.predictor import FloatArray, IntArray, checked, cleaned

_TERMS = ("constant", "linear", "square", "smooth")
_PRIOR_MEANS = np.log([1.0, 1.0, 0.1, 0.3, 0.003])
_PRIOR_SPREADS = np.array([1.0, 1.0, 1.5, 1.5, 2.0])
_WEIGHT_SPREAD = 1.5
_LEAST_NOISE = 1e-6


@dataclass
class GaussianProcess:
    """Gaussian process regression on standardised labels; spread: that of a new measurement, noise included.

    Args:
        groups: the group (0, 1, ...) of every feature, which shares one weight; None: each feature its own.
        start: logarithms to begin the maximisation with, `found` of an earlier fit; None: the means of the priors.
        steps: of the maximisation.
        steps_rows: the hyper-parameters are found on at most so many rows: the latest half, and others evenly.
        most_rows: the process itself holds at most so many rows, picked likewise.
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
        """The logarithms of weights, amplitudes and noise; None where there was nothing to learn."""
        state = self._fitted()
        return None if state.theta is None else tuple(state.theta.tolist())

    def fit(self, x: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """See `Predictor`; raises ValueError too where `groups` are not those of the features."""
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
    """The process given its rows, on labels of mean 0 and deviation 1 (`shift` and `scale` undo that).

    Without hyper-parameters `theta` a constant, whose spread is that of the labels.
    """

    def __init__(self, shift: float, scale: float, theta: FloatArray | None) -> None:
        self.theta, self._shift, self._scale = theta, shift, scale

    def given(self, x: FloatArray, y: FloatArray, groups: IntArray) -> Self:
        """Condition on rows `x` (n, f) and `y` (n,)."""
        from scipy.linalg import LinAlgError, cho_factor, cho_solve

        assert self.theta is not None
        self._root = np.exp(self.theta[: groups.max() + 1] / 2)[groups]
        self._amplitudes, self._noise = np.exp(self.theta[-5:-1]), float(np.exp(self.theta[-1]))
        self._rows = x * self._root
        covariance = self._covariance(self._rows)
        while True:
            try:
                self._factor = cho_factor(covariance + self._noise * np.eye(len(y)), lower=True)
                break
            except LinAlgError:
                self._noise *= 10  # too close to singular for this precision
        self._dual = cho_solve(self._factor, y)
        return self

    def mean(self, x: FloatArray) -> FloatArray:
        """Mean (n,)."""
        if self.theta is None:
            return np.full(len(x), self._shift)
        return np.asarray(self._covariance(x * self._root) @ self._dual * self._scale + self._shift)

    def predict(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and spread, each (n,)."""
        from scipy.linalg import solve_triangular

        if self.theta is None:
            return self.mean(x), np.full(len(x), self._scale)
        rows = x * self._root
        covariance = self._covariance(rows)
        mean = covariance @ self._dual * self._scale + self._shift
        squared = (rows**2).sum(axis=1)
        prior = self._amplitudes @ np.stack([np.ones(len(rows)), squared, squared**2, np.ones(len(rows))])
        explained = (solve_triangular(self._factor[0], covariance.T, lower=True, check_finite=False) ** 2).sum(axis=0)
        return mean, self._scale * np.sqrt(np.maximum(prior - explained, 0) + self._noise)

    def _covariance(self, rows: FloatArray) -> FloatArray:
        inner = rows @ self._rows.T
        distance = (rows**2).sum(axis=1)[:, None] + (self._rows**2).sum(axis=1) - 2 * inner
        constant, linear, square, smooth = self._amplitudes
        return np.asarray(constant + inner * (linear + square * inner) + smooth * np.exp(-0.5 * distance))


def _picked(count: int, most: int) -> IntArray:
    """At most `most` of `count` rows: the latest half of them, and of the earlier ones an even choice."""
    if count <= most:
        return np.arange(count)
    latest = most - most // 2
    early = np.linspace(0, count - latest - 1, most // 2).astype(np.int64)
    return np.concatenate([early, np.arange(count - latest, count)])


def _maximised(x: FloatArray, y: FloatArray, groups: IntArray, start: Any, steps: int) -> FloatArray:
    """The hyper-parameters (logarithms: weights, amplitudes, noise) after `steps` of L-BFGS."""
    from scipy.optimize import minimize

    count = int(groups.max()) + 1
    # All weights together are about one.
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
    """Of labels `y` (n,) at `x` (n, f), without its constant, and the gradient in `theta` (weights, amplitudes, noise).

    The gradient in a weight is that in s, the matrix of weighted inner products, summed over the features of its group.
    """
    from scipy.linalg.lapack import dpotrf, dpotri

    weights, amplitudes, noise = np.exp(theta[:-5]), np.exp(theta[-5:-1]), np.exp(theta[-1])
    inner = (x * weights[groups]) @ x.T
    size = np.diag(inner)
    smooth = amplitudes[3] * np.exp(np.minimum(inner - 0.5 * size[:, None] - 0.5 * size, 0))
    covariance = amplitudes[0] + inner * (amplitudes[1] + amplitudes[2] * inner) + smooth
    covariance[np.diag_indices_from(covariance)] += noise
    factor, failed = dpotrf(covariance, lower=1)
    if failed:
        return 1e10, np.zeros_like(theta)
    half = np.tril(dpotri(factor, lower=1)[0])
    inverse = half + np.tril(half, -1).T
    dual = inverse @ y
    value = 0.5 * float(y @ dual) + float(np.log(np.diag(factor)).sum())
    change = 0.5 * (inverse - np.outer(dual, dual))
    changed = change * inner
    terms = [change.sum(), changed.sum(), (changed * inner).sum()]
    curved = change * smooth
    slope = change * amplitudes[1] + 2 * amplitudes[2] * changed + curved
    slope[np.diag_indices_from(slope)] -= curved.sum(axis=1)
    by_feature = (x * (slope @ x)).sum(axis=0)
    by_weight = np.bincount(groups, weights=by_feature, minlength=len(weights)) * weights
    by_amplitude = np.array([*terms * amplitudes[:3], curved.sum(), noise * np.trace(change)])
    return value, np.concatenate([by_weight, by_amplitude])
