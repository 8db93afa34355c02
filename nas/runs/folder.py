"""The run folder: what a command needs it finds there, what it makes it leaves there.

```
run.json                 what was asked, versions, fingerprints of model and data (this schema)
data/                    the training, validation and test rows
checkpoint/              the fine-tuning under way; gone when it is done
teacher/                 the strong teacher, where one was fine-tuned for this run: checkpoint/, weights/
tracking/                what trackers write
supernet/                the fine-tuned super-network, its tokenizer or image processor; there when fine-tuning is done
training.png             how the largest, smallest and random sub-networks did while fine-tuning
searches/<name>/         search.json (what was asked), the study, front.csv, the report; with device profiles these, in
                         profiles/, and verified.json: what was measured again
further/<place>/         one sub-network fine-tuned further for an export: further.json (what was asked), checkpoint/,
                         weights/
```

A run folder may come from somebody else, so it is validated: records by schema and bounded in size, no links, paths
inside the folder only, and nothing that it names is imported.
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, TypeVar

import pydantic

from nas.errors import UserError
from nas.files import recover_folder, write_text_atomic

VERSION = 1
JOURNAL = "study.journal"
MAX_JSON_BYTES = 1 << 20

Scalar = str | int | float | bool | None
_LOCK = ".lock"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RECORDED = ("supersieve", "torch", "transformers", "accelerate", "datasets", "optuna", "onnxruntime", "scikit-learn")


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class RunRecord(_Record):
    """`run.json`: what `nas finetune` was asked, with what, on what."""

    version: Literal[1] = 1
    asked: dict[str, Scalar]
    versions: dict[str, str]
    model_fingerprint: str
    data_fingerprint: str
    kind: Literal["text", "image"]
    classes: list[str] = pydantic.Field(min_length=1, max_length=100_000)
    rows: dict[Literal["train", "validation", "test"], int]


class Request(_Record):
    """`search.json` and `further.json`: what a search, or a further fine-tuning of one sub-network, was asked."""

    version: Literal[1] = 1
    asked: dict[str, Scalar]
    versions: dict[str, str]


class ProbeRecord(_Record):
    """Scores of some sub-networks on validation rows after `step`; null where one gave no number."""

    step: int
    largest: float | None
    smallest: float | None
    random: list[float | None] = pydantic.Field(max_length=100)


class Finetuned(_Record):
    """`finetuned.json` beside the weights of a super-network, a teacher or one sub-network: how the fine-tuning ended.

    `validation_score` is the full network's in the metric of the task, null where it gave no number; the probes are
    those during the fine-tuning of a super-network.
    """

    version: Literal[1] = 1
    steps: int
    loss: float
    metric: str
    validation_score: float | None
    seconds: float
    probes: list[ProbeRecord] = []


class VerifiedRow(_Record):
    """Latencies of one sub-network by the name of the objective, in milliseconds: predicted, and measured again; what
    did not get stable, and what the runtime does not take, is only named."""

    candidate: dict[str, Scalar]
    predicted: dict[str, float]
    measured: dict[str, float]
    unstable: list[str]
    refused: list[str] = pydantic.Field(default_factory=list)


class Verification(_Record):
    """`verified.json`: what was measured again after a search by predicted latencies."""

    version: Literal[1] = 1
    rows: list[VerifiedRow] = pydantic.Field(max_length=10_000)


_AnyRecord = TypeVar("_AnyRecord", bound=_Record)


class RunFolder:
    """The paths of one run, and the reading and writing of its records."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def run_json(self) -> Path:
        """What was asked."""
        return self._inside("run.json")

    @property
    def data(self) -> Path:
        """The folder of the training, validation and test rows."""
        return self._inside("data")

    @property
    def checkpoint(self) -> Path:
        """The state of a fine-tuning under way."""
        return self._inside("checkpoint")

    @property
    def supernet(self) -> Path:
        """The fine-tuned super-network."""
        return self._inside("supernet")

    def search(self, name: str) -> Path:
        """The folder of the search `name`; UserError for a name that could leave the run folder."""
        if not _NAME.fullmatch(name):
            raise UserError(
                f"a search's name is up to 64 letters, digits, '.', '_' or '-', got {name!r}; choose another --name"
            )
        return self._inside(f"searches/{name}")

    @property
    def teacher(self) -> Path:
        """The folder of the strong teacher that was fine-tuned for this run."""
        return self._inside("teacher")

    @property
    def tracking(self) -> Path:
        """What trackers of the fine-tuning write."""
        return self._inside("tracking")

    def further(self, out: Path) -> Path:
        """The folder of the fine-tuning whose result goes to `out`: a name of its own for every place."""
        return self._inside(f"further/{hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]}")

    def searches(self) -> list[str]:
        """The names of the searches begun, sorted."""
        return sorted(path.parent.name for path in self.path.glob("searches/*/search.json"))

    def read(self) -> RunRecord:
        """The record of a run; UserError where there is none, or it is damaged or of another version."""
        if not self.run_json.is_file():
            raise UserError(
                f"{self.path} is not a run folder (it has no run.json); `nas finetune ... --out {self.path}` makes one"
            )
        return read_record(self.run_json, RunRecord)

    def read_search(self, name: str) -> Request:
        """The record of a search; UserError where there is none, or it is damaged or of another version."""
        path = self.search(name) / "search.json"
        if not path.is_file():
            known = ", ".join(self.searches()) or "none yet"
            raise UserError(
                f"{self.path} has no search named {name!r} (searches: {known}); `nas search {self.path}` makes one"
            )
        return read_record(path, Request)

    def read_further(self, out: Path) -> Request:
        """The record of the fine-tuning whose result goes to `out`; UserError where it is damaged."""
        return read_record(self.further(out) / "further.json", Request)

    def read_finetuned(self) -> Finetuned:
        """How the fine-tuning ended; UserError where that is damaged or of another version."""
        return read_record(self.supernet / "finetuned.json", Finetuned)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run folder for one command; the system lets go of it however the command ends.

        UserError when another command holds it; OSError when the folder cannot be written.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"a run needs a folder, {self.path} is a file; name another place")
        if self.path.is_dir() and not self.run_json.exists() and not self._is_ours():
            raise UserError(f"{self.path} holds other files and no run; name a new or an empty folder")
        self.path.mkdir(parents=True, exist_ok=True)
        self._no_links()
        lock = self.path / _LOCK
        with lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"another command is at work in {self.path}; wait for it to end") from None
            for folder in (
                self.data,
                self.supernet,
                self.teacher / "weights",
                *(each / "weights" for each in self.path.glob("further/*")),
            ):
                recover_folder(folder)
            for left in self.path.rglob(".*.part*"):
                if left.is_file():
                    left.unlink()
            try:
                yield
            finally:
                # What was refused before it began leaves no trace.
                if {item.name for item in self.path.iterdir()} == {_LOCK}:
                    lock.unlink()
                    self.path.rmdir()

    def _is_ours(self) -> bool:
        """Whether the folder holds only what a run that was cut off at its beginning can have left."""
        begun = {_LOCK, "data", ".data.part", ".data.old"}
        names = {item.name for item in self.path.iterdir()}
        return all(name in begun or name.startswith(".run.json.") for name in names)

    def _no_links(self) -> None:
        """A run that nas made holds no links; one from somebody else could lead a command to write anywhere."""
        for folder, folders, files in os.walk(self.path):
            for item in (Path(folder) / name for name in (*folders, *files)):
                # A search killed while it wrote leaves a link of Optuna's as lock: never followed, only removed.
                if item.is_symlink() and item.name != f"{JOURNAL}.lock":
                    raise UserError(f"a run folder must hold no links, {item} is one; remove it")

    def _inside(self, relative: str) -> Path:
        path = self.path / relative
        if not path.resolve().is_relative_to(self.path.resolve()):
            raise UserError(f"{path} must lie inside the run folder, it points to {path.resolve()}; remove that link")
        return path


def write_record(path: Path, record: _Record) -> None:
    """Write a record atomically; raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(path, record.model_dump_json(indent=2) + "\n")


def recorded_versions() -> dict[str, str]:
    """The versions of what figures depend on."""
    found = {}
    for name in _RECORDED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def same_request(path: Path, before: Mapping[str, Scalar], now: Mapping[str, Scalar]) -> None:
    """UserError, naming the first setting that differs, unless both requests are equal."""
    for name in [*before, *now]:
        old, new = before.get(name), now.get(name)
        if old != new:
            flag = name.replace("_", "-")
            remedy = "repeat the first command, or choose another place"
            raise UserError(f"{path} was begun with {flag} {old!r}, now it is {new!r}; {remedy}")


def read_record(path: Path, schema: type[_AnyRecord]) -> _AnyRecord:
    """A record that `write_record` wrote; UserError where it is missing, damaged or of another version."""
    if not path.is_file():
        raise UserError(f"{path} must be there, it is not; begin anew in another folder")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise UserError(
            f"{path} must be at most {MAX_JSON_BYTES} bytes, it has {path.stat().st_size}; it is not what nas wrote"
        )
    try:
        text = path.read_text(encoding="utf-8")
        return schema.model_validate_json(text)
    except UnicodeDecodeError:
        raise UserError(f"{path} is damaged (not UTF-8 text); begin anew in another folder") from None
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if where == "version":
            raise UserError(
                f"{path} is of version {first['input']!r}, this nas reads version {VERSION}; use the nas that made it"
            ) from None
        raise UserError(
            f"{path} is damaged ({where + ': ' if where else ''}{first['msg']}); begin anew in another folder"
        ) from None
