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
    """

    candidate: Candidate
    predicted: Mapping[str, float]
    measured: Mapping[str, float]
    unstable: frozenset[str] = frozenset()

    def with_newer(self, newer: "Verified") -> "Verified":
        """The same with what was measured later, on other devices or once more."""
        measured = {**self.measured, **newer.measured}
        unstable = (self.unstable | newer.unstable) - set(measured)
        return replace(newer, predicted={**self.predicted, **newer.predicted}, measured=measured, unstable=unstable)


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
MOST = 60
"""So many of a front are measured again."""


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
        found.append(Verified(member.candidate, predicted, measured, frozenset(timings) - set(measured)))
    return found


def as_measured(members: Sequence[Measurement], verified: Sequence[Verified]) -> list[Measurement]:
    """Those of the members that were measured again, with the latencies measured in place of the predicted.

    Where several devices were at hand, those that were measured on all of them.
    """
    names = {name for each in verified for name in each.measured}
    known = {each.candidate: each.measured for each in verified if each.measured and names <= set(each.measured)}
    return [
        replace(member, values={**member.values, **known[member.candidate]})
        for member in members
        if member.candidate in known
    ]


def offered(study: Study, verified: Sequence[Verified]) -> list[Measurement]:
    """What may be chosen: once anything was measured again, those candidates, with the latencies measured.

    Of a front that is measured in part, the rest goes on to stand for what is predicted of it.
    """
    again = as_measured(study.measurements, verified)
    if not again:
        return list(study.measurements)
    done = {member.candidate for member in again}
    return [*again, *(member for member in study.front()[:MOST] if member.candidate not in done)]


def agreements(
    members: Sequence[Measurement], objectives: Sequence[Objective], verified: Sequence[Verified]
) -> dict[str, Agreement]:
    """By the name of each latency that was measured again, over those members that were."""
    again = as_measured(members, verified)
    values = np.array([[o.sign * m.values[o.name] for o in objectives] for m in again]).reshape(
        len(again), len(objectives)
    )
    left = int(pareto.front(values, np.zeros(len(values))).sum()) if len(again) else 0
    found = {}
    for name in {name: None for each in verified for name in each.measured if name in each.predicted}:
        known = [each for each in verified if name in each.measured and name in each.predicted]
        pairs = [(each.measured[name], each.predicted[name]) for each in known]
        truth, predicted = (np.array(side) for side in zip(*pairs, strict=True))
        tau = kendall_tau(truth, predicted) if len(pairs) > 1 else None
        found[name] = Agreement(len(pairs), tau, mape(truth, predicted), left)
    return found
