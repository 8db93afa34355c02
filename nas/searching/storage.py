"""Store a study in a journal file of Optuna, or in a database that Optuna supports.

Each measured candidate is one finished trial, written at once when it is committed. The identity of the search is saved
in the user attributes of the study, so that a different search does not continue it. If a kill left an incomplete last
line in a journal, that line is dropped when the search resumes.

Only one process may write a study. A journal is protected by a file lock of the operating system, which ends with its
process. In a database the process that started last owns the study, and an earlier one stops at its next result.
"""

import fcntl
import itertools
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError

from nas.bounded import loads
from nas.console import say
from nas.errors import UserError
from nas.searching.domain import C, Domain
from nas.searching.measurement import Measurement, Objective
from nas.searching.storage_address import NAME, Storage, is_url, parts, shown
from nas.searching.trials import check_order, from_trial, is_ours, quiet_optuna, to_trial

Keep = Callable[[Measurement[C]], None]
"""Writes a measurement to the storage."""

VERSION = 1
_WRITER = f"{NAME}_writer"
_LINE_START = b'{"op_code":'
"""Beginning of each line of a journal."""
_WRONG = (ValueError, LookupError, TypeError, AttributeError, AssertionError, RuntimeError, ArithmeticError)
"""Exceptions that Optuna raises for damaged content, which it does not check."""
_UNREACHABLE = (SQLAlchemyError, ImportError, optuna.exceptions.StorageInternalError)
"""Exceptions of a database that cannot be reached; ImportError when its driver is not installed."""


@contextmanager
def open_study(
    storage: Storage, domain: Domain[C], objectives: Sequence[Objective], identity: Mapping[str, Any]
) -> Iterator[tuple[list[Measurement[C]], Keep[C]]]:
    """Open a study for writing and hold it until the context ends.

    Args:
        storage: journal file or URL of a database; created where it is missing.
        domain: the candidates of the search.
        objectives: the objectives of the search.
        identity: everything that determines the search, as JSON data; the version of the format is added to it.

    Yields:
        The measurements that are stored already, and a function that stores a further one.

    Raises:
        UserError: the storage is damaged, in use, not writable, not reachable, or belongs to another search.
    """
    open_storage = _database if is_url(storage) else _journal
    whole = {"version": VERSION, **identity}
    with open_storage(storage, objectives, whole) as (stored, begin):
        if stored is not None:
            _refuse_another_search(storage, stored, whole)
            # Read everything before `begin` writes anything, so that a damaged study is left unchanged.
            _measurements(storage, stored, domain, objectives)
        study, check = begin()
        # Read again after taking over the study, since another process may have written to a database in the meantime.
        found, strangers = _measurements(storage, study, domain, objectives)
        _say_left_out(storage, strangers)
        numbers = itertools.count(len(found))

        def keep(measurement: Measurement[C]) -> None:
            with _cannot_write(storage):
                check()
                study.add_trial(to_trial(domain, objectives, measurement, next(numbers)))

        yield found, keep


def read_study(
    storage: Storage, read: Callable[[Any], Domain[C]]
) -> tuple[Domain[C], list[Objective], list[Measurement[C]]]:
    """Read a study without changing it.

    Args:
        storage: journal file or URL of a database.
        read: the identity of a domain -> the domain; raises ValueError for one of another kind.

    Returns:
        The domain, the objectives (without the functions of exact ones, which are not stored) and the measurements.

    Raises:
        UserError: the file or database does not exist, or holds no study of this project.
    """
    if is_url(storage):
        url, name = parts(str(storage))
        with _connected(storage, url) as database:
            stored = _study_in(storage, database, name)
            return _content(storage, stored, read)
    path = Path(storage)
    if not path.is_file():
        raise UserError(f"there is no study at {path}; run the search first")
    return _content(path, _in_journal(path, _whole_length(path)), read)


def read_identity(storage: Storage) -> Mapping[str, Any] | None:
    """Read what decides the study at a storage without changing it; None where no study was begun.

    Raises:
        UserError: the study is damaged, or the database cannot be reached.
    """
    if is_url(storage):
        url, name = parts(str(storage))
        with _connected(storage, url) as database:
            return _identity(storage, _study_in(storage, database, name))
    path = Path(storage)
    return _identity(path, _in_journal(path, _whole_length(path))) if path.is_file() else None


def _identity(storage: Storage, stored: optuna.Study | None) -> Mapping[str, Any] | None:
    """What decides a stored study; None where it is not written yet. UserError for a study of another program."""
    found = None if stored is None else stored.user_attrs.get(NAME)
    # A kill between the creation of the study and the writing of its identity leaves an empty study, which is fine.
    if stored is None or (found is None and not stored.get_trials(deepcopy=False)):
        return None
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise UserError(f"the study at {shown(storage)} must be of version {VERSION}; name another file")
    return found


def copy_to_journal(storage: Storage, path: Path) -> None:
    """Copy a study from a database to the journal file `path`; a kill never leaves a partial file at `path`.

    Raises:
        UserError: the database cannot be reached, or the file cannot be written.
    """
    url, name = parts(str(storage))
    part = path.with_name(f".{path.name}.part")
    part.unlink(missing_ok=True)
    with _connected(storage, url) as database, quiet_optuna(), _cannot_write(path):
        optuna.copy_study(
            from_study_name=name, from_storage=database, to_storage=_journal_storage(part), to_study_name=NAME
        )
        part.replace(path)
        Path(f"{part}.lock").unlink(missing_ok=True)


_Begin = Callable[[], tuple[optuna.Study, Callable[[], None]]]
"""Creates or takes over the study; returns it, and a function that raises UserError if another process owns it now."""


@contextmanager
def _journal(
    storage: Storage, objectives: Sequence[Objective], identity: Mapping[str, Any]
) -> Iterator[tuple[optuna.Study | None, _Begin]]:
    """Lock a journal; yields the study in it, if any, and the function that begins writing."""
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
                # Optuna protects each write with a lock file, which survives a kill and would block all later writes.
                # This process holds the lock of the system, so an existing lock file belongs to a killed process.
                Path(f"{path}.lock").unlink(missing_ok=True)
                return _begin(_journal_storage(path), NAME, identity, objectives), lambda: None

        yield _in_journal(path, length), begin


@contextmanager
def _database(
    storage: Storage, objectives: Sequence[Objective], identity: Mapping[str, Any]
) -> Iterator[tuple[optuna.Study | None, _Begin]]:
    """Connect to a database; yields the study in it, if any, and the function that takes it over."""
    url, name = parts(str(storage))
    token = f"{uuid.uuid4()} (process {os.getpid()})"
    with _connected(storage, url) as database:

        def begin() -> tuple[optuna.Study, Callable[[], None]]:
            with _cannot_write(storage):
                study = _begin(database, name, identity, objectives)
                # A database has no lock that ends with its process. The last writer to register owns the study, so that
                # a search can be resumed even if a killed process never gave it up.
                study.set_user_attr(_WRITER, token)

            def check() -> None:
                if database.get_study_user_attrs(study._study_id).get(_WRITER) != token:
                    raise UserError(
                        f"the study at {shown(storage)} was taken over by another process; let that one go on"
                    )

            return study, check

        yield _study_in(storage, database, name), begin


@contextmanager
def _connected(storage: Storage, url: str) -> Iterator[RDBStorage]:
    try:
        with quiet_optuna():
            database = RDBStorage(url)
    except (*_UNREACHABLE, *_WRONG) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"the database {shown(storage)} cannot be reached: {shown(reason)}") from error
    try:
        yield database
    finally:
        database.remove_session()
        database.engine.dispose()


def _study_in(storage: Storage, database: BaseStorage, name: str) -> optuna.Study | None:
    """The study of the given name, or None; raises UserError if it is damaged."""
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
    """Length of a journal in bytes without an incomplete last line.

    Raises:
        UserError: the last complete line or the incomplete one after it does not look like a line of a journal.
    """
    content = path.read_bytes()
    length = content.rfind(b"\n") + 1
    # A kill cuts a line off, but its beginning is still that of a line. Anything else is not ours to truncate.
    torn = content[length:][: len(_LINE_START)]
    lines = content[:length].splitlines()
    try:
        whole = not lines or "op_code" in json.loads(lines[-1])
    except (ValueError, TypeError, RecursionError):
        whole = False
    if not whole or not _LINE_START.startswith(torn):
        raise UserError(f"the study at {path} is damaged or no journal; name another file or put a copy in its place")
    return length


def _check_numbers(path: Path, length: int) -> None:
    """Raise ValueError for a number out of bounds in a journal, of which Optuna checks none."""
    for number, line in enumerate(path.read_bytes()[:length].splitlines(), 1):
        try:
            loads(line.decode("utf-8"))
        except ValueError as error:
            raise ValueError(f"in line {number}: {error}") from None


def _in_journal(path: Path, length: int) -> optuna.Study | None:
    """The study of this project in a journal, or None; raises UserError for a damaged journal."""
    if length == 0:
        return None
    try:
        _check_numbers(path, length)
        with quiet_optuna():
            storage = _journal_storage(path)
    except _WRONG as error:
        raise UserError(f"the study at {path} is damaged: {type(error).__name__}: {error}") from error
    return _study_in(path, storage, NAME)


def _begin(
    storage: BaseStorage, name: str, identity: Mapping[str, Any], objectives: Sequence[Objective]
) -> optuna.Study:
    """The study of this project in a storage, created if it is missing."""
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


def _content(
    storage: Storage, stored: optuna.Study | None, read: Callable[[Any], Domain[C]]
) -> tuple[Domain[C], list[Objective], list[Measurement[C]]]:
    """Domain, objectives and measurements of a stored study; raises UserError if it is damaged or another program's."""
    attributes = None if stored is None else stored.user_attrs.get(NAME)
    if stored is None or attributes is None:
        raise UserError(f"{shown(storage)} holds no study of this project; name the one that the search wrote")
    try:
        domain = read(attributes["space"])
        objectives = [Objective(o["name"], o["direction"], o["limit"]) for o in attributes["objectives"]]
    except _WRONG as error:
        raise UserError(f"the study at {shown(storage)} is damaged: {error}") from error
    found, strangers = _measurements(storage, stored, domain, objectives)
    _say_left_out(storage, strangers)
    return domain, objectives, found


def _refuse_another_search(storage: Storage, stored: optuna.Study, identity: Mapping[str, Any]) -> None:
    """Raise UserError if the stored study has another identity."""
    found = _identity(storage, stored)
    if found is None:
        return
    # Through JSON, because the stored identity went through it too (tuples became lists).
    expected = json.loads(json.dumps(identity))
    for key, value in expected.items():
        if found.get(key) != value:
            both = "" if key == "space" else f" ({found.get(key)}, here {value})"
            raise UserError(
                f"the study at {shown(storage)} belongs to a search with another {key}{both}; name another file"
            )


def _measurements(
    storage: Storage, stored: optuna.Study, domain: Domain[C], objectives: Sequence[Objective]
) -> tuple[list[Measurement[C]], int]:
    """The stored measurements in order, and the number of trials that another program added to the study.

    In a database two processes may both have measured a candidate before one took over; the first result counts.
    """
    try:
        trials = stored.get_trials(deepcopy=False)
        ours = [trial for trial in trials if is_ours(trial)]
        directions = [direction.name.lower() for direction in stored.directions]
        wanted = [objective.direction for objective in objectives]
        if directions != wanted and (ours or NAME in stored.user_attrs):
            raise ValueError(f"its directions must be {', '.join(wanted)}, they are {', '.join(directions)}")
        first: dict[C, tuple[FrozenTrial, Measurement[C]]] = {}
        for trial in ours:
            measurement = from_trial(domain, objectives, trial)
            first.setdefault(measurement.candidate, (trial, measurement))
        check_order([trial for trial, _ in first.values()])
    except _WRONG as error:
        raise UserError(
            f"the study at {shown(storage)} is damaged, or another program changed it: {error}; put a copy in its "
            "place, or begin another search"
        ) from error
    return [measurement for _, measurement in first.values()], len(trials) - len(ours)


def _say_left_out(storage: Storage, strangers: int) -> None:
    if strangers:
        say(f"Trials of other programs in the study at {shown(storage)}, left out: {strangers:,}")
