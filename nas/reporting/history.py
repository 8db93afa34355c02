"""How a search went, from its record alone: hypervolume over evaluations, and how well results could be foreseen."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from nas.searching import pareto
from nas.searching.features import contrast_features
from nas.searching.measurement import Measurement, Objective
from nas.searching.progress import box_of, reference_point
from nas.searching.study import Study
from predictors import GaussianProcess, Quality, quality
from search_spaces.arrays import FloatArray

_MOST_POINTS, _MOST_POINTS_OF_MANY = 150, 40
_FIRST, _ROUNDS, _MOST_FORESEEN = 10, 4, 240


@dataclass(frozen=True)
class Growth:
    """Hypervolume after some numbers of evaluations.

    Args:
        counts: of evaluations.
        shares: of the box between the reference and the ideal; where the full network was not measured, of the volume
            at the end.
        of_box: which of them.
    """

    counts: tuple[int, ...]
    shares: tuple[float, ...]
    of_box: bool


@dataclass(frozen=True)
class Foreseen:
    """Results of a search as a predictor foresaw them from those before, by the name of the objective.

    Args:
        truth: raw values, in the order of measurement.
        predicted: of them.
        spreads: half widths of the 90 % intervals.
        quality: over all of them.
    """

    truth: tuple[float, ...]
    predicted: tuple[float, ...]
    spreads: tuple[float, ...]
    quality: Quality


def growth(study: Study) -> Growth | None:
    """The hypervolume as it grew; None before anything was measured."""
    measurements = study.measurements
    values = _minimised(measurements, study.objectives)
    finite = np.isfinite(values).all(axis=1)
    if not finite.any():
        return None
    signs = np.array([objective.sign for objective in study.objectives])
    reference = reference_point(study)
    bound = np.asarray(reference) * signs if reference is not None else values[finite].max(axis=0)
    most = _MOST_POINTS if len(study.objectives) < 3 else _MOST_POINTS_OF_MANY
    counts = np.unique(np.linspace(1, len(values), min(most, len(values))).round().astype(int))
    volumes, best, before = [], values[:0], 0
    for count in counts.tolist():
        # What is dominated adds nothing, then or later.
        rows = np.concatenate([best, values[before:count]])
        best, before = rows[pareto.front(rows)], count
        volumes.append(pareto.hypervolume(best, bound))
    whole = box_of(reference) if reference is not None else volumes[-1] or 1.0
    return Growth(tuple(counts.tolist()), tuple(volume / whole for volume in volumes), reference is not None)


def foreseen(study: Study, computed: Collection[str]) -> dict[str, Foreseen]:
    """Foresee results from those before them, in a few rounds, as a search with predictors does.

    Args:
        study: of any algorithm; its first 240 results are used.
        computed: names of objectives that a search computes and never predicts.

    Returns:
        By the name of each objective that is measured; empty where there are too few results.
    """
    measured = [m for m in study.measurements if m.state == "measured"][:_MOST_FORESEEN]
    names = [objective.name for objective in study.objectives if objective.name not in computed]
    if len(measured) < 2 * _FIRST:
        return {}
    features = contrast_features(study.space)
    x = features.of(study.space.encode([m.candidate for m in measured]))
    # Each round has seen twice as many as the one before, or nearly.
    ends = np.unique(np.geomspace(_FIRST, len(measured), _ROUNDS + 1).round().astype(int)).tolist()
    return {name: _foreseen(x, np.array([m.values[name] for m in measured]), features.groups, ends) for name in names}


def _foreseen(x: FloatArray, y: FloatArray, groups: tuple[int, ...], ends: Sequence[int]) -> Foreseen:
    means, spreads = [], []
    for begin, end in pairwise(ends):
        mean, spread = GaussianProcess(groups).fit(x[:begin], y[:begin]).predict(x[begin:end])
        means.append(mean)
        spreads.append(spread)
    truth, mean, spread = y[ends[0] : ends[-1]], np.concatenate(means), np.concatenate(spreads)
    interval = 1.645 * spread
    return Foreseen(tuple(truth.tolist()), tuple(mean.tolist()), tuple(interval.tolist()), quality(truth, mean, spread))


def _minimised(measurements: Sequence[Measurement], objectives: Sequence[Objective]) -> FloatArray:
    """Minimised values (n, m), NaN for failed candidates."""
    rows = [[o.sign * m.values.get(o.name, np.nan) for o in objectives] for m in measurements]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(objectives))
