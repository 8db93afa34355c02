"""The members of a front and their rivals, scored once more on all validation rows, and what is estimated from that."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from hardware.latency import fixed_threads
from nas.data.accuracy import predict
from nas.data.split import Split
from nas.objectives import ACCURACY, SCORES
from nas.searching import pareto
from nas.searching.estimation import Estimate, Hits, Others, estimated
from nas.searching.measurement import Measurement, Objective, violations
from nas.searching.study import Study
from search_spaces import Candidate
from search_spaces.arrays import FloatArray

MOST_RIVALS = 12
"""At most so many candidates beside a front are scored again: those that noise is most likely to have kept off it."""
_ENOUGH = 3
"""Candidates that must have been measured again before others are expected to change as they did."""


class Scorer:
    """Scores candidates on rows, and keeps which rows each has right.

    Args:
        forward: a callable that computes a candidate.
        rows: all validation rows.
        device: that the inputs are moved to.
        threads: of PyTorch; None: as they are.

    Attributes:
        hits: by candidate; nothing where a score is no share of right rows, as R squared and the share of right words.
    """

    def __init__(
        self,
        forward: Callable[[Candidate], Callable[..., Any]],
        rows: Split,
        device: torch.device | str = "cpu",
        threads: int | None = None,
    ) -> None:
        self._forward, self._rows, self._device, self._threads = forward, rows, device, threads
        self.hits: dict[Candidate, Hits] = {}

    def __call__(self, candidate: Candidate) -> float:
        """The score by the metric of the task; NaN if an output is NaN, of which no hits are kept."""
        with fixed_threads(self._threads or torch.get_num_threads()):
            outputs = predict(self._forward(candidate), self._rows, device=self._device)
        right = self._rows.task.correct(outputs, self._rows)
        score = self._rows.task.score(outputs, self._rows)
        # Words of one sentence are not independent, so that nothing is estimated from them.
        if right is not None and len(right) == len(self._rows) and math.isfinite(score):
            self.hits[candidate] = Hits.of(right)
        return score


def rivals(measurements: Sequence[Measurement], objectives: Sequence[Objective], rows: int) -> list[Measurement]:
    """Measured candidates off the front that may belong on it, since their score was measured on few rows.

    They are those that no other dominates once their score is raised by its standard error; where there are more than
    `MOST_RIVALS`, those that are dominated by the least.

    Args:
        measurements: of a search.
        objectives: of the search.
        rows: that its scores were measured on.
    """
    score = next((column for column, o in enumerate(objectives) if o.name == ACCURACY), None)
    good = [m for m in measurements if m.state == "measured"]
    if score is None or not good:
        return []
    values = np.array([[o.sign * m.values[o.name] for o in objectives] for m in good])
    broken = violations(values, objectives)
    on_front = pareto.front(values, broken)
    share = np.clip(-values[:, score], 0.0, 1.0)
    error = np.sqrt(share * (1 - share) / rows)
    lag = np.array([_behind(values, row, score) for row in values])
    order = np.argsort(lag / np.maximum(error, 1e-9), kind="stable")
    near = [index for index in order if not (on_front[index] or broken[index]) and lag[index] <= error[index]]
    return [good[index] for index in near[:MOST_RIVALS]]


def _behind(values: FloatArray, row: FloatArray, score: int) -> float:
    """By how much the score of a row is below the best of those that are no worse in all other objectives."""
    others = np.delete(values, score, axis=1) <= np.delete(row, score)
    return float(row[score] - values[others.all(axis=1), score].min())


def estimates(
    measurements: Sequence[Measurement],
    objectives: Sequence[Objective],
    hits: Mapping[Candidate, Hits],
    searched_rows: int | None = None,
    costs: Mapping[Candidate, Mapping[str, float]] | None = None,
) -> dict[Candidate, Estimate]:
    """Estimate the accuracies of all candidates from those whose hits are known on the same rows.

    Args:
        measurements: as the search has them.
        objectives: of the search; without accuracy nothing is estimated.
        hits: of some candidates.
        searched_rows: that the search measured accuracies on; None: it measured networks in another precision, and
            only candidates whose hits are known are estimated.
        costs: the best values that are known of the costs; None: those of the search.
    """
    if all(o.name != ACCURACY for o in objectives):
        return {}
    rows = max((each.rows for each in hits.values()), default=0)
    measured = [m for m in measurements if m.state == "measured"]
    members = [m for m in measured if m.candidate in hits and hits[m.candidate].rows == rows]
    if not members:
        return {}
    rest = [m for m in measured if m.candidate not in hits] if searched_rows else []
    known = {m.candidate: m.values if costs is None else costs[m.candidate] for m in measured}
    names = [
        o.name
        for o in objectives
        if o.direction == "minimize" and all(known[m.candidate][o.name] > 0 for m in measured)
    ]

    def costs_of(some: Sequence[Measurement]) -> FloatArray:
        return np.array([[known[m.candidate][name] for name in names] for m in some]).reshape(len(some), len(names))

    others = None
    if searched_rows and rest:
        # What candidates find hard is much the same, so that all rows are harder or easier than those of the search.
        pairs = [(m.values[ACCURACY], float(hits[m.candidate].array().mean())) for m in members]
        moved = change(ACCURACY, pairs)
        accuracies = np.array([moved(m.values[ACCURACY]) for m in rest])
        others = Others(accuracies, costs_of(rest), min(searched_rows, rows))
    found = estimated(np.array([hits[m.candidate].array() for m in members]), costs_of(members), others)
    return {m.candidate: each for m, each in zip([*members, *rest], found, strict=True)}


def change(name: str, pairs: Sequence[tuple[float, float]]) -> Callable[[float], float]:
    """What measuring again makes of a value of the search: the median of what it made of others.

    Args:
        name: of the objective.
        pairs: values of others, each as the search has it and as it was measured again.

    Returns:
        From a value of the search to what to expect of it; the value itself where fewer than three others are known.
    """
    if len(pairs) < _ENOUGH:
        return lambda value: value
    # Costs by ratios, so that none of them falls below 0.
    if name not in SCORES and all(before > 0 and after > 0 for before, after in pairs):
        ratio = float(np.median([after / before for before, after in pairs]))
        return lambda value: value * ratio
    difference = float(np.median([after - before for before, after in pairs]))
    return lambda value: value + difference


def rescored(study: Study, scorer: Scorer, rows: int) -> dict[Candidate, Estimate]:
    """Score the front, its rivals and the full network on all rows, and estimate from that what to expect on new rows.

    Args:
        study: of a search for accuracy.
        scorer: on all validation rows.
        rows: that the search scored candidates on.
    """
    full = study.find(study.space.full())
    members = [*study.front(), *rivals(study.measurements, study.objectives, rows), *([full] if full else [])]
    for candidate in dict.fromkeys(member.candidate for member in members):
        scorer(candidate)
    found = estimates(study.measurements, study.objectives, scorer.hits, rows)
    return {candidate: each for candidate, each in found.items() if candidate in scorer.hits}
