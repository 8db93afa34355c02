"""Ridge regression: linear, quick, hard to beat on few rows."""

from dataclasses import dataclass

from predictors.predictor import CrossValidated, FloatArray, Mean


@dataclass
class Ridge(CrossValidated):
    """Least squares with a penalty of `alpha` on the squared weights; spread: cross-validated, equal for all rows."""

    alpha: float = 1.0

    def learn(self, x: FloatArray, y: FloatArray) -> Mean:
        """See `Learner`."""
        from sklearn.linear_model import Ridge as Model

        model = Model(alpha=self.alpha).fit(x, y)
        weights, offset = model.coef_, model.intercept_
        return lambda rows: rows @ weights + offset
