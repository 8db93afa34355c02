"""The bounds of every number that comes from a file, before it reaches a library.

What lies outside overflows a sum of squares, a size in memory or a type in C, and no file of a run needs it.
"""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

_LARGEST, _SMALLEST, _MOST_WHOLE = 1e100, 1e-100, 2**63
# Products, ratios and squares of such numbers are numbers still, and the whole ones fit into a type in C.


def loads(text: str, parse: Callable[[str], Any] = json.loads) -> Any:
    """The value of a text.

    Args:
        text: as a file holds it.
        parse: reads it; ValueError where it is in another form.

    Raises:
        ValueError: it is in another form, nested too deeply, or holds a number out of bounds; the message names the
            field.
    """
    try:
        value = parse(text)
        for where, number in _numbers(value, ""):
            if not in_bounds(number):
                name = where.removeprefix(".") or "its value"
                raise ValueError(f"{name[:200]} must be a number of usual size, got {str(number)[:40]}")
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def in_bounds(number: float) -> bool:
    """Whether a number is finite and neither too large nor, but for 0, too small."""
    if isinstance(number, int):
        return abs(number) <= _MOST_WHOLE
    return number == 0 or _SMALLEST <= abs(number) <= _LARGEST


def finite(value: float | None) -> float | None:
    """A number as JSON can hold it: None where there is none, or it is not finite."""
    return value if value is not None and math.isfinite(value) else None


def _numbers(value: Any, where: str) -> Iterator[tuple[str, float]]:
    """All numbers of a value, each with the path to it."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _numbers(each, f"{where}.{key}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from _numbers(each, f"{where}.{index}")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield where, value
