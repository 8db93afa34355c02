"""Figures and names as a report words them."""

from collections.abc import Iterable

from hardware.profile import BY_LAYER
from nas.objectives import quantity
from nas.sentences import signed


def shortened(text: str, most: int) -> str:
    """The text, or its beginning where it is longer than `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def name_only(value: object) -> str:
    """A name as it was given; of a path its last part alone, since a report is shown to others."""
    text = str(value)
    return shortened(text.rstrip("/").rpartition("/")[2] if text.startswith(("/", "~", "./", "../")) else text, 200)


def condition(value: object) -> str:
    """A condition of latencies, such as the precision."""
    return "by layer" if value == BY_LAYER else str(value)


def precision_of(value: str) -> str:
    """The precision of a deployment in running text."""
    return "precision by layer" if value == BY_LAYER else value


class Figures:
    """Words the values of one objective alike, see `Quantity.decimals_of`.

    Args:
        name: of the objective.
        values: raw values that will be worded.
    """

    def __init__(self, name: str, values: Iterable[float]) -> None:
        self.known = quantity(name)
        self._decimals = self.known.decimals_of(values)

    def number(self, value: float) -> str:
        """A raw value without its unit."""
        return self.known.number(value, self._decimals)

    def __call__(self, value: float) -> str:
        """A raw value with its unit."""
        return self.known.shown(value, self._decimals)

    def change(self, value: float, full: float) -> str:
        """How a value compares with the full network's, in a few words."""
        if self.known.direction == "maximize" or value <= 0 or full <= 0:
            unit = "points" if self.known.unit == "%" else self.known.unit
            return f"{signed(self.number(value - full))} {unit}".rstrip()
        if self.known.source == "measured" and self.known.unit == "ms":
            return f"{full / value:.2f} times as fast"
        return f"{signed(f'{100 * (value / full - 1):.0f}')} %"
