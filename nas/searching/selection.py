"""Select one measured candidate by limits on its objectives."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from nas.errors import NoFeasible, UserError
from nas.objectives import ACCURACY
from nas.searching import pareto
from nas.searching.domain import C
from nas.searching.estimation import Estimate
from nas.searching.measurement import Measurement, Objective
from nas.sentences import one_of

Bound = tuple[str, float, float]
"""(objective, 1 for an upper and -1 for a lower bound, bound as a raw value)."""


def select(
    measurements: Sequence[Measurement[C]],
    objectives: Sequence[Objective],
    limits: Mapping[str, float],
    found: Mapping[C, Estimate] = MappingProxyType({}),
) -> Measurement[C]:
    """Choose the best candidate in the first objective (ties by the next ones) that meets all limits.

    Args:
        measurements: the measurements to choose from.
        objectives: the objectives; their own limits apply too.
        limits: bounds on raw values, by `max_` or `min_` and the name of the objective.
        found: estimates of accuracies, which the message names beside the measured ones.

    Raises:
        UserError: a limit does not name an objective, or is not a finite number.
        NoFeasible: no measured candidate meets the limits; the message names the nearest one.
    """
    bounds = bounds_of(objectives, limits)
    measured = _measured(measurements)
    feasible = [m for m in measured if _excess(m, bounds) <= 0]
    if not feasible:
        nearest = _nearest(measured, objectives, bounds)
        raise _none_meets(len(measured), bounds, nearest, found.get(nearest.candidate))
    return min(feasible, key=lambda m: _minimised(m, objectives))


def select_by_estimates(
    measurements: Sequence[Measurement[C]],
    objectives: Sequence[Objective],
    limits: Mapping[str, float],
    found: Mapping[C, Estimate],
    conditions: Callable[[C], Hashable] = lambda candidate: None,
) -> Measurement[C]:
    """Choose as `select`, but by accuracies as estimated for new rows where there are any.

    The estimate of a costly candidate may be higher although no measured value is better: more is expected of it. Where
    no limit says what a cost may be, that is no reason to pay it, so nothing is chosen that another candidate dominates
    as measured under the same conditions. Within a limit on a cost, one of the same measured accuracy must dominate it.

    Args:
        measurements: with measured values, of which those are chosen from that are `comparable`.
        objectives: as for `select`.
        limits: as for `select`; a limit on the accuracy goes by estimates.
        found: the estimates.
        conditions: what the measured values of a candidate depend on, beside the rows of its accuracy.

    Returns:
        The chosen one, its accuracy as estimated.

    Raises:
        UserError: as `select`.
        NoFeasible: as `select`; the message names the measured accuracy and the estimate.
    """
    if not found:
        return select(measurements, objectives, limits)
    bounds = bounds_of(objectives, limits)
    members = _measured(comparable(measurements, found))
    feasible = [m for m in members if _excess(m, bounds) <= 0]
    if not feasible:
        nearest = _nearest(members, objectives, bounds)
        raise _none_meets(len(members), bounds, as_measured(nearest, found), found[nearest.candidate])
    cost_limited = any(name != ACCURACY for name, _, _ in bounds)

    def alike(member: Measurement[C]) -> Hashable:
        estimate = found[member.candidate]
        return conditions(member.candidate), estimate.rows, estimate.raw if cost_limited else None

    left = _undominated(feasible, objectives, found, alike)
    return min(left, key=lambda m: _minimised(m, objectives))


def comparable(measurements: Sequence[Measurement[C]], found: Mapping[C, Estimate]) -> list[Measurement[C]]:
    """Measurements whose accuracies compare with each other, to choose among them.

    A measured accuracy is partly luck, and an estimate for new rows is not. So where there are estimates, those that
    have one are left, with it; else all are.
    """
    return with_estimates([m for m in measurements if m.candidate in found], found) if found else list(measurements)


def with_estimates(measurements: Sequence[Measurement[C]], found: Mapping[C, Estimate]) -> list[Measurement[C]]:
    """The measurements with accuracies as estimated for new rows, where they are."""
    score = ACCURACY
    return [
        replace(m, values={**m.values, score: found[m.candidate].value}) if m.candidate in found else m
        for m in measurements
    ]


def as_measured(measurement: Measurement[C], found: Mapping[C, Estimate]) -> Measurement[C]:
    """The measurement with its accuracy as it was measured on the rows that its estimate is from."""
    return replace(measurement, values={**measurement.values, ACCURACY: found[measurement.candidate].raw})


def _undominated(
    members: Sequence[Measurement[C]],
    objectives: Sequence[Objective],
    found: Mapping[C, Estimate],
    alike: Callable[[Measurement[C]], Hashable],
) -> list[Measurement[C]]:
    """The members that no other one that is `alike` dominates in measured values."""
    groups: dict[Hashable, list[Measurement[C]]] = {}
    for member in members:
        groups.setdefault(alike(member), []).append(member)
    left = []
    for group in groups.values():
        values = np.array([_minimised(as_measured(member, found), objectives) for member in group], dtype=np.float64)
        left += [member for member, stays in zip(group, pareto.front(values), strict=True) if stays]
    return left


def _measured(measurements: Sequence[Measurement[C]]) -> list[Measurement[C]]:
    """Those that did not fail; raises NoFeasible where all did."""
    measured = [m for m in measurements if m.state == "measured"]
    if not measured:
        raise NoFeasible(f"no candidate was measured successfully ({len(measurements)} failed)")
    return measured


def _minimised(measurement: Measurement[C], objectives: Sequence[Objective]) -> list[float]:
    """The values in the order of the objectives, each the better the smaller."""
    return [objective.sign * measurement.values[objective.name] for objective in objectives]


def _nearest(
    measured: Sequence[Measurement[C]], objectives: Sequence[Objective], bounds: Sequence[Bound]
) -> Measurement[C]:
    """What a message names where nothing meets the limits, so that it is known by how much to relax them."""
    return min(measured, key=lambda m: (_excess(m, bounds), _minimised(m, objectives)))


def _none_meets(count: int, bounds: Sequence[Bound], nearest: Measurement[C], estimate: Estimate | None) -> NoFeasible:
    """The error where none of so many candidates meets the limits; the nearest has its measured values."""
    wanted = " and ".join(f"{name} {'<=' if sign > 0 else '>='} {bound:g}" for name, sign, bound in bounds)
    values = {name: f"{value:.6g}" for name, value in nearest.values.items()}
    if estimate is not None:
        values[ACCURACY] += f" as measured and {estimate.value:.6g} as estimated for new rows"
    has = ", ".join(f"{name} {value}" for name, value in values.items())
    return NoFeasible(f"none of {count} measured candidates meets {wanted}; the nearest has {has}")


def _excess(measurement: Measurement[C], bounds: Sequence[Bound]) -> float:
    """Total violation of the bounds, each relative to its bound because units differ; 0 when all are met."""
    shares = (sign * (measurement.values[name] - bound) / (abs(bound) or 1.0) for name, sign, bound in bounds)
    return sum(max(0.0, share) for share in shares)


def bounds_of(objectives: Sequence[Objective], limits: Mapping[str, float]) -> list[Bound]:
    """All bounds, those of the objectives and those in `limits`; raises UserError as `select`."""
    bounds = [(o.name, o.sign, o.limit) for o in objectives if o.limit is not None]
    names = [objective.name for objective in objectives]
    for key, bound in limits.items():
        side, _, name = key.partition("_")
        if side not in ("max", "min") or name not in names:
            known = [f"{'max' if o.direction == 'minimize' else 'min'}_{o.name}" for o in objectives]
            raise UserError(f"a limit must be of what was measured, {one_of(known, key)}")
        if not math.isfinite(bound):
            raise UserError(f"{key} must be a finite number, got {bound}")
        bounds.append((name, 1.0 if side == "max" else -1.0, float(bound)))
    return bounds
