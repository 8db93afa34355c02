"""What a search is for: objectives by their names, each with its limit."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from nas.data.tasks import CLASSIFICATION, TASKS
from nas.errors import UserError
from nas.runs.folder import RunRecord
from nas.searching.measurement import Objective
from nas.searching.supernet_search import objective
from nas.settings import Limits, SearchSettings

LATENCY = "latency_ms"


def objective_names(settings: SearchSettings, limits: Limits, record: RunRecord, profiled: Sequence[str] = ()) -> str:
    """What the search is for: as asked, else the metric of the task and what is limited, or latency.

    `profiled` are the latencies that device profiles predict: they stand in the place of `latency_ms`. UserError where
    only some of them are asked for.
    """
    if settings.objectives is not None:
        names = [name.strip() for name in settings.objectives.split(",")]
    else:
        metric = TASKS.get(str(record.request.get("task")), CLASSIFICATION).metric
        limited = [flag.partition("_")[2] for flag in limits.given()]
        names = [metric, *([name for name in limited if name != metric] or [LATENCY])]
    if profiled and not set(profiled) & set(names):
        place = names.index(LATENCY) if LATENCY in names else len(names)
        names = [*names[:place], *profiled, *names[place + 1 :]]
    unused = [name for name in profiled if name not in names]
    if unused:
        raise UserError(f"{unused[0]} is not among --objectives {','.join(names)}: add it, or leave its --profile out")
    return ",".join(names)


def named_objectives(names: str, limits: Limits, profiled: Sequence[str] = ()) -> list[Objective]:
    """Objectives by their names, separated by commas, each with its limit; UserError for an unknown name or limit."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise UserError("--objectives must name at least one objective, e.g. accuracy,latency_ms")
    bounds = expanded(limits.given(), wanted)
    for flag in bounds:
        if flag.partition("_")[2] not in wanted:
            name = flag.partition("_")[2]
            raise UserError(f"--{flag.replace('_', '-')} needs {name} among --objectives, got {names}")
    by_name = {flag.partition("_")[2]: bound for flag, bound in bounds.items()}
    made = {name: Objective(name) if name in profiled else objective(name) for name in wanted}
    return [replace(made[name], limit=by_name.get(name)) for name in wanted]


def expanded(limits: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """The limits, that on `latency_ms` as one on each device's latency where the objectives are those of several."""
    found: dict[str, float] = {}
    for flag, bound in limits.items():
        side, _, name = flag.partition("_")
        several = [each for each in names if each.startswith(f"{LATENCY}_")] if name == LATENCY else []
        meant = several if several and name not in names else [name]
        found |= {f"{side}_{each}": bound for each in meant}
    return found
