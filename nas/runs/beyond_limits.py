"""Limits that a sub-network was chosen within and that its exported files do not meet, as the export measures them."""

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
        on: the rows that it was measured on, in words; empty where it is of no rows.
    """

    flag: str
    limit: float
    measured: float
    on: str = ""

    def said(self, *, busy: bool = False) -> str:
        """A sentence without its full stop.

        Args:
            busy: whether other programs disturbed the latencies, which then say nothing of the limit.
        """
        known = quantity(self.flag.partition("_")[2])
        unit = f" {known.unit}" if known.unit and known.scale == 1 else ""
        wanted = f"--{self.flag.replace('_', '-')} {self.limit:g}"
        # Whoever takes another network for what the test rows say of this one has chosen by them.
        none = self.on or (busy and known.name == LATENCY)
        advice = "" if none else "; a stricter limit leaves room for that"
        return (
            f"The exported network does not meet {wanted}: {known.label}{self.on} is {self.measured:.6g}{unit} as "
            f"this export measures it{advice}"
        )


def beyond_limits(
    bounds: Sequence[Bound], figures: Mapping[str, float | None], other_devices: Collection[str] = ()
) -> list[Beyond]:
    """The limits that the figures of an export do not meet, the strictest of each quantity.

    Args:
        bounds: that the sub-network was chosen within, by the name of the objective.
        figures: by the names that the export prints; the score is `test_accuracy` or `test_r2`.
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
            found[flag] = Beyond(flag, limit, measured, " on the test rows" if scored else "")
    return list(found.values())
