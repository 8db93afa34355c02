"""The surrogate of a search: one predictor per objective, and a record of how well their predictions came true."""

from collections.abc import Callable, Sequence

import numpy as np

from nas.searching.evaluation import Results
from nas.searching.features import Features
from nas.searching.measurement import Objective
from predictors import Predictor, Quality, kendall_tau, quality
from search_spaces.arrays import FloatArray, IntArray

MakePredictor = Callable[[tuple[int, ...], Predictor | None], Predictor]
"""(groups of the features, the predictor of the fit before or None) -> a new predictor of one objective."""
_RECENT = 30
"""Number of latest candidates by which `Surrogate.doubt` is computed."""


class Surrogate:
    """Predicts the minimised values of encoded candidates; objectives with a formula are computed instead.

    Args:
        objectives: the objectives.
        features: the features that predictors see of a candidate.
        make: makes a predictor for one objective.
    """

    def __init__(self, objectives: Sequence[Objective], features: Features, make: MakePredictor) -> None:
        self._objectives, self._features, self._make = tuple(objectives), features, make
        self._models: list[Predictor | None] = [None] * len(self._objectives)
        self._works: Predictor | None = None
        self._learned = 0
        self._true = np.zeros((0, len(self._objectives)))
        self._predicted = self._true

    def fit(self, data: Results) -> dict[str, Quality]:
        """Fit the predictors to all measured candidates; failed ones are left out.

        If some candidates have failed, a further predictor learns which candidates can be measured.

        Returns:
            How well the candidates measured since the last fit had been predicted, by the name of the objective. Empty
            at the first fit and when there are no new ones.
        """
        # Compare first: the predictions must come from predictors that have not seen the new measurements.
        found = self._compare(data)
        x, y = self._features.of(data.rows[data.good]), data.values[data.good]
        for column, objective in enumerate(self._objectives):
            if objective.exact is None:
                made = self._make(self._features.groups, self._models[column])
                self._models[column] = made.fit(x, y[:, column])
        # Failures are learned from by a regression on 0 and 1, clipped to a probability in `chance`: there are mostly
        # few of them, and it can use the same features and the same kind of predictor.
        if not data.good.all():
            everything = self._features.of(data.rows)
            self._works = self._make(self._features.groups, self._works).fit(everything, data.good)
        self._learned = len(data)
        return found

    def _compare(self, data: Results) -> dict[str, Quality]:
        """Compare new measurements with the predictions of the current predictors."""
        new = self._learned + np.flatnonzero(data.good[self._learned :])
        if not self._learned or not len(new):
            return {}
        mean, spread = self.predict(data.rows[new])
        self._true = np.concatenate([self._true, data.values[new]])[-_RECENT:]
        self._predicted = np.concatenate([self._predicted, mean])[-_RECENT:]
        return {
            objective.name: quality(data.values[new, column], mean[:, column], spread[:, column])
            for column, objective in enumerate(self._objectives)
            if objective.exact is None
        }

    @property
    def doubt(self) -> float:
        """How unreliable recent predictions were, from 0 (tau of at least 0.5) to 1 (predictions without any value).

        It is 1 - 2 tau, clipped to 0..1. Tau is Kendall's rank correlation between the latest predictions and
        measurements, in the objective where it is lowest. The order matters and not the error, because a search only
        compares candidates.
        """
        # The rank correlation of a few candidates is mostly chance, so there is no doubt before enough are compared.
        if len(self._true) < _RECENT // 2:
            return 0.0
        taus = [
            kendall_tau(self._true[:, column], self._predicted[:, column])
            for column, objective in enumerate(self._objectives)
            if objective.exact is None and np.ptp(self._true[:, column]) > 0
        ]
        return float(np.clip(1 - 2 * min(taus, default=1.0), 0, 1))

    def chance(self, rows: IntArray) -> FloatArray:
        """Predicted probability (n,) that encoded candidates (n, k) can be measured; 1 while none has failed."""
        if self._works is None:
            return np.ones(len(rows))
        return np.clip(self._works.mean(self._features.of(rows)), 0, 1)

    def mean(self, rows: IntArray) -> FloatArray:
        """Predicted values (n, m) of encoded candidates (n, k)."""
        x = self._features.of(rows)
        columns = [_exact(o, rows) if model is None else model.mean(x) for o, model in self._each()]
        return np.stack(columns, axis=1)

    def predict(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """Predicted values and their standard deviations, each (n, m), of encoded candidates (n, k).

        The standard deviation of a computed objective is 0.
        """
        x = self._features.of(rows)
        pairs = [
            (_exact(o, rows), np.zeros(len(rows))) if model is None else model.predict(x) for o, model in self._each()
        ]
        return np.stack([mean for mean, _ in pairs], axis=1), np.stack([spread for _, spread in pairs], axis=1)

    def _each(self) -> list[tuple[Objective, Predictor | None]]:
        return list(zip(self._objectives, self._models, strict=True))


def _exact(objective: Objective, rows: IntArray) -> FloatArray:
    assert objective.exact is not None, "fit comes first"
    return objective.sign * np.asarray(objective.exact(rows), dtype=np.float64)
