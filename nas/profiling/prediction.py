"""Predict the latency of any candidate of a space from measured candidates.

All four predictors learn the ratio of a candidate's latency to the full network's, and minimise relative errors:

- `table`: a linear model with one coefficient for each option of each choice.
- `candidates`: a Gaussian process over the choices.
- `kernels`: a linear model of the work of each type of operator.
- `combined` (default): `kernels`, corrected by a Gaussian process over the choices where that improves the prediction
  of held-out rows. It was the best or equal to the best on all networks and runtimes measured
  (`benchmarks/latency_predictors.py`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from nas.searching.features import Features, contrast_features, one_hot_features
from predictors import Additive, Corrected, GaussianProcess, Predictor
from search_spaces import Kernels, Space
from search_spaces.arrays import FloatArray, IntArray

PredictorKind = Literal["combined", "kernels", "candidates", "table"]
_DRAWN = 64
PREDICTOR_KINDS: tuple[PredictorKind, ...] = get_args(PredictorKind)


class LatencyPredictor:
    """Predicts the ratio of a candidate's latency to the full network's.

    Args:
        space: the space of the super-network.
        kernels: sums of work over the operators of its candidates.
        kind: one of `PREDICTOR_KINDS`, described at the top of this module.
    """

    def __init__(self, space: Space, kernels: Kernels, kind: PredictorKind = "combined") -> None:
        self._kind = _KINDS[kind]
        self._work, self._choices = _shares(space, kernels), self._kind.choices(space)
        self._predictor = self._kind.make(self._work, self._choices)

    @property
    def predictor(self) -> Predictor:
        """The fitted model, for saving; its inputs are the results of `features`."""
        return self._predictor

    def features(self, encoded: IntArray) -> FloatArray:
        """Features (n, f) of encoded candidates (n, k), the inputs of the model."""
        return self._kind.features(self._work, self._choices, np.asarray(encoded, dtype=np.int64))

    def fit(self, encoded: IntArray, ratios: npt.ArrayLike) -> Self:
        """Learn from encoded candidates (n, k) and their ratios (n,); raises ValueError if there are none."""
        predictor = self._kind.make(self._work, self._choices)
        self._predictor = predictor.fit(self.features(encoded), ratios)
        return self

    def predict(self, encoded: IntArray) -> tuple[FloatArray, FloatArray]:
        """Predicted ratios (n,) and their standard deviations (n,); raises ValueError before `fit`."""
        return self._predictor.predict(self.features(encoded))

    def mean(self, encoded: IntArray) -> FloatArray:
        """Predicted ratios (n,) without standard deviations, which is faster; raises ValueError before `fit`."""
        return self._predictor.mean(self.features(encoded))


class _Shares:
    """Sums of work over the operators of candidates, each divided by the largest sum of any candidate.

    Sums that are the same for all candidates are left out: they carry no information.
    """

    def __init__(self, of: Callable[[IntArray], FloatArray], most: FloatArray, varies: npt.NDArray[np.bool_]) -> None:
        self._of, self._most, self._varies = of, most, varies
        self.width = int(varies.sum())

    def __call__(self, encoded: IntArray) -> FloatArray:
        return np.asarray(self._of(encoded)[:, self._varies] / self._most)


def _of_work(work: _Shares, choices: Features, rows: IntArray) -> FloatArray:
    return work(rows)


def _of_choices(work: _Shares, choices: Features, rows: IntArray) -> FloatArray:
    return choices.of(rows)


def _of_both(work: _Shares, choices: Features, rows: IntArray) -> FloatArray:
    return np.concatenate([work(rows), choices.of(rows)], axis=1)


@dataclass(frozen=True)
class _Kind:
    """One kind of predictor.

    Args:
        choices: how it encodes the choices of a space.
        features: its features (n, f), of shares of work, encoded choices and encoded candidates (n, k).
        make: the unfitted model of these features.
    """

    choices: Callable[[Space], Features]
    features: Callable[[_Shares, Features, IntArray], FloatArray]
    make: Callable[[_Shares, Features], Predictor]


def _additive(work: _Shares, choices: Features) -> Predictor:
    return Additive()


def _process(work: _Shares, choices: Features) -> Predictor:
    return GaussianProcess(choices.groups)


def _corrected(work: _Shares, choices: Features) -> Predictor:
    return Corrected(work.width, choices.groups)


_KINDS: Mapping[PredictorKind, _Kind] = {
    "combined": _Kind(contrast_features, _of_both, _corrected),
    "kernels": _Kind(contrast_features, _of_work, _additive),
    "candidates": _Kind(contrast_features, _of_choices, _process),
    "table": _Kind(one_hot_features, _of_choices, _additive),
}


def _shares(space: Space, kernels: Kernels) -> _Shares:
    # Work grows with every size, so without precisions the full and the smallest network are enough. With them the full
    # network has no work at all in most precisions, and random candidates have some in each.
    ends = space.encode([space.full(), space.smallest()])
    sums = kernels.of(np.concatenate([ends, space.random(_DRAWN, np.random.default_rng(0))]))
    varies = np.ptp(sums, axis=0) > 0
    return _Shares(kernels.of, sums[:, varies].max(axis=0), varies)


def features_of_design(space: Space, kernels: Kernels) -> Callable[[IntArray], FloatArray]:
    """The features (n, f) for the choice of candidates to measure: shares of work, and contrasts of the choices."""
    shares, choices = _shares(space, kernels), _scaled(contrast_features(space))
    return lambda encoded: np.concatenate([shares(encoded), choices(encoded)], axis=1)


def _scaled(features: Features) -> Callable[[IntArray], FloatArray]:
    # The contrasts together then weigh about as much as one share of work, however many choices there are.
    scale = 1 / np.sqrt(max(1, len(features.groups)))
    return lambda encoded: features.of(encoded) * scale
