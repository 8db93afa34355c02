"""Read CSV, TSV and JSON files so that every cell is what the file holds: strings stay strings, and no row is lost.

In a CSV file a field that begins with a quote ends with one (RFC 4180). In a TSV file a quote may also be a part of the
text, because that format has no quotes of its own. Which of the two holds is decided for the file as a whole.
"""

import csv
import gzip
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nas.errors import UserError

Columns = dict[str, list[Any]]
"""The cells of each column; None where a row is shorter than the header or lacks the key."""
_Rows = list[list[str]]
# Writers of TSV files put quotes around the fields that hold one of these, and around no others: by the usual rule of
# csv modules, and by that of spreadsheets.
_WRITERS = ('\t\n\r"', '\t\n\r",')


def read_delimited(path: Path) -> Columns:
    """Read a CSV or TSV file, also with .gz, in UTF-8; all cells are strings.

    Raises:
        UserError: the file has no rows, a row has more fields than the header, or its quotes do not match.
        OSError, EOFError, UnicodeError: the file cannot be read.
    """
    text = _text(path)
    separator = "\t" if ".tsv" in [suffix.lower() for suffix in path.suffixes] else ","
    header, *rows = _rows(text, separator, path) or [[]]
    if not rows:
        raise UserError(f"the data in {path} must hold rows, it is empty")
    names = _names(header)
    long = next((number for number, row in enumerate(rows, start=1) if len(row) > len(names)), None)
    if long is not None:
        raise UserError(
            f"every row of {path} must have as many fields as its header; put quotes around a text with a separator "
            f"(row {long} has {len(rows[long - 1])} fields, the header {len(names)})"
        )
    padded = [[*row, *[None] * (len(names) - len(row))] for row in rows]
    return {name: list(cells) for name, cells in zip(names, zip(*padded, strict=True), strict=True)}


def read_json_rows(path: Path) -> Columns:
    """Read JSON lines, an array of objects, or (in a .json file) one object with a list for each column; also with .gz.

    Raises:
        UserError: the file has no rows, or something other than objects.
        OSError, EOFError, ValueError, RecursionError: the file cannot be read, or is no JSON.
    """
    text = _text(path)
    try:
        whole = json.loads(text)
    except ValueError:
        whole = [json.loads(line) for line in text.split("\n") if line.strip()]
    if isinstance(whole, dict):
        lists = list(whole.values())
        by_column = ".json" in path.suffixes and bool(lists) and all(isinstance(each, list) for each in lists)
        if by_column and len({len(each) for each in lists}) == 1:
            return whole
        whole = [whole]
    if not isinstance(whole, list) or not all(isinstance(row, dict) for row in whole):
        raise UserError(f"the data in {path} must be JSON objects, one a row")
    if not whole:
        raise UserError(f"the data in {path} must hold rows, it is empty")
    names = dict.fromkeys(name for row in whole for name in row)
    return {name: [row.get(name) for row in whole] for name in names}


def _text(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix.lower() == ".gz":
        content = gzip.decompress(content)
    return content.decode("utf-8-sig")


def _rows(text: str, separator: str, path: Path) -> _Rows:
    """The rows, header first, with the quotes taken as the file means them."""
    if '"' not in text:
        return _parsed(text, separator, quotes=False)
    plain = _parsed(text, separator, quotes=False)
    # Read without quotes, a table has as many fields in every line; a file that needs its quotes has not.
    even = len({len(row) for row in plain}) == 1
    try:
        quoted = _parsed(text, separator, quotes=True)
    except csv.Error as error:
        if even:
            return plain
        raise UserError(
            f"the quotes in {path} must match: a field that begins with a quote ends with one, and quotes inside are "
            f"doubled ({error})"
        ) from error
    if separator == "," or not even or (len(quoted) == len(plain) and _by_a_writer(plain, quoted)):
        return quoted
    return plain


def _parsed(text: str, separator: str, *, quotes: bool) -> _Rows:
    before = csv.field_size_limit(sys.maxsize)
    try:
        stream = io.StringIO(text, newline="")
        if quotes:
            lines = csv.reader(stream, delimiter=separator, strict=True)
        else:
            lines = csv.reader(stream, delimiter=separator, quoting=csv.QUOTE_NONE)
        try:
            return list(_filled(lines))
        except csv.Error as error:
            raise csv.Error(f"line {lines.line_num}: {error}") from error
    finally:
        csv.field_size_limit(before)


def _filled(lines: Iterable[list[str]]) -> Iterator[list[str]]:
    return (row for row in lines if len(row) > 1 or (row and row[0].strip()))


def _by_a_writer(plain: _Rows, quoted: _Rows) -> bool:
    """Whether the quotes around fields follow the rule of a writer, and so are no part of the texts."""
    pairs = [cells for rows in zip(plain, quoted, strict=True) for cells in zip(*rows, strict=True)]
    for special in _WRITERS:
        if all((raw != cell) == any(mark in cell for mark in special) for raw, cell in pairs):
            return True
    columns = zip(*(zip(*rows, strict=True) for rows in zip(plain[1:], quoted[1:], strict=True)), strict=True)
    return any(all(raw != cell for raw, cell in column) for column in columns)


def _names(header: Sequence[str]) -> list[str]:
    """The names of the columns as pandas makes them: numbered where they are empty or occur again."""
    names: list[str] = []
    for number, name in enumerate(header):
        first = name or f"Unnamed: {number}"
        again, count = first, 0
        while again in names:
            count += 1
            again = f"{first}.{count}"
        names.append(again)
    return names
