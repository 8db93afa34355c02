"""What a search found, in one object and a few sentences, and when there is nothing to be found."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.console import say
from nas.errors import UserError
from nas.profiling.verification import Verified, offered
from nas.reporting.table import measured_again
from nas.searching.measurement import Measurement, Objective
from nas.searching.selection import select
from nas.searching.study import Study

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
        _tell_constants(objectives, measurements, say_some=False)


def refuse_failed(measurements: Sequence[Measurement], mend: str = "mend that and repeat the command") -> None:
    """UserError where every sub-network failed, with what to do about it."""
    if all(m.state == "failed" for m in measurements):
        raise UserError(f"{_none_measured(measurements)}; {mend}")


def summary(run: Path, name: str, table: Path, study: Study, verified: Sequence[Verified] = ()) -> dict[str, Any]:
    """The result of a search as one object; members of the front that were measured again with that latency too.

    Raises:
        UserError: no objective tells the candidates apart.
        NoFeasible: nothing measured meets the limits; the message names the nearest.
    """
    failed = [m for m in study.measurements if m.state == "failed"]
    if any(objective.limit is not None for objective in study.objectives):
        select(offered(study, verified), study.objectives, {})
    _tell_constants(study.objectives, study.measurements)
    full = study.find(study.space.full())
    known = sum(m.known for m in study.measurements)
    return {
        "run": str(run),
        "search": name,
        "measured": measured(study),
        "failed": len(failed),
        "known": known,
        "every_sub_network": len(study.measurements) >= study.space.size(),
        "full": None if full is None else dict(full.values),
        "front": [{**m.values, **measured_again(m, verified)} for m in study.front()],
        "table": str(table),
    }


def measured(study: Study) -> int:
    """How many sub-networks a search measured: those that failed or were known before do not count."""
    return sum(m.state == "measured" and not m.known for m in study.measurements)


def _none_measured(failed: Sequence[Measurement]) -> str:
    reason = failed[0].reason if failed else "nothing was asked for"
    return f"none of {len(failed)} sub-networks could be measured; the first failed: {reason}"


def _tell_constants(
    objectives: Sequence[Objective], measurements: Sequence[Measurement], say_some: bool = True
) -> None:
    good = [m for m in measurements if m.state == "measured"]
    if len(good) < 2:
        return
    constant = [o.name for o in objectives if len({m.values[o.name] for m in good}) == 1]
    told = " and ".join(f"{name} is {good[0].values[name]:.6g}" for name in constant)
    if len(constant) == len(objectives):
        raise UserError(
            f"{told} for all of {len(good)} sub-networks measured: there is nothing to choose between; "
            "name other objectives"
        )
    if constant and say_some:
        say(f"{told} for all of {len(good)} sub-networks measured: that does not tell them apart")


def tell_end(study: Study, budget: int, patience: int | None) -> None:
    """Say why a search ended before its budget, where it did."""
    known = sum(m.known for m in study.measurements)
    new = len(study.measurements) - known
    if len(study.measurements) >= study.space.size():
        beyond = f", --budget {budget} is past that" if budget > new else ""
        say(f"There are {study.space.size():,} sub-networks, and all of them were measured{beyond}")
    elif new < budget and patience is not None:
        say(f"Stopped after {new} of {budget}: {patience} measurements in a row did not enlarge the hypervolume")
