"""Read CSV and TSV files so that every cell is what the file holds: strings stay strings, and no row is lost.

In a CSV file a field that begins with a quote ends with one (RFC 4180). In a TSV file a quote may also be a part of the
text, because that format has no quotes of its own. Which of the two holds is decided for the file as a whole.

Spreadsheets write CSV files with semicolons where commas are in numbers. Another separator than the usual one is taken
where the usual one does not divide all lines alike and exactly one other does, or where the first line names it.
"""

import csv
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from nas.data.text_files import NoRows, Read, TextForm, read_text
from nas.errors import UserError

_Rows = list[list[str]]
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_NAMED = "sep="
# Writers of TSV files put quotes around the fields that hold one of these, and around no others: by the usual rule of
# csv modules, and by that of spreadsheets.
_WRITERS = ('\t\n\r"', '\t\n\r",')


def read_delimited(path: Path, form: TextForm) -> Read:
    """Read a CSV or TSV file, also with .gz; all cells are strings.

    Args:
        path: the file.
        form: its separator and encoding, where the user says them.

    Raises:
        NoRows: the file has no rows.
        UserError: a row has more fields than the header, or its quotes do not match.
        OSError, EOFError, zlib.error: the file cannot be read.
    """
    text, notes = read_text(path, form.encoding)
    usual = "\t" if ".tsv" in [suffix.lower() for suffix in path.suffixes] else ","
    named, text = _named(text)
    told = form.mark or named
    separator, (header, *rows) = (told, _rows(text, told, path)) if told else _separated(text, usual, path)
    if separator != usual and not form.mark:
        notes = [*notes, f"Fields of {path} read as separated by {_SEPARATORS.get(separator, separator)}"]
    if not rows:
        raise NoRows(f"the data in {path} must hold rows, it is empty")
    names = _names(header)
    long = next((number for number, row in enumerate(rows, start=1) if len(row) > len(names)), None)
    if long is not None:
        raise UserError(
            f"every row of {path} must have as many fields as its header; put quotes around a text with a separator, "
            f"or name another --separator (row {long} has {len(rows[long - 1])} fields, the header {len(names)})"
        )
    padded = [[*row, *[None] * (len(names) - len(row))] for row in rows]
    columns = {name: list(cells) for name, cells in zip(names, zip(*padded, strict=True), strict=True)}
    return Read(columns, notes)


def _named(text: str) -> tuple[str | None, str]:
    """The separator that the first line names (`sep=;`, as spreadsheets write it), and the text without that line."""
    first, _, rest = text.partition("\n")
    name = first.rstrip("\r").strip('"')
    if name.lower().startswith(_NAMED) and len(name) == len(_NAMED) + 1:
        return name[-1], rest
    return None, text


def _separated(text: str, usual: str, path: Path) -> tuple[str, _Rows]:
    """The separator and the rows, header first: the usual one, or the only other one that divides all lines alike."""
    error = None
    try:
        rows = _rows(text, usual, path)
        if _even(rows):
            return usual, rows
    except UserError as wrong:
        error = wrong
    others = {
        separator: found for separator in _SEPARATORS if separator != usual if (found := _if_even(text, separator))
    }
    if len(others) == 1:
        return others.popitem()
    if error is not None:
        raise error
    return usual, rows


def _even(rows: _Rows) -> bool:
    return len(rows[0]) > 1 and len({len(row) for row in rows}) == 1


def _if_even(text: str, separator: str) -> _Rows | None:
    # Most separators that a file does not have need no more than this.
    if separator not in text.partition("\n")[0]:
        return None
    try:
        rows = _rows(text, separator, Path())
    except UserError:
        return None
    return rows if _even(rows) else None


def _rows(text: str, separator: str, path: Path) -> _Rows:
    """The rows, header first, with the quotes taken as the file means them."""
    if '"' not in text:
        return _parsed(text, separator, quotes=False)
    plain = _parsed(text, separator, quotes=False)
    # Read without quotes, a table has as many fields in every line; a file that needs its quotes has not.
    even = len({len(row) for row in plain}) == 1
    # Quotes count at the beginning of a field only, so a space that a writer puts before them must go.
    spaced = f'{separator} "' in text and _spaced(plain)
    try:
        quoted = _parsed(text, separator, quotes=True, spaced=spaced)
    except csv.Error as error:
        if even:
            return plain
        raise UserError(
            f"the quotes in {path} must match: a field that begins with a quote ends with one, and quotes inside are "
            f"doubled ({error}); where another character is between the fields, name it with --separator"
        ) from error
    if separator != "\t" or not even or (len(quoted) == len(plain) and _by_a_writer(plain, quoted)):
        return quoted
    return plain


def _spaced(plain: _Rows) -> bool:
    """Whether each separator has a space behind it, and then a quote, in the header or in a whole column."""
    header, *rows = [[cell.startswith(' "') for cell in row] for row in plain]
    return any(header) or (bool(rows) and any(all(column) for column in zip(*rows, strict=False)))


def _parsed(text: str, separator: str, *, quotes: bool, spaced: bool = False) -> _Rows:
    before = csv.field_size_limit(sys.maxsize)
    try:
        stream = io.StringIO(text, newline="")
        if quotes:
            lines = csv.reader(stream, delimiter=separator, strict=True, skipinitialspace=spaced)
        else:
            lines = csv.reader(stream, delimiter=separator, quoting=csv.QUOTE_NONE)
        try:
            return list(_filled(lines)) or [[]]
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
        first = name.strip() or f"Unnamed: {number}"
        again, count = first, 0
        while again in names:
            count += 1
            again = f"{first}.{count}"
        names.append(again)
    return names
