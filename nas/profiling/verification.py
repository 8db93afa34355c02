"""Verification: measure members of a front again, on the files of their deployment and on their devices."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hardware.backend import Runner
from nas.errors import NotTaken
from nas.objectives import SCORES, is_latency
from nas.searching import pareto
from nas.searching.estimation import Estimate, Hits
from nas.searching.measurement import Measurement, Objective
from nas.searching.rescoring import estimates
from nas.searching.selection import with_estimates
from nas.searching.study import Study
from predictors import kendall_tau, mape
from search_spaces import Candidate

_ENOUGH = 3
"""Sub-networks that must have been measured again before the others are expected to change as they did."""


@dataclass(frozen=True)
class Verified:
    """The verification of one candidate; values are by the name of the objective, in its unit.

    Args:
        candidate: the sub-network.
        predicted: values in the search: latencies predicted from profiles, the accuracy of the float32 network.
        measured: values measured afterwards, without unstable ones.
        unstable: objectives whose measurement did not become stable.
        refused: objectives whose runtime does not support the sub-network, which can then not be chosen.
        hits: which validation rows are right; None if the score was not measured again, or is not a share of rows.
        searched_rows: on how many of them the search scored the very same network; None if it scored another precision.
    """

    candidate: Candidate
    predicted: Mapping[str, float]
    measured: Mapping[str, float]
    unstable: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()
    hits: Hits | None = None
    searched_rows: int | None = None

    @property
    def done(self) -> frozenset[str]:
        """The objectives that need no further measurement."""
        return frozenset(self.measured) | self.refused

    def with_newer(self, newer: "Verified") -> "Verified":
        """Merge with a later verification of the same candidate, on other devices or repeated; newer values win."""
        measured = {**self.measured, **newer.measured}
        # A stable measurement supersedes an unstable one.
        unstable = (self.unstable | newer.unstable) - set(measured)
        predicted, refused = {**self.predicted, **newer.predicted}, self.refused | newer.refused
        scored = newer if newer.hits is not None else self
        return Verified(self.candidate, predicted, measured, unstable, refused, scored.hits, scored.searched_rows)


@dataclass(frozen=True)
class Agreement:
    """Agreement of predicted and measured values over some candidates.

    Args:
        count: number of candidates.
        kendall_tau: rank correlation, from -1 to 1; None for fewer than two candidates.
        mape: mean absolute error in percent of the measured values; None if one of these is 0.
        non_dominated: number of these candidates that are not dominated by another of them, by measured values.
    """

    count: int
    kendall_tau: float | None
    mape: float | None
    non_dominated: int


MeasureAgain = Callable[[Candidate], float | None]
"""Measures one value of a candidate; None if it is unstable, and raises NotTaken if the runtime does not support it."""


@dataclass(frozen=True)
class Remeasuring:
    """What is measured of a candidate after a search.

    Args:
        measures: functions that measure, by the name of the objective.
        hits: filled by the function that measures the score: which rows each candidate has right.
        same: objectives that are measured of the very network that the search measured, on more rows: the search did
            not predict these.
        searched_rows: on how many rows the search scored these very networks; None if it scored another precision.
        run: the files of a candidate, loaded; None where nothing is written. Raises NotTaken as the measures do.
    """

    measures: Mapping[str, MeasureAgain]
    hits: Mapping[Candidate, Hits] = field(default_factory=dict)
    same: frozenset[str] = frozenset()
    searched_rows: int | None = None
    run: Callable[[Candidate], Runner] | None = None

    def joined(self, measures: Mapping[str, MeasureAgain]) -> "Remeasuring":
        """With further measures."""
        return replace(self, measures={**self.measures, **measures})

    def without(self, names: Collection[str]) -> "Remeasuring":
        """Without the objectives that are measured already."""
        return replace(self, measures={name: each for name, each in self.measures.items() if name not in names})


def verify(
    member: Measurement, again: Remeasuring, on_refused: Callable[[str, NotTaken], None] | None = None
) -> Verified:
    """Measure a member of a front again.

    Args:
        member: the member with its values in the search.
        again: what is measured.
        on_refused: called with the name of the objective if its runtime does not support the sub-network.

    Returns:
        The predicted and the measured values.
    """
    # Latencies are kept even if this machine cannot measure them: another one may do so later.
    names = set(again.measures) - again.same
    predicted = {name: value for name, value in member.values.items() if is_latency(name) or name in names}
    found: dict[str, float | None] = {}
    for name, measure in again.measures.items():
        try:
            found[name] = measure(member.candidate)
        except NotTaken as error:
            if on_refused is not None:
                on_refused(name, error)
    measured = {name: value for name, value in found.items() if value is not None}
    unstable, refused = frozenset(found) - set(measured), frozenset(again.measures) - set(found)
    hits = again.hits.get(member.candidate)
    return Verified(member.candidate, predicted, measured, unstable, refused, hits, again.searched_rows)


def best_known(members: Sequence[Measurement], verified: Sequence[Verified]) -> list[Measurement]:
    """The members with measured values in place of predicted ones where there are any.

    Members that a runtime does not support are left out.
    """
    again = {each.candidate: each for each in verified}
    return [
        replace(member, values={**member.values, **again[member.candidate].measured})
        if member.candidate in again
        else member
        for member in members
        if member.candidate not in again or not again[member.candidate].refused
    ]


def expected(study: Study, verified: Sequence[Verified]) -> list[Measurement]:
    """The candidates as `best_known`, and those that were not measured again as their measurement would come out.

    The best of many scores or predictions is the best by luck too, so what a search says of those not yet measured
    again looks better than what was. Accuracies are therefore estimates for new rows, of all candidates; where there
    are none, scores are moved by the median difference of measured to searched ones, and costs are multiplied by the
    median ratio, once three are known.
    """
    searched = {member.candidate: member.values for member in study.measurements}
    changes = _changes([(searched[each.candidate], each.measured) for each in verified if each.candidate in searched])
    again = {each.candidate for each in verified}
    moved = [
        member
        if member.candidate in again or member.state != "measured"
        else replace(member, values={name: changes(name, value) for name, value in member.values.items()})
        for member in best_known(study.measurements, verified)
    ]
    return with_estimates(moved, _estimates(study, verified, moved))


def _changes(pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> Callable[[str, float], float]:
    """What measuring again makes of a value, from values before and after."""

    def changed(name: str, value: float) -> float:
        known = [(before[name], after[name]) for before, after in pairs if name in before and name in after]
        if len(known) < _ENOUGH:
            return value
        # Costs by ratios, so that none of them falls below 0.
        if name not in SCORES and all(before > 0 and after > 0 for before, after in known):
            return value * float(np.median([after / before for before, after in known]))
        return value + float(np.median([after - before for before, after in known]))

    return changed


def estimates_of(study: Study, verified: Sequence[Verified]) -> dict[Candidate, Estimate]:
    """The accuracy to expect on new rows, of the candidates whose right rows are known."""
    known = {each.candidate for each in verified if each.hits is not None}
    found = _estimates(study, verified, best_known(study.measurements, verified))
    return {candidate: each for candidate, each in found.items() if candidate in known}


def _estimates(study: Study, verified: Sequence[Verified], members: Sequence[Measurement]) -> dict[Candidate, Estimate]:
    """The accuracy to expect on new rows, of all `members`, which have the best known values of the costs."""
    hits = {each.candidate: each.hits for each in verified if each.hits is not None}
    searched_rows = next((each.searched_rows for each in verified if each.hits is not None), None)
    costs = {member.candidate: member.values for member in members}
    searched = [member for member in study.measurements if member.candidate in costs]
    return estimates(searched, study.objectives, hits, searched_rows, costs)


def offered(study: Study, verified: Sequence[Verified]) -> list[Measurement]:
    """The candidates that may be chosen, with the values of `best_known` and accuracies as estimated where they are.

    Without any verification these are all candidates of the study. Otherwise they are the verified ones and the rest of
    the front. The rest is left out if scores were verified, because accuracies of the float32 network do not compare
    with those of files in another precision.
    """
    again = {each.candidate for each in verified if each.measured}
    members = with_estimates(best_known(study.measurements, verified), estimates_of(study, verified))
    if not again:
        return members
    found = [m for m in members if m.candidate in again]
    scores = {o.name for o in study.objectives if o.direction == "maximize"}
    if any(scores & set(each.measured) and each.searched_rows is None for each in verified):
        return found
    front = {member.candidate for member in study.front()} - again
    return found + [m for m in members if m.candidate in front]


def agreements(
    members: Sequence[Measurement], objectives: Sequence[Objective], verified: Sequence[Verified]
) -> dict[str, Agreement]:
    """Agreement of predicted and measured values for each verified objective, over the verified members."""
    again = {each.candidate: each for each in verified}
    found = {}
    for name in dict.fromkeys(name for each in verified for name in each.measured):
        known = [m for m in members if m.candidate in again and _has_both(again[m.candidate], name)]
        if known:
            truth = np.array([again[m.candidate].measured[name] for m in known])
            predicted = np.array([again[m.candidate].predicted[name] for m in known])
            left = _non_dominated(best_known(known, verified), objectives)
            tau = kendall_tau(truth, predicted) if len(known) > 1 else None
            # A percentage of zero is undefined.
            error = mape(truth, predicted) if truth.all() else None
            found[name] = Agreement(len(known), tau, error, left)
    return found


def _has_both(verified: Verified, name: str) -> bool:
    return name in verified.measured and name in verified.predicted


def _non_dominated(members: Sequence[Measurement], objectives: Sequence[Objective]) -> int:
    values = np.array([[o.sign * m.values[o.name] for o in objectives] for m in members])
    return int(pareto.front(values.reshape(len(members), len(objectives)), np.zeros(len(members))).sum())
