"""Stop a search that cannot succeed: all candidates fail, or all have equal values."""

from collections.abc import Sequence

from nas.errors import UserError
from nas.searching.domain import C
from nas.searching.measurement import Measurement, Objective

ENOUGH = 20
"""A search is given up after this many candidates that all failed, or that all have the same values."""


def refuse_hopeless(objectives: Sequence[Objective], measurements: Sequence[Measurement[C]]) -> None:
    """Raise UserError if the first candidates have all failed or have equal values.

    Args:
        objectives: the objectives of the search.
        measurements: those of this process. Earlier ones do not count, because the cause of a failure may have been
            fixed before the search was continued.
    """
    if len(measurements) < ENOUGH:
        return
    refuse_failed(measurements)
    # Check only once: if later candidates differ, it does not matter that the first ones were equal.
    if len(measurements) == ENOUGH:
        refuse_constant(objectives, measurements)


def refuse_failed(measurements: Sequence[Measurement[C]], remedy: str = "mend that and repeat the command") -> None:
    """Raise UserError, with the first reason and the remedy, if every candidate failed."""
    if any(m.state == "measured" for m in measurements):
        return
    reason = measurements[0].reason if measurements else "none was proposed"
    raise UserError(f"none of {len(measurements)} sub-networks could be measured; the first failed: {reason}; {remedy}")


def refuse_constant(objectives: Sequence[Objective], measurements: Sequence[Measurement[C]]) -> None:
    """Raise UserError if every objective has the same value for all measured candidates."""
    constant = constant_objectives(objectives, measurements)
    if constant and len(constant) == len(objectives):
        raise UserError(
            f"{described_constants(constant, measurements)}: there is nothing to choose between; name other objectives"
        )


def constant_objectives(objectives: Sequence[Objective], measurements: Sequence[Measurement[C]]) -> dict[str, float]:
    """Objectives with the same value for all measured candidates, with that value; empty for fewer than two."""
    good = [m for m in measurements if m.state == "measured"]
    if len(good) < 2:
        return {}
    return {o.name: good[0].values[o.name] for o in objectives if len({m.values[o.name] for m in good}) == 1}


def described_constants(constant: dict[str, float], measurements: Sequence[Measurement[C]]) -> str:
    """Describe constant objectives, as the beginning of a sentence."""
    count = sum(m.state == "measured" for m in measurements)
    values = " and ".join(f"{name} is {value:.6g}" for name, value in constant.items())
    return f"{values} for all of {count} sub-networks measured"
