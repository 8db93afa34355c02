"""After a search by predicted latencies: what the front's candidates really take, and how far that agrees."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hardware.profile import DeviceProfile, Timing
from nas.errors import NotTaken
from nas.searching import pareto
from nas.searching.measurement import Measurement, Objective
from nas.searching.study import Study
from predictors import kendall_tau, mape
from search_spaces import Candidate


@dataclass(frozen=True)
class Verified:
    """One candidate's latencies by the name of the objective, in milliseconds.

    Args:
        candidate: the sub-network.
        predicted: from each profile.
        measured: of those devices that were at hand. What did not get stable is no measurement.
        unstable: the names of those that were measured and did not get stable.
        refused: the names of those whose runtime does not take the sub-network, which is not offered then.
    """

    candidate: Candidate
    predicted: Mapping[str, float]
    measured: Mapping[str, float]
    unstable: frozenset[str] = frozenset()
    refused: frozenset[str] = frozenset()

    def with_newer(self, newer: "Verified") -> "Verified":
        """The same with what was measured later, on other devices or once more."""
        measured = {**self.measured, **newer.measured}
        unstable = (self.unstable | newer.unstable) - set(measured)
        predicted, refused = {**self.predicted, **newer.predicted}, self.refused | newer.refused
        return Verified(self.candidate, predicted, measured, unstable, refused)


@dataclass(frozen=True)
class Agreement:
    """How predicted and measured latencies agree over some candidates; None where too few were measured.

    Args:
        count: of the candidates.
        kendall_tau: of the ranks, -1 to 1.
        mape: percent of the measured.
        non_dominated: how many of them no other of them dominates when measured.
    """

    count: int
    kendall_tau: float | None
    mape: float | None
    non_dominated: int


Measure = Callable[[Candidate], Timing]


def verify(
    members: Sequence[Measurement],
    devices: Mapping[str, tuple[DeviceProfile, Measure]],
    on_refused: Callable[[str, NotTaken], None] | None = None,
) -> list[Verified]:
    """Measure `members` again, one after the other.

    Args:
        members: of a front, with predicted latencies.
        devices: for objectives whose device is here: its profile, and what measures a candidate there; what raises
            NotTaken is not measured.
        on_refused: called with the name of the objective for each of those.
    """
    found = []
    for member in members:
        predicted = {name: value for name, value in member.values.items() if name.startswith("latency_ms")}
        timings = {}
        for name, (profile, measure) in devices.items():
            try:
                timings[name] = (profile, measure(member.candidate))
            except NotTaken as error:
                if on_refused is not None:
                    on_refused(name, error)
        measured = {name: profile.ratio(t) * profile.full_ms for name, (profile, t) in timings.items() if t.stable}
        unstable, refused = frozenset(timings) - set(measured), frozenset(devices) - set(timings)
        found.append(Verified(member.candidate, predicted, measured, unstable, refused))
    return found


def best_known(members: Sequence[Measurement], verified: Sequence[Verified]) -> list[Measurement]:
    """Members with each latency as measured where it was, else as predicted; without what a runtime does not take."""
    again = {each.candidate: each for each in verified}
    return [
        replace(member, values={**member.values, **again[member.candidate].measured})
        if member.candidate in again
        else member
        for member in members
        if member.candidate not in again or not again[member.candidate].refused
    ]


def offered(study: Study, verified: Sequence[Verified]) -> list[Measurement]:
    """What may be chosen, see `best_known`: once anything was measured again, that, and what is left of the front."""
    again = {each.candidate for each in verified if each.measured}
    members = best_known(study.measurements, verified)
    if not again:
        return members
    front = {member.candidate for member in study.front()} - again
    return [m for m in members if m.candidate in again] + [m for m in members if m.candidate in front]


def agreements(
    members: Sequence[Measurement], objectives: Sequence[Objective], verified: Sequence[Verified]
) -> dict[str, Agreement]:
    """By the name of each latency that was measured again, over those members that were."""
    again = {each.candidate: each for each in verified}
    found = {}
    for name in dict.fromkeys(name for each in verified for name in each.measured):
        known = [m for m in members if m.candidate in again and _both(again[m.candidate], name)]
        if known:
            truth = np.array([again[m.candidate].measured[name] for m in known])
            predicted = np.array([again[m.candidate].predicted[name] for m in known])
            left = _non_dominated(best_known(known, verified), objectives)
            tau = kendall_tau(truth, predicted) if len(known) > 1 else None
            found[name] = Agreement(len(known), tau, mape(truth, predicted), left)
    return found


def _both(verified: Verified, name: str) -> bool:
    return name in verified.measured and name in verified.predicted


def _non_dominated(members: Sequence[Measurement], objectives: Sequence[Objective]) -> int:
    values = np.array([[o.sign * m.values[o.name] for o in objectives] for m in members])
    return int(pareto.front(values.reshape(len(members), len(objectives)), np.zeros(len(members))).sum())
