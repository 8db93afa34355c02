"""What the members of a front are once they are measured again: in their deployment's files, and on their devices."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nas.errors import NotTaken
from nas.objectives import is_latency
from nas.searching import pareto
from nas.searching.measurement import Measurement, Objective
from nas.searching.study import Study
from predictors import kendall_tau, mape
from search_spaces import Candidate


@dataclass(frozen=True)
class Verified:
    """Values of one candidate by the name of the objective, in its unit.

    Args:
        candidate: the sub-network.
        predicted: as the search had them: latencies from profiles, the accuracy of float32.
        measured: as measured afterwards. What did not get stable is no measurement.
        unstable: the names of those that were measured and did not get stable.
        refused: the names of those whose runtime does not take the sub-network, which is not offered then.
    """

    candidate: Candidate
    predicted: Mapping[str, float]
    measured: Mapping[str, float]
    unstable: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()

    @property
    def done(self) -> frozenset[str]:
        """The names of what need not be measured again."""
        return frozenset(self.measured) | self.refused

    def with_newer(self, newer: "Verified") -> "Verified":
        """The same with what was measured later, on other devices or once more."""
        measured = {**self.measured, **newer.measured}
        unstable = (self.unstable | newer.unstable) - set(measured)
        predicted, refused = {**self.predicted, **newer.predicted}, self.refused | newer.refused
        return Verified(self.candidate, predicted, measured, unstable, refused)


@dataclass(frozen=True)
class Agreement:
    """How predicted and measured values agree over some candidates; None where too few were measured.

    Args:
        count: of the candidates.
        kendall_tau: of the ranks, -1 to 1.
        mape: mean absolute percentage error, of the measured values.
        non_dominated: how many of them no other of them dominates when measured.
    """

    count: int
    kendall_tau: float | None
    mape: float | None
    non_dominated: int


MeasureAgain = Callable[[Candidate], float | None]
"""Measures one value of a candidate: None where it did not get stable; raises NotTaken where the runtime refuses it."""


def verify(
    member: Measurement,
    measures: Mapping[str, MeasureAgain],
    on_refused: Callable[[str, NotTaken], None] | None = None,
) -> Verified:
    """Measure a member of a front again.

    Args:
        member: with the values of the search.
        measures: by the name of the objective.
        on_refused: called with the name of the objective where a runtime refuses the sub-network.
    """
    predicted = {name: value for name, value in member.values.items() if is_latency(name) or name in measures}
    found: dict[str, float | None] = {}
    for name, measure in measures.items():
        try:
            found[name] = measure(member.candidate)
        except NotTaken as error:
            if on_refused is not None:
                on_refused(name, error)
    measured = {name: value for name, value in found.items() if value is not None}
    unstable, refused = frozenset(found) - set(measured), frozenset(measures) - set(found)
    return Verified(member.candidate, predicted, measured, unstable, refused)


def best_known(members: Sequence[Measurement], verified: Sequence[Verified]) -> list[Measurement]:
    """Members with each value as measured again where it was, else as the search had it.

    Without what a runtime does not take.
    """
    again = {each.candidate: each for each in verified}
    return [
        replace(member, values={**member.values, **again[member.candidate].measured})
        if member.candidate in again
        else member
        for member in members
        if member.candidate not in again or not again[member.candidate].refused
    ]


def offered(study: Study, verified: Sequence[Verified]) -> list[Measurement]:
    """What may be chosen, with the values of `best_known`.

    Once anything was measured again, that is what is offered. The rest of the front is offered beside it only as long
    as no score was measured again: float32 accuracies do not compare with those of files in another precision.
    """
    again = {each.candidate for each in verified if each.measured}
    members = best_known(study.measurements, verified)
    if not again:
        return members
    found = [m for m in members if m.candidate in again]
    scores = {o.name for o in study.objectives if o.direction == "maximize"}
    if any(scores & set(each.measured) for each in verified):
        return found
    front = {member.candidate for member in study.front()} - again
    return found + [m for m in members if m.candidate in front]


def agreements(
    members: Sequence[Measurement], objectives: Sequence[Objective], verified: Sequence[Verified]
) -> dict[str, Agreement]:
    """How the values agree, by the name of each objective that was measured again, over those members that were."""
    again = {each.candidate: each for each in verified}
    found = {}
    for name in dict.fromkeys(name for each in verified for name in each.measured):
        known = [m for m in members if m.candidate in again and _has_both(again[m.candidate], name)]
        if known:
            truth = np.array([again[m.candidate].measured[name] for m in known])
            predicted = np.array([again[m.candidate].predicted[name] for m in known])
            left = _non_dominated(best_known(known, verified), objectives)
            tau = kendall_tau(truth, predicted) if len(known) > 1 else None
            error = mape(truth, predicted) if truth.all() else None
            found[name] = Agreement(len(known), tau, error, left)
    return found


def _has_both(verified: Verified, name: str) -> bool:
    return name in verified.measured and name in verified.predicted


def _non_dominated(members: Sequence[Measurement], objectives: Sequence[Objective]) -> int:
    values = np.array([[o.sign * m.values[o.name] for o in objectives] for m in members])
    return int(pareto.front(values.reshape(len(members), len(objectives)), np.zeros(len(members))).sum())
