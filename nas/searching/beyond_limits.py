"""Limits that a candidate was chosen within and that figures measured anew do not meet."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from nas.objectives import LATENCY, is_latency, quantity
from nas.searching.selection import Bound


@dataclass(frozen=True)
class Beyond:
    """A limit that is not met.

    Args:
        flag: of the limit, e.g. `max_latency_ms`.
        limit, measured: raw values.
    """

    flag: str
    limit: float
    measured: float


def beyond_limits(
    bounds: Sequence[Bound], figures: Mapping[str, float | None], other_devices: Collection[str] = ()
) -> list[Beyond]:
    """The limits that the figures do not meet, the strictest of each quantity.

    Args:
        bounds: that the candidate was chosen within, by the name of the objective.
        figures: of the candidate, by name; a score on test rows is `test_accuracy` or `test_r2`.
        other_devices: latencies of devices that the figures are not of.
    """
    found: dict[str, Beyond] = {}
    for name, sign, limit in bounds:
        scored = quantity(name).source == "score"
        measured = figures.get(f"test_{name}" if scored else LATENCY if is_latency(name) else name)
        if name in other_devices or measured is None or sign * measured <= sign * limit:
            continue
        flag = f"{'max' if sign > 0 else 'min'}_{LATENCY if is_latency(name) else name}"
        if flag not in found or sign * limit < sign * found[flag].limit:
            found[flag] = Beyond(flag, limit, measured)
    return list(found.values())
