"""What a search is for: objectives by their names, each with its limit."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from nas.errors import UserError
from nas.objectives import LATENCY, known_quantity
from nas.searching.measurement import Objective


def objective(name: str, *, limit: float | None = None) -> Objective:
    """The objective of a name in `nas.objectives`, or of the user's own `module:function`.

    A function of the user's own takes the extracted sub-network and returns a number to minimise (make the `Objective`
    yourself to maximise it).

    Raises:
        UserError: no such objective.
    """
    return Objective(name, known_quantity(name).direction, limit)


def objective_names(given: str | None, limits: Mapping[str, float], metric: str, profiled: Sequence[str] = ()) -> str:
    """The names of a search's objectives, separated by commas.

    Args:
        given: as `--objectives` has them; None: the metric, and what is limited, else latency.
        limits: by flag name, e.g. `max_latency_ms`.
        metric: of the task, e.g. `accuracy`.
        profiled: the latencies that device profiles predict: they take the place of `latency_ms`.

    Raises:
        UserError: only some of the profiled latencies are named.
    """
    if given is not None:
        names = [name.strip() for name in given.split(",")]
    else:
        limited = [flag.partition("_")[2] for flag in limits]
        names = [metric, *([name for name in limited if name != metric] or [LATENCY])]
    if profiled and not set(profiled) & set(names):
        position = names.index(LATENCY) if LATENCY in names else len(names)
        names = [*names[:position], *profiled, *names[position + 1 :]]
    unused = [name for name in profiled if name not in names]
    if unused:
        raise UserError(f"{unused[0]} is not among --objectives {','.join(names)}: add it, or leave its --profile out")
    return ",".join(names)


def named_objectives(names: str, limits: Mapping[str, float], profiled: Sequence[str] = ()) -> list[Objective]:
    """Objectives by their names, separated by commas, each with its limit; UserError for an unknown name or limit."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise UserError("--objectives must name at least one objective, e.g. accuracy,latency_ms")
    bounds = on_every_device(limits, wanted)
    for flag in bounds:
        if flag.partition("_")[2] not in wanted:
            name = flag.partition("_")[2]
            raise UserError(f"--{flag.replace('_', '-')} needs {name} among --objectives, got {names}")
    by_name = {flag.partition("_")[2]: bound for flag, bound in bounds.items()}
    made = {name: Objective(name) if name in profiled else objective(name) for name in wanted}
    return [replace(made[name], limit=by_name.get(name)) for name in wanted]


def on_every_device(limits: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """The limits; one on `latency_ms` holds on each device where the objectives are latencies of several."""
    found: dict[str, float] = {}
    for flag, bound in limits.items():
        side, _, name = flag.partition("_")
        several = [each for each in names if each.startswith(f"{LATENCY}_")] if name == LATENCY else []
        meant = several if several and name not in names else [name]
        found |= {f"{side}_{each}": bound for each in meant}
    return found
