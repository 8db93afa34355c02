"""After a search by predicted latencies: what the front's candidates really take, and how far that agrees."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hardware.profile import DeviceProfile, Timing
from nas.profiling.rows import full_ms, relative
from nas.searching import pareto
from nas.searching.measurement import Measurement, Objective
from predictors import kendall_tau, mape
from search_spaces import Candidate


@dataclass(frozen=True)
class Verified:
    """One candidate's latencies by the name of the objective: predicted, and measured where that device is here."""

    candidate: Candidate
    predicted: Mapping[str, float]
    measured: Mapping[str, float]
    stable: bool


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


def verify(members: Sequence[Measurement], devices: Mapping[str, tuple[DeviceProfile, Measure]]) -> list[Verified]:
    """Measure `members` again, one after the other.

    Args:
        members: of a front, with predicted latencies.
        devices: for objectives whose device is here: its profile, and what measures a candidate there.
    """
    found = []
    for member in members:
        predicted = {name: value for name, value in member.values.items() if name.startswith("latency_ms")}
        measured, stable = {}, True
        for name, (profile, measure) in devices.items():
            timing = measure(member.candidate)
            measured[name] = relative(timing, profile) * full_ms(profile)
            stable = stable and timing.stable
        found.append(Verified(member.candidate, predicted, measured, stable))
    return found


def as_measured(members: Sequence[Measurement], verified: Sequence[Verified]) -> list[Measurement]:
    """Those of the members that were measured again, with the latencies measured in place of the predicted.

    What did not get stable is no measurement.
    """
    known = {each.candidate: each for each in verified if each.stable}
    return [
        replace(member, values={**member.values, **known[member.candidate].measured})
        for member in members
        if member.candidate in known
    ]


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
    stable = [each for each in verified if each.stable]
    for name in {name: None for each in stable for name in each.measured if name in each.predicted}:
        known = [each for each in stable if name in each.measured and name in each.predicted]
        pairs = [(each.measured[name], each.predicted[name]) for each in known]
        truth, predicted = (np.array(side) for side in zip(*pairs, strict=True))
        tau = kendall_tau(truth, predicted) if len(pairs) > 1 else None
        found[name] = Agreement(len(pairs), tau, mape(truth, predicted), left)
    return found
