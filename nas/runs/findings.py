"""What a search found, in one object and a few sentences."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.console import say
from nas.profiling.verification import Verified, offered
from nas.reporting.table import measured_again
from nas.searching.giving_up import tell_constants
from nas.searching.selection import select
from nas.searching.study import Study


def summary(run: Path, name: str, table: Path, study: Study, verified: Sequence[Verified] = ()) -> dict[str, Any]:
    """The result of a search as one object; members of the front that were measured again with that latency too.

    Raises:
        UserError: no objective tells the candidates apart.
        NoFeasible: nothing measured meets the limits; the message names the nearest.
    """
    failed = [m for m in study.measurements if m.state == "failed"]
    if any(objective.limit is not None for objective in study.objectives):
        select(offered(study, verified), study.objectives, {})
    tell_constants(study.objectives, study.measurements)
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


def tell_end(study: Study, budget: int, patience: int | None) -> None:
    """Say why a search ended before its budget, where it did."""
    known = sum(m.known for m in study.measurements)
    new = len(study.measurements) - known
    if len(study.measurements) >= study.space.size():
        beyond = f", --budget {budget} is past that" if budget > new else ""
        say(f"There are {study.space.size():,} sub-networks, and all of them were measured{beyond}")
    elif new < budget and patience is not None:
        say(f"Stopped after {new} of {budget}: {patience} measurements in a row did not enlarge the hypervolume")
