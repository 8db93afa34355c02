"""Read results of earlier measurements, from a study or a CSV table, to start a search with.

A search learns from known results, includes them in its study and front (marked `known`), never measures them again and
does not count them against its budget. They must come from the same super-network and the same rows; this cannot be
checked here.
"""

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from nas.errors import UserError
from nas.searching.measurement import Measurement, Objective, refused_values
from nas.searching.storage_address import Storage, is_url, shown
from nas.searching.study import load_study
from search_spaces.space import Candidate, Choice, Option, Space

_OURS = ("number", "state", "reason", "seconds", "known", "role")
_PREFIXES = ("values_", "measured_", "estimated_", "latency_ms_")
_MAX_ROWS = 100_000


def known_results(
    source: Storage,
    space: Space,
    objectives: Sequence[Objective],
    *,
    without: Collection[str] = (),
    ignored: Collection[str] = (),
) -> list[Measurement]:
    """Read the measured candidates of a source for a search with the given objectives.

    Args:
        source: a study (journal file or URL of a database), or a CSV file with a column for each choice (empty where
            the choice is inactive) and for each objective. Columns are named like the choices and objectives, as in the
            tables of `nas report`, or as in `Study.to_pandas`. Failed measurements are skipped.
        space: the space of the search.
        objectives: the objectives of the search; those with a formula are computed and need no column.
        without: objectives to be measured again, such as latencies, which are comparable within one process only.
        ignored: further columns that a table may have, such as objectives of other searches.

    Returns:
        The measurements in the order of the source, marked `known`.

    Raises:
        UserError: the source cannot be read, belongs to another space, lacks a column or has an unknown one.
    """
    wanted = [o for o in objectives if o.exact is None and o.name not in without]
    if not is_url(source) and Path(source).suffix.lower() == ".csv":
        ignored = {*ignored, *(o.name for o in objectives)}
        found = _from_csv(Path(source), space, [o.name for o in wanted], ignored)
    else:
        found = _from_study(source, space, wanted)
    exact = [o for o in objectives if o.exact is not None]
    return [Measurement(c, _with_exact(space, c, v, exact, objectives), "measured", None, 0.0, True) for c, v in found]


_Found = list[tuple[Candidate, dict[str, float]]]


def _with_exact(
    space: Space,
    candidate: Candidate,
    values: Mapping[str, float],
    exact: Sequence[Objective],
    objectives: Sequence[Objective],
) -> dict[str, float]:
    """The values of a candidate with those of exact objectives added, in the order of the objectives."""
    computed = {o.name: float(np.asarray(o.exact(space.encode([candidate])))[0]) for o in exact if o.exact is not None}
    both = {**values, **computed}
    return {o.name: both[o.name] for o in objectives if o.name in both}


def _from_study(source: Storage, space: Space, wanted: Sequence[Objective]) -> _Found:
    study = load_study(source)
    if _options(study.space) != _options(space):
        raise UserError(f"the study at {shown(source)} is of another space; take one of the same sub-networks")
    there = {o.name: o.direction for o in study.objectives}
    for objective in wanted:
        if there.get(objective.name) != objective.direction:
            raise UserError(
                f"the study at {shown(source)} must have measured {objective.name} ({objective.direction}d), "
                f"it has {', '.join(there)}; leave that objective out or take another study"
            )
    names = [o.name for o in wanted]
    return [
        (space.candidate(m.candidate), {name: m.values[name] for name in names})
        for m in study.measurements
        if m.state == "measured"
    ]


def _options(space: Space) -> list[tuple[str, list[Option], object]]:
    """The choices without their cuts: two spaces with the same choices have the same candidates."""
    return [(choice.name, list(choice.options), choice.active_if) for choice in space.choices]


def _from_csv(path: Path, space: Space, wanted: Sequence[str], ignored: Collection[str]) -> _Found:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = _columns(path, reader.fieldnames or [], space, wanted, ignored)
            return _rows(path, reader, space, columns, wanted)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} must be a CSV file in UTF-8: {error}") from error


def _columns(
    path: Path, header: Iterable[str], space: Space, wanted: Sequence[str], ignored: Collection[str]
) -> dict[str, str]:
    """Map the columns of a table that are read to the names of choices and objectives."""
    choices = [choice.name for choice in space.choices]
    columns, unknown = {}, []
    for column in header:
        name = column.removeprefix("params_").removeprefix("values_")
        if name in choices or name in wanted:
            columns[column] = name
        # Columns that this project's own tables have besides are skipped; any other is more likely a misspelled choice.
        elif column not in (*_OURS, *ignored) and not column.startswith(_PREFIXES):
            unknown.append(column)
    missing = [name for name in (*choices, *wanted) if name not in columns.values()]
    if unknown:
        raise UserError(
            f"{path} has a column {unknown[0]!r}, which is no choice of the space and no objective of the search; "
            f"its columns may be {', '.join(wanted)} and the choices {', '.join(choices[:4])} ..."
        )
    if missing:
        raise UserError(f"{path} must have a column {missing[0]!r}, it has {', '.join(header)}")
    return columns


def _rows(
    path: Path, reader: "csv.DictReader[str]", space: Space, columns: Mapping[str, str], wanted: Sequence[str]
) -> _Found:
    found: dict[Candidate, dict[str, float]] = {}
    for count, row in enumerate(reader, start=1):
        if count > _MAX_ROWS:
            raise UserError(f"{path} must have at most {_MAX_ROWS} rows")
        cells = {name: row[column] or "" for column, name in columns.items()}
        if row.get("state") == "failed":
            continue
        try:
            options = {choice.name: _option(choice, cells[choice.name]) for choice in space.choices}
            candidate = space.candidate(options)
            values = {name: float(cells[name]) for name in wanted}
            if bad := refused_values(values):
                raise ValueError(", ".join(bad))
        except ValueError as error:
            raise UserError(f"{path}, line {reader.line_num}: {error}; mend or leave out that line") from error
        # A candidate may occur twice, for example when inactive choices had different values; the first row counts.
        found.setdefault(candidate, values)
    return list(found.items())


def _option(choice: Choice, cell: str) -> Option | None:
    """The option named by a cell, or None for an empty cell.

    pandas writes the integers of a column with empty cells as floats, so 4.0 stands for 4.
    """
    if not cell:
        return None
    for option in choice.options:
        if str(option) == cell:
            return option
    try:
        number = float(cell)
    except ValueError:
        raise ValueError(f"{choice.name} has no option {cell!r}") from None
    for option in choice.options:
        if not isinstance(option, str) and float(option) == number:
            return option
    raise ValueError(f"{choice.name} has no option {cell!r}")
