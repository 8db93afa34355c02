"""Predictors of all objectives together, in place of measurements; and how good they turn out to be."""

from collections.abc import Callable, Sequence

import numpy as np

from nas.searching.evaluation import Results
from nas.searching.features import Features
from nas.searching.measurement import Objective
from predictors import Predictor, Quality, kendall_tau, quality
from search_spaces.arrays import FloatArray, IntArray

MakePredictor = Callable[[tuple[int, ...], Predictor | None], Predictor]
_RECENT = 30


class Surrogate:
    """Minimised values of encoded candidates: computed where an objective is exact, else predicted.

    Args:
        make: (groups of the features, the predictor of the fit before or None) -> a new predictor of one objective.
    """

    def __init__(self, objectives: Sequence[Objective], features: Features, make: MakePredictor) -> None:
        self._objectives, self._features, self._make = tuple(objectives), features, make
        self._models: list[Predictor | None] = [None] * len(self._objectives)
        self._works: Predictor | None = None
        self._learned = 0
        self._true = np.zeros((0, len(self._objectives)))
        self._told = self._true

    def fit(self, data: Results) -> dict[str, Quality]:
        """Learn from everything measured so far, the failed left out.

        Returns:
            How well what is new since the last fit was predicted; empty the first time, and where nothing is new.
        """
        found = self._compare(data)
        x, y = self._features.of(data.rows[data.good]), data.values[data.good]
        for column, objective in enumerate(self._objectives):
            if objective.exact is None:
                made = self._make(self._features.groups, self._models[column])
                self._models[column] = made.fit(x, y[:, column])
        if not data.good.all():
            everything = self._features.of(data.rows)
            self._works = self._make(self._features.groups, self._works).fit(everything, data.good)
        self._learned = len(data)
        return found

    def _compare(self, data: Results) -> dict[str, Quality]:
        new = self._learned + np.flatnonzero(data.good[self._learned :])
        if not self._learned or not len(new):
            return {}
        mean, spread = self.predict(data.rows[new])
        self._true = np.concatenate([self._true, data.values[new]])[-_RECENT:]
        self._told = np.concatenate([self._told, mean])[-_RECENT:]
        return {
            objective.name: quality(data.values[new, column], mean[:, column], spread[:, column])
            for column, objective in enumerate(self._objectives)
            if objective.exact is None
        }

    @property
    def doubt(self) -> float:
        """0 while the latest candidates come in the order that was predicted, 1 where the two orders are unrelated.

        One minus twice Kendall's tau in the objective that is predicted worst, within 0..1.
        """
        if len(self._true) < _RECENT // 2:
            return 0.0
        taus = [
            kendall_tau(self._true[:, column], self._told[:, column])
            for column, objective in enumerate(self._objectives)
            if objective.exact is None and np.ptp(self._true[:, column]) > 0
        ]
        return float(np.clip(1 - 2 * min(taus, default=1.0), 0, 1))

    def chance(self, rows: IntArray) -> FloatArray:
        """How likely encoded `rows` (n, k) can be measured at all, (n,) in 0..1; 1 while nothing has failed."""
        if self._works is None:
            return np.ones(len(rows))
        return np.clip(self._works.mean(self._features.of(rows)), 0, 1)

    def mean(self, rows: IntArray) -> FloatArray:
        """Values (n, m) of encoded `rows` (n, k)."""
        x = self._features.of(rows)
        columns = [_exact(o, rows) if model is None else model.mean(x) for o, model in self._each()]
        return np.stack(columns, axis=1)

    def predict(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        """Mean and spread, each (n, m); an exact objective has no spread."""
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
