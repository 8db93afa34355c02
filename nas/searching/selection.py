"""Select one measured candidate by limits on its objectives."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from nas.errors import NoFeasible, UserError
from nas.objectives import ACCURACY
from nas.searching.domain import C
from nas.searching.estimation import Estimate
from nas.searching.measurement import Measurement, Objective
from nas.sentences import one_of

Bound = tuple[str, float, float]
"""(objective, 1 for an upper and -1 for a lower bound, bound as a raw value)."""


def select(
    measurements: Sequence[Measurement[C]], objectives: Sequence[Objective], limits: Mapping[str, float]
) -> Measurement[C]:
    """Choose the best candidate in the first objective (ties by the next ones) that meets all limits.

    Args:
        measurements: the measurements to choose from.
        objectives: the objectives; their own limits apply too.
        limits: bounds on raw values, by `max_` or `min_` and the name of the objective.

    Raises:
        UserError: a limit does not name an objective, or is not a finite number.
        NoFeasible: no measured candidate meets the limits; the message names the nearest one.
    """
    bounds = _bounds(objectives, limits)
    measured = [m for m in measurements if m.state == "measured"]
    if not measured:
        raise NoFeasible(f"no candidate was measured successfully ({len(measurements)} failed)")

    def cost(measurement: Measurement[C]) -> list[float]:
        return [objective.sign * measurement.values[objective.name] for objective in objectives]

    feasible = [m for m in measured if _excess(m, bounds) <= 0]
    if feasible:
        return min(feasible, key=cost)
    # The message names a candidate, so that the user knows by how much the limits must be relaxed.
    nearest = min(measured, key=lambda m: (_excess(m, bounds), cost(m)))
    wanted = " and ".join(f"{name} {'<=' if sign > 0 else '>='} {bound:g}" for name, sign, bound in bounds)
    has = ", ".join(f"{name} {value:.6g}" for name, value in nearest.values.items())
    raise NoFeasible(f"none of {len(measured)} measured candidates meets {wanted}; the nearest has {has}")


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


def _excess(measurement: Measurement[C], bounds: Sequence[Bound]) -> float:
    """Total violation of the bounds, each relative to its bound because units differ; 0 when all are met."""
    shares = (sign * (measurement.values[name] - bound) / (abs(bound) or 1.0) for name, sign, bound in bounds)
    return sum(max(0.0, share) for share in shares)


def _bounds(objectives: Sequence[Objective], limits: Mapping[str, float]) -> list[Bound]:
    """All bounds, those of the objectives and those in `limits`."""
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
