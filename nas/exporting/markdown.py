"""Foreign text in Markdown, so that it is shown as it is."""

import re

from nas.sentences import one_line

# An underscore inside a word is none.
_MARKS = re.compile(r"([\\`*\[\]<>|&]|(?<!\w)_|_(?!\w))")
_TICKS = re.compile("`+")


def as_it_is(text: str) -> str:
    """A text in a sentence: on one line, and none of its characters is markup."""
    return _MARKS.sub(r"\\\1", one_line(text))


def code_span(text: str) -> str:
    """A text as code: between more backticks than it has in a row."""
    line = one_line(text)
    fence = "`" * (max(map(len, _TICKS.findall(line)), default=0) + 1)
    # A backtick at an end would join the fence; one space at each end is no part of the code.
    pad = " " if line[:1] in "` " or line[-1:] in "` " else ""
    return f"{fence}{pad}{line}{pad}{fence}"
