"""When a search is given up before its end: everything failed, or nothing tells the candidates apart."""

from collections.abc import Sequence

from nas.console import say
from nas.errors import UserError
from nas.searching.measurement import Measurement, Objective

ENOUGH = 20
"""After so many failures and nothing else, or so many of the same values, a search gives up."""


def give_up(objectives: Sequence[Objective], measurements: Sequence[Measurement]) -> None:
    """UserError as soon as the first candidates have all failed, or nothing tells them apart: the others fare alike.

    Args:
        measurements: those of this session; what failed before may have been mended since.
    """
    if len(measurements) < ENOUGH:
        return
    refuse_failed(measurements)
    if len(measurements) == ENOUGH:
        tell_constants(objectives, measurements, say_some=False)


def refuse_failed(measurements: Sequence[Measurement], mend: str = "mend that and repeat the command") -> None:
    """UserError where every sub-network failed, with what to do about it."""
    if all(m.state == "failed" for m in measurements):
        raise UserError(f"{_none_measured(measurements)}; {mend}")


def _none_measured(failed: Sequence[Measurement]) -> str:
    reason = failed[0].reason if failed else "none was proposed"
    return f"none of {len(failed)} sub-networks could be measured; the first failed: {reason}"


def tell_constants(
    objectives: Sequence[Objective], measurements: Sequence[Measurement], say_some: bool = True
) -> None:
    """Say which objectives have one value for everything measured; UserError where all of them have."""
    good = [m for m in measurements if m.state == "measured"]
    if len(good) < 2:
        return
    constant = [o.name for o in objectives if len({m.values[o.name] for m in good}) == 1]
    values = " and ".join(f"{name} is {good[0].values[name]:.6g}" for name in constant)
    if len(constant) == len(objectives):
        raise UserError(
            f"{values} for all of {len(good)} sub-networks measured: there is nothing to choose between; "
            "name other objectives"
        )
    if constant and say_some:
        say(f"{values} for all of {len(good)} sub-networks measured: that does not tell them apart")
