"""Where a study is kept: Optuna's journal file by default, any database that Optuna knows on request.

One finished trial is one measured candidate, in order of commitment, each one write. What the search was asked for
stands in the study's user attributes, so that another search never continues it. A last line of a journal torn by a
kill is dropped when the search goes on. A journal is held by one process through a lock of the system's; in a database
the process that began last holds the study, and one that it took over from stops at its next result.
"""

import fcntl
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import SQLAlchemyError

from nas.errors import UserError
from nas.searching.measurement import Measurement, Objective
from nas.searching.trials import from_trial, quiet_optuna, to_trial
from search_spaces.space import Space

Storage = Path | str
"""A journal file, or the URL of a database, e.g. `sqlite:///studies.db`, with `#name` for the name of the study."""
Keep = Callable[[Measurement], None]

NAME = "supersieve"
VERSION = 1
_WRITER = f"{NAME}_writer"
_LINE_START = b'{"op_code":'
_WRONG = (ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError)
_UNREACHABLE = (SQLAlchemyError, ImportError, optuna.exceptions.StorageInternalError)


def is_url(storage: Storage) -> bool:
    """Whether it names a database, not a file."""
    return isinstance(storage, str) and "://" in storage


def shown(storage: Storage) -> str:
    """The storage for a message: a URL without its password, which may hold any sign or stand in the query."""
    hidden = re.sub(r"(://[^:/@\s]*):\S*@", r"\1:***@", str(storage))
    return re.sub(r"(passw(?:or)?d=)[^&#\s]*", r"\1***", hidden, flags=re.IGNORECASE)


@contextmanager
def open_study(
    storage: Storage, space: Space, objectives: Sequence[Objective], identity: Mapping[str, Any]
) -> Iterator[tuple[list[Measurement], Keep]]:
    """What an earlier run of the same search left in `storage`, and the way to add to it.

    Args:
        identity: what makes it the same search, as JSON data; its "version" is added.

    Raises:
        UserError: a storage that is damaged, in use, not writable, not reachable, or of another search.
    """
    open_storage = _database if is_url(storage) else _journal
    whole = {"version": VERSION, **identity}
    with open_storage(storage, objectives, whole) as (stored, begin):
        if stored is not None:
            _refuse_another_search(storage, stored, whole)
            _measurements(storage, stored, space, objectives)  # what is damaged stays as it is
        study, check = begin()
        # Again now that the study is ours: another process may have added to a database in the meantime.
        found = _measurements(storage, study, space, objectives)

        def keep(measurement: Measurement) -> None:
            with _cannot_write(storage):
                check()
                study.add_trial(to_trial(space, objectives, measurement))

        yield found, keep


def read_study(storage: Storage) -> tuple[Space, list[Objective], list[Measurement]]:
    """What a study holds, without changing it; exact objectives have lost their function.

    Raises:
        UserError: no such file or database, or no study of this project in it.
    """
    if is_url(storage):
        url, name = _parts(str(storage))
        with _connected(storage, url) as database:
            stored = _study_in(storage, database, name)
            return _content(storage, stored)
    path = Path(storage)
    if not path.is_file():
        raise UserError(f"there is no study at {path}; run the search first")
    return _content(path, _in_journal(path, _whole_length(path)))


def copy_to_journal(storage: Storage, path: Path) -> None:
    """Write the study in a database to the journal file `path`, as a whole or not at all."""
    url, name = _parts(str(storage))
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    with _connected(storage, url) as database, quiet_optuna(), _cannot_write(path):
        optuna.copy_study(
            from_study_name=name, from_storage=database, to_storage=_journal_storage(part), to_study_name=NAME
        )
        part.replace(path)
        Path(f"{part}.lock").unlink(missing_ok=True)


_Begin = Callable[[], tuple[optuna.Study, Callable[[], None]]]


@contextmanager
def _journal(
    storage: Storage, objectives: Sequence[Objective], identity: Mapping[str, Any]
) -> Iterator[tuple[optuna.Study | None, _Begin]]:
    path = Path(storage)
    with _cannot_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"the study at {path} is being written by another process; wait for it to end") from error
        length = _whole_length(path)

        def begin() -> tuple[optuna.Study, Callable[[], None]]:
            with _cannot_write(path):
                file.truncate(length)
                # Nobody else writes while we hold the file: a lock that Optuna left there is of a killed process.
                Path(f"{path}.lock").unlink(missing_ok=True)
                return _begin(_journal_storage(path), NAME, identity, objectives), lambda: None

        yield _in_journal(path, length), begin


@contextmanager
def _database(
    storage: Storage, objectives: Sequence[Objective], identity: Mapping[str, Any]
) -> Iterator[tuple[optuna.Study | None, _Begin]]:
    url, name = _parts(str(storage))
    token = f"{uuid.uuid4()} (process {os.getpid()})"
    with _connected(storage, url) as database:

        def begin() -> tuple[optuna.Study, Callable[[], None]]:
            with _cannot_write(storage):
                study = _begin(database, name, identity, objectives)
                study.set_user_attr(_WRITER, token)

            def check() -> None:
                if database.get_study_user_attrs(study._study_id).get(_WRITER) != token:
                    raise UserError(
                        f"the study at {shown(storage)} was taken over by another process; let that one go on"
                    )

            return study, check

        yield _study_in(storage, database, name), begin


def _parts(url: str) -> tuple[str, str]:
    """The URL of the database, and the name of the study in it."""
    address, _, name = url.partition("#")
    return address, name or NAME


@contextmanager
def _connected(storage: Storage, url: str) -> Iterator[RDBStorage]:
    try:
        with quiet_optuna():
            database = RDBStorage(url)
    except (*_UNREACHABLE, *_WRONG, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"the database {shown(storage)} cannot be reached: {shown(reason)}") from error
    try:
        yield database
    finally:
        database.remove_session()
        database.engine.dispose()


def _study_in(storage: Storage, database: BaseStorage, name: str) -> optuna.Study | None:
    """The study of that name, None when there is none; raises UserError for a damaged one."""
    try:
        with quiet_optuna():
            if name not in optuna.get_all_study_names(database):
                return None
            return optuna.load_study(study_name=name, storage=database)
    except (*_UNREACHABLE, *_WRONG) as error:
        raise UserError(f"the study at {shown(storage)} is damaged: {type(error).__name__}: {error}") from error


@contextmanager
def _cannot_write(storage: Storage) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"the study cannot be written to {shown(storage)}: {error.strerror or error}") from error
    except _UNREACHABLE as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(f"the study cannot be written to {shown(storage)}: {shown(reason)}") from error


def _journal_storage(path: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(path)))


def _whole_length(path: Path) -> int:
    """Bytes of the journal without a last line torn by a kill; raises UserError when it is torn or wrong otherwise."""
    content = path.read_bytes()
    length = content.rfind(b"\n") + 1
    torn = content[length:][: len(_LINE_START)]
    lines = content[:length].splitlines()
    try:
        whole = not lines or "op_code" in json.loads(lines[-1])
    except (ValueError, TypeError, RecursionError):
        whole = False
    if not whole or not _LINE_START.startswith(torn):
        raise UserError(f"the study at {path} is damaged or no journal; name another file or put a copy in its place")
    return length


def _in_journal(path: Path, length: int) -> optuna.Study | None:
    """Our study in the journal, None when it has none; raises UserError for a damaged journal."""
    if length == 0:
        return None
    try:
        with quiet_optuna():
            storage = _journal_storage(path)
    except _WRONG as error:
        raise UserError(f"the study at {path} is damaged: {type(error).__name__}: {error}") from error
    return _study_in(path, storage, NAME)


def _begin(
    storage: BaseStorage, name: str, identity: Mapping[str, Any], objectives: Sequence[Objective]
) -> optuna.Study:
    """Our study in the storage, created where it is missing."""
    with quiet_optuna():
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            directions=[objective.direction for objective in objectives],
            load_if_exists=True,
        )
    if NAME not in study.user_attrs:
        study.set_user_attr(NAME, dict(identity))
    return study


def _content(storage: Storage, stored: optuna.Study | None) -> tuple[Space, list[Objective], list[Measurement]]:
    attributes = None if stored is None else stored.user_attrs.get(NAME)
    if stored is None or attributes is None:
        raise UserError(f"{shown(storage)} holds no study of this project; name the one that the search wrote")
    try:
        space = Space.from_json(attributes["space"])
        objectives = [Objective(o["name"], o["direction"], o["limit"]) for o in attributes["objectives"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the study at {shown(storage)} is damaged: {error}") from error
    return space, objectives, _measurements(storage, stored, space, objectives)


def _refuse_another_search(storage: Storage, stored: optuna.Study, identity: Mapping[str, Any]) -> None:
    """UserError when what is stored is of another search."""
    there = stored.user_attrs.get(NAME)
    if there is None and not stored.get_trials(deepcopy=False):
        return
    here = json.loads(json.dumps(identity))
    if not isinstance(there, dict) or there.get("version") != VERSION:
        raise UserError(f"the study at {shown(storage)} must be of version {VERSION}; name another file")
    for key, value in here.items():
        if there.get(key) != value:
            told = "" if key == "space" else f" ({there.get(key)}, here {value})"
            raise UserError(
                f"the study at {shown(storage)} belongs to a search with another {key}{told}; name another file"
            )


def _measurements(
    storage: Storage, stored: optuna.Study, space: Space, objectives: Sequence[Objective]
) -> list[Measurement]:
    """What is stored, in order; where two processes measured one candidate in a database, the first counts."""
    try:
        found = [from_trial(space, objectives, trial) for trial in stored.get_trials(deepcopy=False)]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"the study at {shown(storage)} is damaged: {error}") from error
    first = {measurement.candidate: measurement for measurement in reversed(found)}
    return [measurement for measurement in found if first[measurement.candidate] is measurement]
