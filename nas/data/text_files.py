"""Read text files in the encoding that they certainly have, or that the user names.

A file is in UTF-8 where it can be read so; a mark at its beginning, or a zero byte beside each of its first characters,
says UTF-16 or UTF-32. No other encoding can be told for certain: the error then shows how a line would read.
"""

import codecs
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.errors import UserError
from nas.sentences import quoted

Columns = dict[str, list[Any]]
"""The cells of each column; None where a row is shorter than the header or lacks the key."""
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Of these bytes, the first four of a file with two letters at its beginning, are zero.
_ZEROS: Mapping[tuple[bool, ...], str] = {
    (False, True, False, True): "utf-16-le",
    (True, False, True, False): "utf-16-be",
}
_SEPARATORS = {"tab": "\t", "\\t": "\t"}
_AROUND = 12
_MOST_LIKELY = "cp1252"


class NoRows(UserError):
    """A file holds no rows."""


@dataclass(frozen=True)
class TextForm:
    """What the user says about text files, where it is not found out.

    Args:
        separator: the character between the fields of a CSV file, or "tab"; None: found out.
        encoding: the encoding, e.g. "cp1252"; None: UTF-8, or UTF-16 and UTF-32 where that is certain.

    Raises:
        UserError: a separator of several characters, or an encoding that Python does not know.
    """

    separator: str | None = None
    encoding: str | None = None

    def __post_init__(self) -> None:
        mark = self.mark
        if mark is not None and (len(mark) != 1 or mark in '"\r\n\0'):
            raise UserError(f"--separator must be one character, or the word tab, got {quoted(self.separator)}")
        if self.encoding is not None:
            try:
                "".encode(self.encoding)
                known = b"".decode(self.encoding) == ""
            except (LookupError, ValueError):
                known = False
            if not known:
                raise UserError(
                    f"--encoding must be one that Python knows, e.g. cp1252, utf-16 or gb18030, got "
                    f"{quoted(self.encoding)}"
                )

    @property
    def mark(self) -> str | None:
        """The separator itself."""
        return None if self.separator is None else _SEPARATORS.get(self.separator.lower(), self.separator)


@dataclass(frozen=True)
class Read:
    """The columns of a file, and sentences for the user about how they were read."""

    columns: Columns
    notes: Sequence[str] = ()


def read_text(path: Path, encoding: str | None) -> tuple[str, list[str]]:
    """The text of a file, also with .gz, and a sentence about its encoding where that was found out and is not UTF-8.

    Args:
        path: the file.
        encoding: of the file; None: found out.

    Raises:
        NoRows: it has no text.
        UserError: it is not in this encoding, or in none that can be told for certain.
        OSError, EOFError, zlib.error: it cannot be read.
    """
    content = path.read_bytes()
    if path.suffix.lower() == ".gz":
        content = gzip.decompress(content)
    used = encoding or _encoding(content)
    try:
        text = content.decode(used).removeprefix("\ufeff")
    except UnicodeError as error:
        raise UserError(_undecodable(path, content, used, error, told=encoding is not None)) from error
    if "\0" in text.partition("\n")[0]:
        raise UserError(
            f"{path} has zero bytes in its first line, as a file has that is not in {used.upper()}: name its encoding "
            "with --encoding, e.g. utf-16"
        )
    if not text.strip():
        raise NoRows(f"the data in {path} must hold rows, it is empty")
    return text, [] if encoding or used == "utf-8" else [f"Text of {path} read as {used.upper()}"]


def _encoding(content: bytes) -> str:
    marked = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    return marked or _ZEROS.get(tuple(byte == 0 for byte in content[:4]), "utf-8")


def _undecodable(path: Path, content: bytes, encoding: str, error: UnicodeError, *, told: bool) -> str:
    # Other errors than those of decoding a byte have no position: a file in UTF-16 without its mark.
    start = error.start if isinstance(error, UnicodeDecodeError) else 0
    line = content.count(b"\n", 0, start) + 1
    if told:
        return f"{path} is not in the encoding {encoding}: its line {line} cannot be read so; name another --encoding"
    if encoding != "utf-8":
        return f"{path} begins as {encoding.upper()}, but line {line} is not: it is damaged, or needs an --encoding"
    around = content[max(0, start - _AROUND) : start + _AROUND].splitlines()
    likely = next((part.decode(_MOST_LIKELY, errors="ignore") for part in around if not part.isascii()), "")
    return (
        f"{path} must be in UTF-8, but line {line} is not; name its encoding, e.g. --encoding {_MOST_LIKELY} (Western "
        f"Europe) if that line has {quoted(likely)}"
    )
