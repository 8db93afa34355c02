"""Sentences for people that hold foreign text: on one line, of bounded length, without control characters.

Names of files, columns and classes, and the messages of libraries, come from anywhere. Printed as they are, they could
fill the screen, move the cursor, or turn the direction of the text.
"""

import difflib
import itertools
import re
from collections.abc import Iterable

LONGEST = 600
"""Characters of a sentence; the rest is left out in its middle, because the remedy stands at the end."""
_CUT = " ... "
_LONGEST_NAME, _LEAST_BEGINNING = 100, 3
# What terminals obey: sequences that begin with an escape, and the titles that end with a bell.
_TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-~])?")
# Control characters, marks of the direction of text, other characters that nobody sees (but not those that join
# letters), and halves of characters, which no encoding can write.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    """The text without sequences that terminals obey; other control characters are written as escapes (`\\x07`)."""
    return _CONTROL.sub(lambda found: ascii(found.group())[1:-1], _TERMINAL.sub("", text))


def one_line(text: str, longest: int = LONGEST) -> str:
    """The text as a printable sentence on one line, of at most `longest` characters (more than 20)."""
    line = printable(" ".join(_TERMINAL.sub("", text).split()))
    if len(line) <= longest:
        return line
    tail = (longest - len(_CUT)) // 3
    return line[: longest - len(_CUT) - tail] + _CUT + line[-tail:]


def quoted(value: object, longest: int = 60) -> str:
    """A foreign value as a sentence shows it: cut off, and a text in single quotes."""
    if not isinstance(value, str):
        return _start(str(value), longest)
    return f"'{_start(value, longest)}'"


def listed(names: Iterable[object], most: int = 9, longest: int = 40) -> str:
    """The first names with commas between, each cut off, and how many more there are."""
    every = [_start(str(name), longest) for name in itertools.islice(names, most + 1)]
    return ", ".join(every) if len(every) <= most else ", ".join(every[:most]) + ", ..."


def one_of(known: Iterable[object], given: object) -> str:
    """The end of a sentence on an unknown name, behind "must be": the known ones, what came, and what may be meant."""
    names = [str(each) for each in known]
    return f"one of {', '.join(names)}, got {quoted(given)}{did_you_mean(str(given), names)}"


def did_you_mean(given: str, known: Iterable[object]) -> str:
    """` (did you mean X?)` where a known name is close to the given one, or begins with it; else nothing."""
    names = {str(each).casefold(): str(each) for each in known}
    wanted = given[:_LONGEST_NAME].casefold()
    begun = [name for name in names if name.startswith(wanted)] if len(wanted) >= _LEAST_BEGINNING else []
    near = sorted(begun, key=len) or difflib.get_close_matches(wanted, names, n=1)
    return may_mean(names[near[0]]) if near else ""


def may_mean(known: object, longest: int = 60) -> str:
    """` (did you mean X?)`, X cut off."""
    return f" (did you mean {_start(str(known), longest)}?)"


def signed(number: str) -> str:
    """A formatted number with its sign in front: a minus that is as wide as the plus, and `±0` for one that is zero."""
    if not number.strip("-0.,"):
        return "±0"
    return number.replace("-", "−") if number.startswith("-") else f"+{number}"


def points(value: float) -> str:
    """A difference of two scores in points, which are hundredths, with its sign."""
    return signed(f"{value:.1f}")


def _start(text: str, longest: int) -> str:
    # Data may hold a text of any length, of which this many characters are enough to decide what is shown.
    line = one_line(text[: 4 * longest], 5 * longest)
    return line if len(line) <= longest else f"{line[:longest]}..."
