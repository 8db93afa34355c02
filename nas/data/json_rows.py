"""Read rows from JSON: lines of objects, an array of them, and the forms in which pandas and others write a table."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nas.data.text_files import Columns, NoRows, Read, TextForm, read_text
from nas.errors import UserError
from nas.sentences import listed

_Rows = Sequence[Mapping[str, Any]]


def read_json_rows(path: Path, form: TextForm) -> Read:
    """Read JSON lines, an array of objects, or (in a .json file) one object that holds a table; also with .gz.

    Such an object is one with a list for each column, or with a list of objects beside what describes them, or what
    `DataFrame.to_json` of pandas writes.

    Raises:
        NoRows: the file has no rows.
        UserError: it is no JSON, or holds something other than rows.
        OSError, EOFError, zlib.error: the file cannot be read.
    """
    text, notes = read_text(path, form.encoding)
    whole = _parsed(text, path)
    if isinstance(whole, dict):
        suffixes = [suffix.lower() for suffix in path.suffixes]
        columns = (_table(whole, path) if ".json" in suffixes else None) or _by_column([whole])
    else:
        columns = _by_column(_objects_only(whole, path))
    if not any(columns.values()):
        raise NoRows(f"the data in {path} must hold rows, it is empty")
    return Read(columns, notes)


def _objects_only(whole: Any, path: Path) -> _Rows:
    rows = whole if isinstance(whole, list) else [whole]
    wrong = next((number for number, row in enumerate(rows, start=1) if not isinstance(row, dict)), None)
    if wrong is not None:
        raise UserError(f"the data in {path} must be JSON objects, one a row; row {wrong} is none")
    return rows


def _parsed(text: str, path: Path) -> Any:
    try:
        return _loads(text)
    except ValueError as error:
        as_whole = error
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(_loads(line))
        except ValueError as error:
            # An array over several lines is none of JSON lines.
            here = f"line {number}: {getattr(error, 'msg', error)}"
            where = str(as_whole) if text.lstrip().startswith("[") else here
            raise UserError(
                f"{path} must be JSON, one object a line or an array of them, it is not: {where}"
            ) from error
    return rows


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _by_column(rows: _Rows) -> Columns:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _table(whole: Mapping[str, Any], path: Path) -> Columns | None:
    """The table that one object holds, None where it is a row; UserError where rows and columns may be either."""
    return next((columns for form in _FORMS if (columns := form(whole, path)) is not None), None)


def _split(whole: Mapping[str, Any], path: Path) -> Columns | None:
    """Names of columns and a list of cells for each row: `orient="split"`."""
    if not {"columns", "data"} <= set(whole) <= {"columns", "data", "index"}:
        return None
    names, rows = whole["columns"], whole["data"]
    if not (isinstance(names, list) and isinstance(rows, list) and all(isinstance(row, list) for row in rows)):
        return None
    wrong = next((number for number, row in enumerate(rows, start=1) if len(row) != len(names)), None)
    if wrong is not None:
        raise UserError(f"every row of {path} must have a cell for each column, row {wrong} has not")
    return {str(name): [row[place] for row in rows] for place, name in enumerate(names)}


def _lists(whole: Mapping[str, Any], path: Path) -> Columns | None:
    """A list for each column: `orient="list"` of `DataFrame.to_dict`."""
    lists = list(whole.values())
    if lists and all(isinstance(each, list) for each in lists) and len({len(each) for each in lists}) == 1:
        # A table of one column is of no use; one list of objects is a list of rows under a name.
        alone = len(lists) == 1 and lists[0] and isinstance(lists[0][0], dict)
        return None if alone else {name: list(each) for name, each in whole.items()}
    return None


def _rows_beside(whole: Mapping[str, Any], path: Path) -> Columns | None:
    """One list of objects beside what describes them: `orient="table"`, and what many services send."""
    found = [each for each in whole.values() if isinstance(each, list) and each]
    if len(found) == 1 and all(isinstance(row, dict) for row in found[0]):
        return _by_column(found[0])
    return None


def _objects(whole: Mapping[str, Any], path: Path) -> Columns | None:
    """An object for each column with the number of each row, or for each row: what `DataFrame.to_json()` writes."""
    inner = list(whole.values())
    if not (inner and all(isinstance(each, dict) for each in inner)):
        return None
    names = set(inner[0])
    if any(set(each) != names for each in inner):
        return None
    by_column, by_row = _numbers(names), _numbers(whole)
    if by_column == by_row:
        raise UserError(
            f'{path} must say what are its rows: write it with DataFrame.to_json(..., orient="records") (it holds '
            f"objects named {listed(whole)}, each with entries named {listed(inner[0])})"
        )
    if by_row:
        return _by_column(inner)
    return {name: [cells[row] for row in inner[0]] for name, cells in whole.items()}


def _numbers(names: Any) -> bool:
    return all(name.isdecimal() for name in names)


_FORMS: Sequence[Callable[[Mapping[str, Any], Path], Columns | None]] = (_split, _lists, _rows_beside, _objects)
