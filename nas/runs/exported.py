"""`exported.json` of a search: the comparison that its latest export printed, for the report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import pydantic

from nas.objectives import check_values
from nas.records import Record, Scalar, Whole, read_record, write_record

_NAME, _DIFFERENCE = "exported.json", "_difference_points"
_Figures = dict[str, float | None]


class ExportedRecord(Record):
    """The latest export of a search: what it is of, and its figures on test rows; null where one was no number."""

    version: Literal[1] = 1
    candidate: dict[str, Scalar]
    metric: str
    today: _Figures
    full: _Figures
    chosen: _Figures
    points: float | None
    interval: list[float | None] = pydantic.Field(min_length=2, max_length=2)
    test_rows: Whole
    deployment: dict[str, Scalar]
    what_the_data_can_tell: str
    serving_int8: _Figures | None = None
    """The full network with all layers in INT8; only where precision goes by layer."""

    @pydantic.model_validator(mode="after")
    def _of_their_kind(self) -> Self:
        for figures in (self.today, self.full, self.chosen, self.serving_int8 or {}):
            check_values({name.removeprefix("test_"): value for name, value in figures.items() if value is not None})
        return self


def keep_exported(folder: Path, result: Mapping[str, Any]) -> None:
    """Write into the folder of a search what `nas export` prints of one of its sub-networks; raises OSError."""
    metric = next(name for name in result if name.endswith(_DIFFERENCE)).removesuffix(_DIFFERENCE)
    record = ExportedRecord(
        candidate=result["candidate"],
        metric=metric,
        today=result["today"],
        full=result["full"],
        chosen=result["chosen"],
        points=result[f"{metric}{_DIFFERENCE}"],
        interval=result[f"{metric}_difference_interval"],
        test_rows=result["test_rows"],
        deployment=result["deployment"],
        what_the_data_can_tell=result["what_the_data_can_tell"],
        serving_int8=result.get("serving_int8"),
    )
    write_record(folder / _NAME, record)


def read_exported(folder: Path) -> ExportedRecord | None:
    """The latest export of the search in a folder, None where there was none; UserError where it is damaged."""
    path = folder / _NAME
    return read_record(path, ExportedRecord) if path.is_file() else None
