"""Values for a command's flags from a JSON or TOML file: `--config FILE`. Unknown names and wrong types are refused."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pydantic

from nas.command.flags import flags_of, refusal
from nas.errors import UserError
from nas.files import read_json, read_toml
from nas.sentences import did_you_mean, quoted

_NOT_IN_A_FILE = ("config",)
# Names of many parts (`a.b.c`) take tomllib the square of their length.
_MOST_BYTES = 2**14
_READ = {".json": read_json, ".toml": read_toml}


def read_config(args: Sequence[str]) -> dict[str, Any]:
    """The values of the file named by `--config` among `args`; empty when there is none.

    Lists whose flag is among `args` too are left out: the command line would be added to them and not be used instead.

    UserError when the file is missing, too large, or not a JSON object or TOML document of numbers of usual size.
    """
    path = _config_path(args)
    if path is None:
        return {}
    if path.suffix not in _READ:
        raise UserError(f"--config must name a .json or .toml file, got {path}")
    try:
        values = _READ[path.suffix](path, _MOST_BYTES)
    except OSError as error:
        raise UserError(f"--config: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"--config: {path} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"--config: {path} must hold one object with a value for each flag")
    given = {word.partition("=")[0] for word in args}
    return {
        name.replace("-", "_"): value
        for name, value in values.items()
        if not (isinstance(value, list) and f"--{name.replace('_', '-')}" in given)
    }


def defaults_from(command: type[Any], values: Mapping[str, Any], *, missing: Any) -> Any:
    """An instance of the dataclass `command`: `values` by flag name, else its defaults, else `missing`.

    UserError for a name that is no flag of the command, or a value of the wrong type.
    """
    known = {flag.field: flag for flag in flags_of(command) if flag.field not in _NOT_IN_A_FILE}
    for field, value in values.items():
        if field not in known:
            name, names = field.replace("_", "-"), [flag.name for flag in known.values()]
            meant = did_you_mean(name, names)
            raise UserError(f"--config: {quoted(name)} is no flag of this command{meant}; its --help lists them")
        wrong = refusal(known[field], value) if isinstance(value, str) else None
        if wrong is not None:
            raise UserError(f"--config: {wrong}")
    return _build(command, values, missing)


def _config_path(args: Sequence[str]) -> Path | None:
    for position, word in enumerate(args):
        flag, equals, value = word.partition("=")
        if flag == "--config" and equals:
            return Path(value)
        if flag == "--config" and position + 1 < len(args):
            return Path(args[position + 1])
    return None


def _build(kind: type[Any], values: Mapping[str, Any], missing: Any) -> Any:
    hints = get_type_hints(kind)
    built = {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            built[field.name] = _build(hint, values, missing)
        elif field.name in values:
            built[field.name] = _checked(field.name, hint, values[field.name])
        elif field.default is dataclasses.MISSING:
            built[field.name] = missing
    return kind(**built)


def _checked(name: str, hint: Any, value: Any) -> Any:
    # A list of the file is a tuple of the settings.
    given = tuple(value) if isinstance(value, list) else value
    try:
        return pydantic.TypeAdapter(hint).validate_python(given, strict=Path not in (hint, *get_args(hint)))
    except pydantic.ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise UserError(f"--config: {name.replace('_', '-')} cannot be {quoted(value)} ({reason})") from None
