"""When a search is given up before its end: everything failed, or nothing tells the candidates apart."""

from collections.abc import Sequence

from nas.errors import UserError
from nas.searching.measurement import Measurement, Objective

ENOUGH = 20
"""After so many failures and nothing else, or so many of the same values, a search gives up."""


def refuse_hopeless(objectives: Sequence[Objective], measurements: Sequence[Measurement]) -> None:
    """Raise UserError where the first candidates have all failed, or have equal values: the others will fare alike.

    Args:
        objectives: of the search.
        measurements: those made since the search began or went on; what failed before may have been mended since.
    """
    if len(measurements) < ENOUGH:
        return
    refuse_failed(measurements)
    # Once: later candidates may differ, and then the first ones do not matter.
    if len(measurements) == ENOUGH:
        refuse_constant(objectives, measurements)


def refuse_failed(measurements: Sequence[Measurement], remedy: str = "mend that and repeat the command") -> None:
    """Raise UserError where every candidate failed, with the first reason and what to do about it."""
    if any(m.state == "measured" for m in measurements):
        return
    reason = measurements[0].reason if measurements else "none was proposed"
    raise UserError(f"none of {len(measurements)} sub-networks could be measured; the first failed: {reason}; {remedy}")


def refuse_constant(objectives: Sequence[Objective], measurements: Sequence[Measurement]) -> None:
    """Raise UserError where no objective tells the measured candidates apart."""
    constant = constant_objectives(objectives, measurements)
    if constant and len(constant) == len(objectives):
        raise UserError(
            f"{described_constants(constant, measurements)}: there is nothing to choose between; name other objectives"
        )


def constant_objectives(objectives: Sequence[Objective], measurements: Sequence[Measurement]) -> dict[str, float]:
    """The objectives that have one value in all of at least two measured candidates, with that value."""
    good = [m for m in measurements if m.state == "measured"]
    if len(good) < 2:
        return {}
    return {o.name: good[0].values[o.name] for o in objectives if len({m.values[o.name] for m in good}) == 1}


def described_constants(constant: dict[str, float], measurements: Sequence[Measurement]) -> str:
    """Which objectives are constant, for a sentence."""
    count = sum(m.state == "measured" for m in measurements)
    values = " and ".join(f"{name} is {value:.6g}" for name, value in constant.items())
    return f"{values} for all of {count} sub-networks measured"
