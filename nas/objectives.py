"""The quantities that a network can be searched for: one table, from which limits, tables, pictures and help come."""

from dataclasses import dataclass
from typing import Literal

from nas.errors import UserError

Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Quantity:
    """What is known of an objective beside its values.

    Args:
        name: as commands, studies and JSON have it; it ends in its unit where it has one.
        direction: which way is better.
        label: for people, without the unit.
        unit: of a value as it is shown; empty where there is none.
        scale: a shown value is the raw one times this.
        decimals: of a shown value.
        source: "score" (of the task, on validation rows), "formula" (of the sizes) or "measured" (by running it).
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
        """The name of its limit, e.g. `max_latency_ms`."""
        return f"{'max' if self.direction == 'minimize' else 'min'}_{self.name}"

    @property
    def axis(self) -> str:
        """Label and unit, for the axis of a picture or the head of a column."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def shown(self, value: float) -> str:
        """A raw value for people, with its unit."""
        text = f"{value * self.scale:,.{self.decimals}f}"
        return f"{text} {self.unit}" if self.unit else text


LATENCY = "latency_ms"
TABLE = (
    Quantity("accuracy", "maximize", "accuracy", "%", 100.0, source="score"),
    Quantity("r2", "maximize", "R squared", decimals=3, source="score"),
    Quantity(LATENCY, "minimize", "latency", "ms"),
    Quantity("macs", "minimize", "multiply-accumulates", "M", 1e-6, source="formula"),
    Quantity("parameters", "minimize", "parameters", "M", 1e-6, source="formula"),
    Quantity("size_mib", "minimize", "size", "MiB", source="formula"),
    Quantity("energy_mj", "minimize", "energy", "mJ"),
    Quantity("memory_mib", "minimize", "memory", "MiB", decimals=0),
)
"""In the order in which help and tables list them."""

_BY_NAME = {each.name: each for each in TABLE}
NAMES = tuple(_BY_NAME)
SCORES, FORMULAS, MEASURED = (
    tuple(each.name for each in TABLE if each.source == source) for source in ("score", "formula", "measured")
)


def is_latency(name: str) -> bool:
    """Whether an objective is a latency: `latency_ms`, or `latency_ms_<profile>` of one of several devices."""
    return name == LATENCY or name.startswith(f"{LATENCY}_")


def quantity(name: str) -> Quantity:
    """The entry of an objective; of a name that is not in the table, one that is minimised and has no unit."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    if is_latency(name):
        device = name.removeprefix(f"{LATENCY}_")
        return Quantity(name, "minimize", f"latency on {device}", "ms")
    return Quantity(name, "minimize", name.replace("_", " "), decimals=4)


def known_quantity(name: str) -> Quantity:
    """As `quantity`; UserError for a name that is neither in the table nor a function `module:function`."""
    if name not in _BY_NAME and ":" not in name:
        raise UserError(f"an objective must be one of {', '.join(NAMES)} or your own module:function, got {name!r}")
    return quantity(name)
