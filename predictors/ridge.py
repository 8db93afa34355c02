"""Ridge regression: linear, quick, hard to beat on few rows."""

from dataclasses import dataclass, field
from typing import Self

import numpy.typing as npt

from predictors.predictor import Fitted, FloatArray, Mean, cleaned, fitted, learned, out_of_sample, root_mean_square


@dataclass
class Ridge:
    """Least squares with a penalty of `alpha` on the squared weights; spread: cross-validated, equal for all rows."""

    alpha: float = 1.0
    folds: int = 5
    _state: Fitted | None = field(default=None, init=False, repr=False, compare=False)

    def learn(self, x: FloatArray, y: FloatArray) -> Mean:
        """See `Learner`."""
        from sklearn.linear_model import Ridge as Model

        model = Model(alpha=self.alpha).fit(x, y)
        weights, offset = model.coef_, model.intercept_
        return lambda rows: rows @ weights + offset

    def fit(self, x: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """See `Predictor`."""
        rows, labels = cleaned(x, y)
        residuals = labels - out_of_sample(self, rows, labels, self.folds)
        self._state = Fitted(rows, labels, learned(self, rows, labels), root_mean_square(residuals))
        return self

    def predict(self, x: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
        """See `Predictor`."""
        return fitted(self._state).predict(x)

    def mean(self, x: npt.ArrayLike) -> FloatArray:
        """See `Predictor`."""
        return self.predict(x)[0]

    def data(self) -> tuple[FloatArray, FloatArray]:
        """See `Predictor`."""
        return fitted(self._state).data
