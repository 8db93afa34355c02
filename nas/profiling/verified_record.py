"""`verified.json` of a search: the candidates that were measured again."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import pydantic

from nas.errors import UserError
from nas.objectives import check_values
from nas.profiling.verification import Verified
from nas.records import Count, Record, Scalar, Whole, read_record, write_record
from nas.searching.estimation import Hits
from search_spaces import Space

_FILE_NAME = "verified.json"
_MOST_BYTES = 1 << 26
"""Of a file of the most rows, each with a precision for each layer of a large network."""


class VerifiedRow(Record):
    """The JSON of a `Verified`: predicted and measured values of one sub-network by the name of the objective.

    `hits` are the bits of the right ones of `rows` validation rows, as hexadecimal digits.
    """

    candidate: dict[str, Scalar]
    predicted: dict[str, float]
    measured: dict[str, float]
    unstable: list[str]
    refused: list[str] = pydantic.Field(default_factory=list)
    hits: str | None = None
    rows: Whole = 0
    searched_rows: Count | None = None

    @pydantic.model_validator(mode="after")
    def _of_their_kind(self) -> Self:
        check_values({**self.predicted, **self.measured})
        return self


class Verification(Record):
    """The content of `verified.json`."""

    version: Literal[1] = 1
    rows: list[VerifiedRow] = pydantic.Field(max_length=10_000)


def read_verified(folder: Path, space: Space) -> list[Verified]:
    """Read the verified candidates of the search of `space` in a folder; raises UserError if the record is damaged."""
    path = folder / _FILE_NAME
    if not path.is_file():
        return []
    record = read_record(path, Verification, _MOST_BYTES)
    if len({row.rows for row in record.rows if row.hits is not None}) > 1:
        raise UserError(f"{path} is damaged: its hits must be of the same rows; begin anew with another search")
    try:
        return [
            Verified(
                space.candidate(row.candidate),
                row.predicted,
                row.measured,
                frozenset(row.unstable),
                frozenset(row.refused),
                None if row.hits is None else Hits.from_hex(row.hits, row.rows),
                row.searched_rows,
            )
            for row in record.rows
        ]
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error


def write_verified(folder: Path, found: Sequence[Verified]) -> None:
    """Write the verified candidates of a search into its folder, in place of those that are there."""
    rows = [
        VerifiedRow(
            candidate=dict(each.candidate),
            predicted=dict(each.predicted),
            measured=dict(each.measured),
            unstable=sorted(each.unstable),
            refused=sorted(each.refused),
            hits=None if each.hits is None else each.hits.to_hex(),
            rows=0 if each.hits is None else each.hits.rows,
            searched_rows=each.searched_rows,
        )
        for each in found
    ]
    write_record(folder / _FILE_NAME, Verification(rows=rows), indent=None)
