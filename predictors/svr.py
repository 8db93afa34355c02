"""Support vector regression with a Gaussian kernel: fits non-linear effects, which ridge regression cannot."""

import warnings
from dataclasses import dataclass

import numpy as np

from predictors.predictor import CrossValidated, FloatArray, Mean

# libsvm may take very long for a large cost, so it stops here; a solution that has not converged is used as it is.
_MAX_STEPS = 1_000_000


@dataclass
class Svr(CrossValidated):
    """Epsilon-insensitive support vector regression; the spread is cross-validated and equal for all rows.

    Args:
        cost: factor of the penalty for errors larger than `epsilon` (C in most texts).
        gamma: the kernel is exp(-(gamma / f) |a - b|^2) for f features, so 1 is scikit-learn's "auto".
        epsilon: errors up to this size are not penalised.
        standardize: scale labels to mean 0 and deviation 1, so that `cost` and `epsilon` do not depend on their unit.
    """

    cost: float = 10.0
    gamma: float = 1.0
    epsilon: float = 0.0
    standardize: bool = True

    def learn(self, x: FloatArray, y: FloatArray) -> Mean:
        """See `Learner`."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.svm import SVR as Model  # noqa: N811

        shift, scale = (float(y.mean()), float(y.std())) if self.standardize else (0.0, 1.0)
        gamma = self.gamma / x.shape[1]
        model = Model(kernel="rbf", C=self.cost, gamma=gamma, epsilon=self.epsilon, max_iter=_MAX_STEPS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x, (y - shift) / scale)
        support, dual, offset = model.support_vectors_, model.dual_coef_[0], float(model.intercept_[0])
        square = (support**2).sum(axis=1)

        def mean(rows: FloatArray) -> FloatArray:
            # The kernel as one matrix product is several times faster than the library's prediction.
            distance = (rows**2).sum(axis=1)[:, None] + square - 2 * rows @ support.T
            return np.asarray((np.exp(-gamma * distance) @ dual + offset) * scale + shift)

        return mean
