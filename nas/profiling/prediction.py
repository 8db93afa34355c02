"""Latency of any candidate of a space, predicted from measured ones.

Four ways, all of them relative: what is learned is the ratio to the full network, and errors are counted relative to
it. `table` has a price for each option of each choice, `candidates` is a Gaussian process over the choices, `kernels`
has a price for each kind of operator and its sizes. `combined`, the default, corrects the last by a process over the
choices where that helps on rows left out: it was the best or as good as the best on all networks and runtimes measured
(`benchmarks/latency_predictors.py`).
"""

from collections.abc import Callable
from typing import Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from nas.searching.features import Features, contrast_features, one_hot_features
from predictors import Additive, Corrected, GaussianProcess, Predictor
from search_spaces import Kernels, Space
from search_spaces.arrays import FloatArray, IntArray

Kind = Literal["combined", "kernels", "candidates", "table"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class LatencyPredictor:
    """Encoded candidates of one space to ratios of their latency to the full network's.

    Args:
        space: of the super-network.
        kernels: of the super-network; its candidates are those of `space`.
        kind: see the module.
    """

    def __init__(self, space: Space, kernels: Kernels, kind: Kind = "combined") -> None:
        self._kernels = _shares(space, kernels)
        self._choices = one_hot_features(space) if kind == "table" else contrast_features(space)
        self._kind = kind
        self._predictor: Predictor = self._made()

    @property
    def predictor(self) -> Predictor:
        """What learned, to save: its features are those of `features`."""
        return self._predictor

    def features(self, encoded: IntArray) -> FloatArray:
        """Numbers (n, f) that the predictor sees of encoded candidates (n, k)."""
        rows = np.asarray(encoded, dtype=np.int64)
        if self._kind == "kernels":
            return self._kernels(rows)
        if self._kind == "combined":
            return np.concatenate([self._kernels(rows), self._choices.of(rows)], axis=1)
        return self._choices.of(rows)

    def fit(self, encoded: IntArray, ratios: npt.ArrayLike) -> Self:
        """Learn from encoded candidates (n, k) and their ratios (n,), at least one; raises ValueError."""
        self._predictor = self._made().fit(self.features(encoded), ratios)
        return self

    def predict(self, encoded: IntArray) -> tuple[FloatArray, FloatArray]:
        """Ratio and spread, one standard deviation, each (n,); raises ValueError before fit."""
        return self._predictor.predict(self.features(encoded))

    def mean(self, encoded: IntArray) -> FloatArray:
        """The ratio (n,) alone."""
        return self._predictor.mean(self.features(encoded))

    def _made(self) -> Predictor:
        if self._kind == "candidates":
            return GaussianProcess(self._choices.groups)
        if self._kind == "combined":
            return Corrected(self._kernels.width, self._choices.groups)
        return Additive()


class _Shares:
    """Sums over operators as shares of the full network's, without those that are the same for all candidates."""

    def __init__(self, of: Callable[[IntArray], FloatArray], full: FloatArray, varies: npt.NDArray[np.bool_]) -> None:
        self._of, self._full, self._varies = of, full, varies
        self.width = int(varies.sum())

    def __call__(self, encoded: IntArray) -> FloatArray:
        return np.asarray(self._of(encoded)[:, self._varies] / self._full)


def _shares(space: Space, kernels: Kernels) -> _Shares:
    ends = kernels.of(space.encode([space.largest(), space.smallest()]))
    varies = (ends[0] > 0) & (ends[0] != ends[1])
    return _Shares(kernels.of, ends[0, varies], varies)


def features_of_design(space: Space, kernels: Kernels) -> Callable[[IntArray], FloatArray]:
    """What a design should vary (n, f): contrasts of the choices, and shares of the sums over operators."""
    shares, choices = _shares(space, kernels), _scaled(contrast_features(space))
    return lambda encoded: np.concatenate([shares(encoded), choices(encoded)], axis=1)


def _scaled(features: Features) -> Callable[[IntArray], FloatArray]:
    scale = 1 / np.sqrt(max(1, len(features.groups)))
    return lambda encoded: features.of(encoded) * scale
