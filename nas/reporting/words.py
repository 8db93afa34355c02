"""Figures and names as a report words them."""

import math
import statistics
from collections.abc import Iterable

from hardware.profile import BY_LAYER
from nas.objectives import quantity


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
    """Words the values of one objective alike, with as many decimals as the middle one of them needs.

    Args:
        name: of the objective.
        values: raw values that will be worded.
    """

    def __init__(self, name: str, values: Iterable[float]) -> None:
        self.known = quantity(name)
        shown = [abs(value * self.known.scale) for value in values]
        self._decimals = self.known.decimals
        middle = statistics.median(shown) if shown else 0.0
        if self.known.unit and self.known.unit != "%" and 0 < middle < 10:
            self._decimals = min(8, 2 - math.floor(math.log10(middle)))
        elif middle >= 1000:
            self._decimals = 0

    def number(self, value: float) -> str:
        """A raw value without its unit."""
        shown = value * self.known.scale
        return f"{shown:,.{self._decimals}f}" if abs(shown) < 1e12 else f"{shown:.4g}"

    def __call__(self, value: float) -> str:
        """A raw value with its unit."""
        return f"{self.number(value)} {self.known.unit}".rstrip()

    def change(self, value: float, full: float) -> str:
        """How a value compares with the full network's, in a few words."""
        if self.known.direction == "maximize" or value <= 0 or full <= 0:
            points = "points" if self.known.unit == "%" else self.known.unit
            return f"{_signed(self.number(value - full))} {points}".rstrip()
        if self.known.source == "measured" and self.known.unit == "ms":
            return f"{full / value:.2f} times as fast"
        return f"{_signed(f'{100 * (value / full - 1):.0f}')} %"


def _signed(text: str) -> str:
    if not text.strip("-0.,"):
        return "±0"
    return text.replace("-", "−") if text.startswith("-") else f"+{text}"
