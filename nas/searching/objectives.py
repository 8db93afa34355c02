"""Create the objectives of a search from their names and limits."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from nas.errors import UserError
from nas.objectives import LATENCY, known_quantity
from nas.searching.measurement import Objective


def objective(name: str, *, limit: float | None = None) -> Objective:
    """Create the objective of a name in `nas.objectives` or of a function `module:function`.

    Such a function of the user receives the extracted sub-network and returns a number to minimise. To maximise it,
    create the `Objective` directly.

    Args:
        name: name of the objective.
        limit: bound that a selected candidate must meet.

    Raises:
        UserError: an unknown name.
    """
    return Objective(name, known_quantity(name).direction, limit)


def objective_names(given: str | None, limits: Mapping[str, float], metric: str, profiled: Sequence[str] = ()) -> str:
    """The names of a search's objectives, separated by commas.

    Args:
        given: the value of `--objectives`; None selects the metric and the quantities with a limit, or latency if there
            is no limit.
        limits: by flag name, e.g. `max_latency_ms`.
        metric: the metric of the task, e.g. `accuracy`.
        profiled: names of the latencies that device profiles predict, which replace `latency_ms`.

    Raises:
        UserError: only some of the profiled latencies are given.
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
    """Create objectives from names separated by commas, each with its limit.

    Args:
        names: the names.
        limits: by flag name, e.g. `max_latency_ms`.
        profiled: names of the latencies that device profiles predict.

    Raises:
        UserError: no name, an unknown name, or a limit on a quantity that is not among the names.
    """
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
    """Expand a limit on `latency_ms` to every device if the objectives are the latencies of several devices."""
    found: dict[str, float] = {}
    for flag, bound in limits.items():
        side, _, name = flag.partition("_")
        several = [each for each in names if each.startswith(f"{LATENCY}_")] if name == LATENCY else []
        meant = several if several and name not in names else [name]
        found |= {f"{side}_{each}": bound for each in meant}
    return found
