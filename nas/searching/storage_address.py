"""Where a study is stored, as users name it: a journal file, or the URL of a database."""

import re
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from nas.errors import UserError

Storage = Path | str
"""A journal file, or the URL of a database, e.g. `sqlite:///studies.db#name` with an optional name of the study."""
NAME = "supersieve"
"""Of a study, in a journal and where the URL of a database gives none."""


def is_url(storage: Storage) -> bool:
    """Whether a storage is the URL of a database rather than a file."""
    return isinstance(storage, str) and "://" in storage


def resolved(storage: str) -> str:
    """A storage as it is named from any folder: the path of an SQLite database is absolute.

    Raises:
        UserError: an SQLite database in memory, which would be gone with the process.
    """
    address, mark, name = storage.partition("#")
    try:
        url = make_url(address)
    except ArgumentError:
        # It is refused where it is opened.
        return storage
    if url.get_backend_name() != "sqlite":
        return storage
    prefix = "file:" if (url.database or "").startswith("file:") else ""
    path = (url.database or "").removeprefix("file:")
    if path in ("", ":memory:") or url.query.get("mode") == "memory":
        raise UserError(f"{shown(storage)} must be a database that lasts, e.g. sqlite:///studies.db; it is in memory")
    # In the text itself, because SQLAlchemy would write characters of a path in its own way.
    return address.replace(f"/{url.database}", f"/{prefix}{Path(path).resolve()}", 1) + mark + name


def shown(storage: Storage) -> str:
    """The storage as text for messages, with the password of a URL hidden.

    A password may contain any character, and may be given in the query of the URL instead.
    """
    hidden = re.sub(r"(://[^:/@\s]*):\S*@", r"\1:***@", str(storage))
    return re.sub(r"(passw(?:or)?d=)[^&#\s]*", r"\1***", hidden, flags=re.IGNORECASE)


def parts(url: str) -> tuple[str, str]:
    """Split a storage URL into the URL of the database and the name of the study in it."""
    address, _, name = url.partition("#")
    return address, name or NAME
