"""Numbers separated by commas, as flags take them, e.g. `--rates 0.3,0.5`."""

import math
import re
from collections.abc import Callable

from nas.errors import UserError
from nas.sentences import quoted

Numbers = tuple[int | float, ...]

_DECIMAL_COMMA = re.compile(r"(?:^|,)\s*0,(\d+)")


def number_list(flag: str, text: str, wanted: str, good: Callable[[Numbers], bool]) -> Numbers:
    """The numbers of a list, finite ones, those without a decimal point or an exponent as whole ones.

    Args:
        flag: that the list was given to.
        text: the list.
        wanted: what the flag takes, with an example.
        good: whether the flag takes these numbers.

    Raises:
        UserError: something in the list is no number, or the flag does not take these.
    """
    try:
        numbers = tuple(_number(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if numbers and all(abs(number) < math.inf for number in numbers) and good(numbers):
        return numbers
    comma = _DECIMAL_COMMA.search(text)
    hint = "" if comma is None else f"; a comma separates numbers, so write 0.{comma[1]} with a point"
    raise UserError(f"--{flag} must be {wanted}, got {quoted(text)}{hint}")


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)
