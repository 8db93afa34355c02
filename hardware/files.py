"""Replace a file as a whole: a kill at any moment leaves the old or the new content, and nothing beside it for long."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A path to write to, whose file replaces `path` when the context ends without an error; raises OSError.

    It lies beside `path`, because renaming is atomic only within one file system.
    """
    sweep(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        # Flushed before renaming, so that even after a power failure `path` is never an incomplete file.
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sweep(path: Path) -> None:
    """Remove what processes that died while they wrote `path` have left beside it."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.(\d{{1,9}})\.part")
    for left in path.parent.glob(".*.part"):
        found = ours.fullmatch(left.name)
        if found is not None and left.is_file() and not _alive(int(found.group(1))):
            left.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        # It is another user's.
        return True
    return True
