"""The table of quantities that a search can optimise, from which limits, tables, plots and help are derived."""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from nas.bounded import in_bounds
from nas.errors import UserError
from nas.sentences import did_you_mean, quoted

Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Quantity:
    """The properties of an objective.

    Args:
        name: name in commands, studies and JSON; ends in the unit if there is one.
        direction: whether it is minimised or maximised.
        label: name for people, without the unit.
        unit: unit of displayed values; empty if there is none.
        scale: a displayed value is the raw value times this.
        decimals: number of decimals of displayed values, unless they are small or large, see `decimals_of`.
        source: "score" (of the task, on validation rows), "formula" (computed from sizes) or "measured" (by running
            the network).
    """

    name: str
    direction: Direction
    label: str
    unit: str = ""
    scale: float = 1.0
    decimals: int = 1
    source: Literal["score", "formula", "measured"] = "measured"

    @property
    def limit_name(self) -> str:
        """Name of its limit, e.g. `max_latency_ms`."""
        return f"{'max' if self.direction == 'minimize' else 'min'}_{self.name}"

    @property
    def axis(self) -> str:
        """Label and unit, for the axis of a plot or the head of a column."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def decimals_of(self, values: Iterable[float]) -> int:
        """Number of decimals of raw values that are shown together: as many as the middle one of them needs.

        Below ten of its unit it has three digits that count, since a small network would have 0.0 M parameters; from a
        thousand on it has no decimals.
        """
        shown = [abs(value * self.scale) for value in values]
        middle = statistics.median(shown) if shown else 0.0
        if self.unit not in ("", "%") and 0 < middle < 10:
            return min(8, 2 - math.floor(math.log10(middle)))
        return 0 if middle >= 1000 else self.decimals

    def number(self, value: float, decimals: int) -> str:
        """Format a raw value for people, without its unit."""
        shown = value * self.scale
        return f"{shown:,.{decimals}f}" if abs(shown) < 1e12 else f"{shown:.4g}"

    def shown(self, value: float, decimals: int | None = None) -> str:
        """Format a raw value for people, with its unit; None: as many decimals as it needs by itself."""
        text = self.number(value, self.decimals_of([value]) if decimals is None else decimals)
        return f"{text} {self.unit}" if self.unit else text


ACCURACY, LATENCY = "accuracy", "latency_ms"
_ABOVE_ZERO, _MOST_SCORE, _MOST = 1e-12, 1 + 1e-9, 1e20
_LEAST = {
    **dict.fromkeys((LATENCY, "macs", "parameters", "size_mib"), _ABOVE_ZERO),
    **dict.fromkeys((ACCURACY, "energy_mj", "memory_mib"), 0.0),
}
TABLE = (
    Quantity(ACCURACY, "maximize", "accuracy", "%", 100.0, source="score"),
    Quantity("r2", "maximize", "R squared", decimals=3, source="score"),
    Quantity(LATENCY, "minimize", "latency", "ms"),
    Quantity("macs", "minimize", "multiply-accumulates", "M", 1e-6, source="formula"),
    Quantity("parameters", "minimize", "parameters", "M", 1e-6, source="formula"),
    Quantity("size_mib", "minimize", "size", "MiB", source="formula"),
    Quantity("energy_mj", "minimize", "energy", "mJ"),
    Quantity("memory_mib", "minimize", "memory", "MiB", decimals=0),
)
"""All quantities, in the order of help and tables."""

_BY_NAME = {each.name: each for each in TABLE}
NAMES = tuple(_BY_NAME)
SCORES, FORMULAS, MEASURED = (
    tuple(each.name for each in TABLE if each.source == source) for source in ("score", "formula", "measured")
)


def is_latency(name: str) -> bool:
    """Whether an objective is a latency: `latency_ms`, or `latency_ms_<profile>` for one of several devices."""
    return name == LATENCY or name.startswith(f"{LATENCY}_")


def quantity(name: str) -> Quantity:
    """The properties of an objective; a name that is not in the table is minimised and has no unit."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    if is_latency(name):
        device = name.removeprefix(f"{LATENCY}_")
        return Quantity(name, "minimize", f"latency on {device}", "ms")
    return Quantity(name, "minimize", name.replace("_", " "), decimals=4)


def known_quantity(name: str) -> Quantity:
    """As `quantity`, but raises UserError for a name that is neither in the table nor a function `module:function`."""
    if name not in _BY_NAME and ":" not in name:
        raise UserError(
            f"an objective must be one of {', '.join(NAMES)} or your own module:function, got {quoted(name)}"
            f"{did_you_mean(name, NAMES)}"
        )
    return quantity(name)


def of_its_kind(name: str, value: float, most_score: float = _MOST_SCORE) -> bool:
    """Whether a number can be a value of the quantity `name`.

    A latency, a size or a count of operations is above 0, so that ratios of them are numbers. A score is at most
    `most_score`: evaluations of your own may have percentages.
    """
    least = _LEAST.get(LATENCY if is_latency(name) else name, -_MOST)
    most = most_score if quantity(name).source == "score" else _MOST
    return in_bounds(value) and least <= value <= most


def check_limits(limits: Mapping[str, float]) -> None:
    """UserError for a limit on a score, by flag name, that no score can meet, such as a percentage.

    An accuracy is a share from 0 to 1, and R squared is at most 1; nothing else has a largest value.
    """
    for flag, bound in limits.items():
        known = quantity(flag.partition("_")[2])
        if known.name == ACCURACY and not 0 <= bound <= 1:
            example = f"{bound:g} % is {bound / 100:g}" if 1 < bound <= 100 else "95 % is 0.95"
            raise UserError(f"--{flag.replace('_', '-')} must be a share from 0 to 1 ({example}), got {bound:g}")
        if known.source == "score" and not bound <= 1:
            raise UserError(f"--{flag.replace('_', '-')} must be at most 1, got {bound:g}")


def check_values(values: Mapping[str, float]) -> None:
    """Raise ValueError unless each number is `of_its_kind`, as those must be that come from a file."""
    for name, value in values.items():
        if not of_its_kind(name, value):
            raise ValueError(f"{name[:60]} must be a number of its kind, got {str(value)[:40]}")
