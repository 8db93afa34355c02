"""How well what a search predicted agrees with what was measured afterwards."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nas.profiling.choice import best_known
from nas.profiling.verification import Verified
from nas.searching import pareto
from nas.searching.measurement import Measurement, Objective
from nas.searching.study import Study
from predictors import kendall_tau, mape


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


def agreement_record(study: Study, verified: Sequence[Verified]) -> dict[str, Any]:
    """Agreement of predicted and measured values over the front, as JSON; empty if nothing was verified."""
    found = agreements(study.front(), study.objectives, verified)
    return {"verified": {name: asdict(agreement) for name, agreement in found.items()}} if found else {}


def _has_both(verified: Verified, name: str) -> bool:
    return name in verified.measured and name in verified.predicted


def _non_dominated(members: Sequence[Measurement], objectives: Sequence[Objective]) -> int:
    values = np.array([[o.sign * m.values[o.name] for o in objectives] for m in members])
    return int(pareto.front(values.reshape(len(members), len(objectives)), np.zeros(len(members))).sum())
