"""Records that commands store as JSON: strict schemas, written atomically, rejected if damaged or of another version.

A record may come from somebody else, so its size is limited and unknown fields are rejected.
"""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, TypeVar

import pydantic

from hardware.profile import MOST_THREADS
from nas.bounded import loads
from nas.errors import UserError
from nas.files import write_text_atomic
from nas.sentences import quoted

VERSION = 1
MAX_JSON_BYTES = 1 << 20
MOST = 2**20
# What a library is given a size by, and the most that it may be.
_COUNTS = {
    **dict.fromkeys(("max_tokens", "tokens", "rows", "batch_size", "calibration_rows", "population", "budget"), MOST),
    **dict.fromkeys(("threads", "accuracy_threads"), MOST_THREADS),
}

Scalar = str | int | float | bool | None
_RECORDED = ("supersieve", "torch", "transformers", "accelerate", "datasets", "optuna", "onnxruntime", "scikit-learn")


class Record(pydantic.BaseModel):
    """The base of all records: no unknown keys, no conversion of types, no change after creation."""

    model_config = pydantic.ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, validate_by_name=True
    )


Count = Annotated[int, pydantic.Field(ge=1, le=MOST)]
Whole = Annotated[int, pydantic.Field(ge=0, le=2**53)]
Milliseconds = Annotated[float, pydantic.Field(ge=1e-9, le=1e9)]
Share = Annotated[float, pydantic.Field(ge=0, le=1)]


def _counted(request: dict[str, Scalar]) -> dict[str, Scalar]:
    for name, most in _COUNTS.items():
        value = request.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most):
            raise ValueError(f"{name} must be from 1 to {most}, got {str(value)[:40]}")
    return request


Request = Annotated[dict[str, Scalar], pydantic.AfterValidator(_counted)]
"""The request of a command, by flag; the numbers among it that size anything are in their bounds."""

_AnyRecord = TypeVar("_AnyRecord", bound=Record)


def write_record(path: Path, record: Record, *, indent: int | None = 2) -> None:
    """Write a record atomically, without white space where `indent` is None.

    Raises:
        UserError: it holds a number that could not be read again; nothing is written.
        OSError: it cannot be written.
    """
    text = record.model_dump_json(indent=indent, by_alias=True) + "\n"
    try:
        loads(text)
    except ValueError as error:
        raise UserError(f"{path.name} cannot hold this: {error}") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, text)


def recorded_versions() -> dict[str, str]:
    """Versions of the installed packages that results depend on."""
    found = {}
    for name in _RECORDED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def same_request(
    path: Path, before: Mapping[str, Scalar], now: Mapping[str, Scalar], other: str = "another folder"
) -> None:
    """Raise UserError, which names the first difference, unless both requests have equal settings.

    Args:
        path: of what was begun.
        before: the settings that it was begun with.
        now: those of this command.
        other: what to name for these.
    """
    for name in [*before, *now]:
        old, new = before.get(name), now.get(name)
        if old != new:
            flag = name.replace("_", "-")
            remedy = f"repeat the first command, or name {other}"
            raise UserError(f"{path} was begun with {flag} {quoted(old)}, now it is {quoted(new)}; {remedy}")


def read_record(
    path: Path, schema: type[_AnyRecord], most_bytes: int = MAX_JSON_BYTES, remedy: str = "begin anew in another folder"
) -> _AnyRecord:
    """Read a record that `write_record` wrote; raises UserError if it is missing, damaged or of another version.

    Args:
        path: the file.
        schema: of the record.
        most_bytes: a larger file is refused unread.
        remedy: what to do where it is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path} must be there, it is not; {remedy}")
    if path.stat().st_size > most_bytes:
        raise UserError(
            f"{path} must be at most {most_bytes} bytes, it has {path.stat().st_size}; it is not what nas wrote"
        )
    try:
        text = path.read_text(encoding="utf-8")
        loads(text)
        return schema.model_validate_json(text)
    except UnicodeDecodeError:
        raise UserError(f"{path} is damaged (not UTF-8 text); {remedy}") from None
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if where == "version":
            raise UserError(
                f"{path} is of version {str(first['input'])[:40]}, this nas reads version {VERSION}; use the nas that "
                "made it"
            ) from None
        raise UserError(f"{path} is damaged ({where + ': ' if where else ''}{first['msg']}); {remedy}") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); {remedy}") from None
