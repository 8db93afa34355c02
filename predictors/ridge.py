"""Ridge regression: a linear model that is fast to fit and hard to beat on few rows."""

from dataclasses import dataclass

from predictors.predictor import CrossValidated, FloatArray, Mean


@dataclass
class Ridge(CrossValidated):
    """Least squares with a penalty on the squared weights; the spread is cross-validated and equal for all rows.

    Args:
        alpha: factor of the penalty; the constant is not penalised.
    """

    alpha: float = 1.0

    def learn(self, x: FloatArray, y: FloatArray) -> Mean:
        """See `Learner`."""
        from sklearn.linear_model import Ridge as Model

        # Only the weights are kept, so that predicting does not go through the library's validation of every call.
        model = Model(alpha=self.alpha).fit(x, y)
        weights, offset = model.coef_, model.intercept_
        return lambda rows: rows @ weights + offset
