"""Where the rows of a split stand, so that a sentence can name the file and the row in it."""

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from nas.sentences import one_line


class Places(Protocol):
    """Where rows stand; rows are counted from 0 in code, and from 1 for people."""

    def place(self, row: int) -> str:
        """A row for a sentence, e.g. "row 3 of train.csv"."""

    def folder(self, row: int) -> Path | None:
        """The folder from which paths in a row start; None where rows are in no file of their own."""


def cell_of(places: Places, row: int, column: str) -> str:
    """A cell for a sentence, e.g. "column label of row 3 of train.csv"."""
    return f"column {one_line(column, 40)} of {places.place(row)}"


@dataclass(frozen=True)
class InData:
    """Rows of a data set that is not read file by file."""

    name: str

    def place(self, row: int) -> str:
        """As `Places`."""
        return f"row {row + 1} of {self.name}"

    def folder(self, row: int) -> None:
        """Always None."""
        return


@dataclass(frozen=True)
class InTables:
    """Rows of tables, one after the other.

    Args:
        files: the tables and how many rows each has.
    """

    files: Sequence[tuple[Path, int]]

    def place(self, row: int) -> str:
        """As `Places`."""
        number = self._file(row)
        before = self._ends[number - 1] if number else 0
        return f"row {row - before + 1} of {self.files[number][0]}"

    def folder(self, row: int) -> Path:
        """The folder of the table."""
        return self.files[self._file(row)][0].parent

    def _file(self, row: int) -> int:
        return bisect.bisect_right(self._ends, row)

    @cached_property
    def _ends(self) -> list[int]:
        return list(itertools.accumulate(count for _, count in self.files))


@dataclass(frozen=True)
class InFiles:
    """Rows that are a file each."""

    files: Sequence[Path]

    def place(self, row: int) -> str:
        """As `Places`."""
        return str(self.files[row])

    def folder(self, row: int) -> Path:
        """The folder of the file."""
        return self.files[row].parent


@dataclass(frozen=True)
class Chosen:
    """Some rows of others.

    Args:
        places: where the others stand.
        rows: indices of those chosen.
    """

    places: Places
    rows: Sequence[int]

    def place(self, row: int) -> str:
        """As `Places`."""
        return self.places.place(self.rows[row])

    def folder(self, row: int) -> Path | None:
        """As `Places`."""
        return self.places.folder(self.rows[row])
