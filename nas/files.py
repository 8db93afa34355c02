"""Files: written so that a kill at any moment leaves the old content or the new one, read as if by a stranger."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def read_json(path: Path, most_bytes: int = 1 << 24) -> Any:
    """The value in a file of JSON; raises OSError, and ValueError where it is damaged, too large or too deep."""
    size = path.stat().st_size
    if size > most_bytes:
        raise ValueError(f"it has {size} bytes, more than {most_bytes}")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_text_atomic(path: Path, text: str) -> None:
    """Write `text` beside `path`, flush it to the disk and rename it over `path`; raises OSError."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_json_atomic(path: Path, value: Any) -> None:
    """Write `value` as indented JSON (no NaN) like `write_text_atomic`."""
    write_text_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def replace_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write into a new folder beside `path`, then put it in the place of `path`.

    A kill leaves either the old folder, or for the instant between two renames the old one as `.<name>.old`, which
    `recover_folder` puts back.
    """
    path = path.resolve()
    beside, old = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.old")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        fill(beside)
        for file in beside.rglob("*"):
            if file.is_file():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    recover_folder(path)
    if path.exists():
        path.replace(old)
    beside.replace(path)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(path: Path) -> None:
    """Undo a `replace_folder` of `path` that was killed between its two renames; nothing to do otherwise."""
    old = path.with_name(f".{path.name}.old")
    if old.exists() and not path.exists():
        old.replace(path)
    elif old.exists():
        shutil.rmtree(old, ignore_errors=True)


def located(name: str) -> str:
    """A path as seen from everywhere, or the name as it is."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name
