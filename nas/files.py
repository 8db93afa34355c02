"""Read and write files safely.

A kill at any moment leaves either the old or the new content, and content that is read is not trusted.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nas.bounded import loads
from nas.errors import UserError

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Error numbers of a disk that takes nothing more."""


def read_json(path: Path, most_bytes: int = 1 << 24) -> Any:
    """Read a JSON file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON, larger than `most_bytes`, nested too deeply, or holds a number out of bounds.
    """
    return loads(_bounded_text(path, most_bytes))


def read_toml(path: Path, most_bytes: int) -> Any:
    """Read a TOML file; arguments and errors as of `read_json`."""
    import tomllib

    return loads(_bounded_text(path, most_bytes), tomllib.loads)


def _bounded_text(path: Path, most_bytes: int) -> str:
    size = path.stat().st_size
    if size > most_bytes:
        raise ValueError(f"it has {size} bytes, more than {most_bytes}")
    return path.read_text(encoding="utf-8")


def write_text_atomic(path: Path, text: str) -> None:
    """Write `text` to a temporary file, flush that to the disk and rename it to `path`; raises OSError.

    Folders above `path` that are missing are made.
    """
    # Imported here, because `hardware` loads torch, and a command that only reads files does not need it.
    from hardware.files import replacing_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json_atomic(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, as `write_text_atomic`; raises ValueError for NaN and infinity."""
    write_text_atomic(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A new folder to write into, which replaces the folder `path` when the context ends without an error.

    A kill leaves the old or the new folder. Between the two renames at the end there is only `.<name>.old`, from which
    `recover_folder` restores the old one.
    """
    path = path.resolve()
    temporary, old = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.old")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    recover_folder(path)
    if path.exists():
        path.replace(old)
    temporary.replace(path)
    shutil.rmtree(old, ignore_errors=True)


def replace_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write into a new folder, then replace the folder `path` by it, see `replacing_folder`."""
    with replacing_folder(path) as folder:
        fill(folder)


def recover_folder(path: Path) -> None:
    """Restore `path` after a `replace_folder` that was killed between its two renames; remove its leftovers."""
    old = path.with_name(f".{path.name}.old")
    if old.exists() and not path.exists():
        old.replace(path)
    elif old.exists():
        shutil.rmtree(old, ignore_errors=True)


def expanded(name: str | Path) -> Path:
    """A path in which `~` stands for a home folder; raises UserError where that user has none."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise UserError(
            f"{name} must begin with the home folder of a user, there is none; write the path out"
        ) from None


def located(name: str) -> str:
    """The absolute path of an existing file or folder; otherwise `name` itself, which may be a name on a hub."""
    path = expanded(name)
    return str(path.resolve()) if path.exists() else name
