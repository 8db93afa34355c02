"""The run folder: what a command needs it finds there, what it makes it leaves there.

```
run.json                 the request, versions, fingerprints of model and data (this schema)
data/                    the training, validation and test rows
checkpoint/              the fine-tuning under way; gone when it is done
teacher/                 the strong teacher, where one was fine-tuned for this run: checkpoint/, weights/
teacher-outputs/         what the strong teacher gives for the training rows, while the fine-tuning is under way
tracking/                what trackers write
supernet/                the fine-tuned super-network, its tokenizer or image processor; there when fine-tuning is done.
                         Of a pruning: the original, with the channels that may be pruned
pruning/                 the stages of a pruning: detectors, and a search for each sub-network
pruned/<digest>/         the weights of a whole pruned network; <digest>-<settings>.checkpoint/ while it is fine-tuned;
                         latencies.json and latency.json (of the original): what was measured to choose networks by
                         a limit on latency
evolution/               of an evolution of layers: study.journal, bound.json and first-step.json (the tests that
                         layers have to pass), ranking.json, layers/
training.png             how the largest, smallest and random sub-networks did while fine-tuning
searches/<name>/         search.json (the request), the study, front.csv, the report; with device profiles these, in
                         profiles/; verified.json: what was measured again; exported.json: what the latest export was
further/<digest>/        one sub-network refined for an export, by the path of that: further.json (the request),
                         checkpoint/, weights/
```

A run folder may come from somebody else, so it is validated: records by schema and bounded in size, no links, paths
inside the folder only, and nothing that it names is imported.
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, Self

import pydantic
from torch import nn

from nas.console import say
from nas.data.split import Data
from nas.data.tasks import CLASSIFICATION, TASKS, Task
from nas.errors import NoFeasible, UserError
from nas.files import recover_folder, replace_folder
from nas.learning.checkpoint import model_fingerprint
from nas.learning.finetuned import Finetuned
from nas.records import Record, Request, Scalar, Whole, read_record, recorded_versions, write_record
from nas.runs.makers import MAKERS, Product
from nas.sentences import did_you_mean, may_mean, one_of, quoted

JOURNAL = "study.journal"

_LOCK, _LONGEST_LOCK = ".lock", 200
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class AtWork(UserError):
    """Another command holds the run folder."""


class Unfinished(UserError):
    """Something that a command makes is not there yet.

    Args:
        what: a sentence without its full stop.
        remedy: what to do where no command is at work on it.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what = what


class RunRecord(Record):
    """`run.json`: what the run holds, the request that began it, by flag, the versions and what it is of."""

    version: Literal[1] = 1
    product: Product = "super-network"
    request: Request = pydantic.Field(validation_alias="asked", serialization_alias="asked")
    versions: dict[str, str]
    model_fingerprint: str
    data_fingerprint: str
    kind: Literal["text", "image"]
    classes: list[str] = pydantic.Field(min_length=1, max_length=100_000)
    rows: dict[Literal["train", "validation", "test"], Whole]

    @pydantic.model_validator(mode="after")
    def _known_task(self) -> Self:
        name = self.request.get("task", CLASSIFICATION.name)
        if name not in TASKS:
            raise ValueError(f"its task must be {one_of(TASKS, name)}")
        return self

    @property
    def task(self) -> Task:
        """What the network is for."""
        return TASKS[str(self.request.get("task", CLASSIFICATION.name))]


class RequestRecord(Record):
    """`search.json` and `further.json`: the request of a search, or of refining one sub-network, by flag."""

    version: Literal[1] = 1
    request: Request = pydantic.Field(validation_alias="asked", serialization_alias="asked")
    versions: dict[str, str]


def write_run(folder: "RunFolder", record: RunRecord, data: Data) -> None:
    """Write the data, then run.json: where that exists, the run can be resumed."""
    replace_folder(folder.data, data.save)
    write_record(folder.run_json, record)


def record_of(product: Product, request: dict[str, Scalar], model: nn.Module, data: Data) -> RunRecord:
    """The record of a run that begins.

    Args:
        product: what it will hold.
        request: what decides its outcome, by flag.
        model: that it begins with.
        data: its rows.
    """
    return RunRecord(
        product=product,
        request=request,
        versions=recorded_versions(),
        model_fingerprint=model_fingerprint(model),
        data_fingerprint=data.fingerprint,
        kind=data.kind,
        classes=list(data.classes),
        rows={"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
    )


def no_search(where: str, name: str, known: Sequence[str]) -> str:
    """A sentence on a search that is not there, without its full stop.

    Args:
        where: the run, as its user names it.
        name: of the search.
        known: names of those that are there.
    """
    searches = ", ".join(known) or "none yet"
    return f"{where} has no search named {quoted(name)}{did_you_mean(name, known)} (searches: {searches})"


class RunFolder:
    """The paths of one run, and the reading and writing of its records."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def run_json(self) -> Path:
        """The record of the run."""
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
    def teacher_outputs(self) -> Path:
        """What the strong teacher gives for the training rows, while a fine-tuning is under way."""
        return self._inside("teacher-outputs")

    @property
    def tracking(self) -> Path:
        """What trackers of the fine-tuning write."""
        return self._inside("tracking")

    def further(self, out: Path) -> Path:
        """The folder of the refining whose result goes to `out`: another one for every path."""
        return self._inside(f"further/{hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:16]}")

    def searches(self) -> list[str]:
        """The names of the searches begun, sorted."""
        return sorted(path.parent.name for path in self.path.glob("searches/*/search.json"))

    @property
    def pruning(self) -> Path:
        """The stages of a pruning, see `nas.pruning.stages`."""
        return self._inside("pruning")

    @property
    def pruned(self) -> Path:
        """The whole networks that a pruning has fine-tuned, and those that it is fine-tuning."""
        return self._inside("pruned")

    @property
    def evolution(self) -> Path:
        """The stages of an evolution of layers, see `nas.evolving.evonorm`."""
        return self._inside("evolution")

    def read(self, product: Product | None = None) -> RunRecord:
        """The record of a run.

        Args:
            product: what the run must hold; None: anything.

        Raises:
            UserError: there is none, it is damaged or of another version, or the run holds something else.
        """
        if not self.run_json.is_file():
            raise UserError(self._no_run())
        record = read_record(self.run_json, RunRecord)
        if product is not None and record.product != product:
            raise UserError(
                f"{self.path} must hold a run of {MAKERS[product].command}, it is one of "
                f"{MAKERS[record.product].command}"
            )
        return record

    def read_search(self, name: str) -> RequestRecord:
        """The record of a search; Unfinished where there is none, UserError where it is damaged or too new."""
        path = self.search(name) / "search.json"
        if not path.is_file():
            raise Unfinished(
                no_search(str(self.path), name, self.searches()),
                MAKERS[self.read().product].no_search.format(folder=self.path),
            )
        return read_record(path, RequestRecord)

    def read_further(self, out: Path) -> RequestRecord:
        """The record of the refining whose result goes to `out`; UserError where it is damaged."""
        return read_record(self.further(out) / "further.json", RequestRecord)

    def read_finetuned(self) -> Finetuned:
        """How the fine-tuning ended; UserError where that is damaged or of another version."""
        return read_record(self.supernet / "finetuned.json", Finetuned)

    def check(self) -> None:
        """UserError where the folder is none, holds something else than a run, or a link; writes nothing."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"a run needs a folder, {self.path} is a file; name another path")
        if self.path.is_dir() and not self.run_json.exists() and not self._is_ours():
            raise UserError(f"{self.path} holds other files and no run; name a new or an empty folder")
        self._no_links()

    @contextmanager
    def locked(self, work: str = "", own: str | None = None) -> Iterator[None]:
        """Hold the run folder for one command; the system lets go of it however the command ends.

        Where the command before did not end by itself, that is said.

        Args:
            work: what the command does, e.g. "search default", as far as a later command asks.
            own: a function of the user's that does part of that work in the process of the command.

        Raises:
            AtWork: another command holds the folder.
            UserError: the folder is none, holds something else than a run, or a link.
            OSError: it cannot be written.
        """
        with self._held(work, own) as lock:
            # What stands in the lock was at work: it is taken out however a command ends, unless its process dies.
            lock.truncate(0)
            lock.write(f"{os.getpid()} {work}\n".encode())
            lock.flush()
            try:
                yield
            finally:
                lock.truncate(0)
                # What was refused before it began leaves no trace.
                if {item.name for item in self.path.iterdir()} == {_LOCK}:
                    (self.path / _LOCK).unlink()
                    self.path.rmdir()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """As `locked`, but where another command holds the folder, what it has kept so far may be read beside it.

        Every file that commands keep is replaced as a whole, and a journal is read up to its last whole line. What
        stands in the lock stays there: a command that goes on with what was cut off reads it.

        Raises:
            AtWork: what is to be read is `Unfinished`, and another command is at work.
            UserError, OSError: as for `locked`.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(self._held())
            except AtWork:
                stack.enter_context(self._beside_another())
            yield

    @contextmanager
    def _held(self, work: str = "", own: str | None = None) -> Iterator[BinaryIO]:
        """The file of the lock, which no other command holds; arguments and errors as for `locked`."""
        self.check()
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / _LOCK).open("ab+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AtWork(f"another command is at work in {self.path}; wait for it to end") from None
            self._recover()
            lock.seek(0)
            self._say_cut_off(lock.read(_LONGEST_LOCK).decode("utf-8", "replace"), work, own)
            yield lock

    @contextmanager
    def _beside_another(self) -> Iterator[None]:
        """Say what a report beside another command is of, and that what is not there yet is to be waited for."""
        try:
            yield
        except Unfinished as error:
            raise AtWork(f"{error.what}; another command is at work in {self.path}, wait for it to end") from error
        except NoFeasible:
            # What was measured is reported then too.
            self._say_so_far()
            raise
        self._say_so_far()

    def _say_so_far(self) -> None:
        say(f"Another command is at work in {self.path}: this is of what it has kept so far")

    def _recover(self) -> None:
        """Restore what a kill left half replaced, and remove what it left half written."""
        for folder in (
            self.data,
            self.supernet,
            self.teacher / "weights",
            self.evolution / "layers",
            *(each / "weights" for each in self.path.glob("further/*")),
        ):
            recover_folder(folder)
        for left in self.path.rglob(".*.part*"):
            if left.is_file():
                left.unlink()

    def _say_cut_off(self, left: str, work: str, own: str | None) -> None:
        """Say that a command left its lock, and what to do where the user's own function may have ended its process."""
        if not left:
            return
        again = own is not None and left.partition(" ")[2].strip() == work
        remedy = f". If {own} ends its process, --workers 2 keeps that from ending the command" if again else ""
        say(f"The command before in {self.path} did not end by itself; what it had done is kept{remedy}")

    def _no_run(self) -> str:
        """The sentence on a path that is no run folder; it names a run right above or below the path."""
        what = "is a file" if self.path.is_file() else "holds no run.json" if self.path.is_dir() else "is not there"
        around = [*self.path.parents[:2], *(sorted(self.path.glob("*/")) if self.path.is_dir() else ())]
        run = next((each for each in around if (each / "run.json").is_file()), None)
        meant = "" if run is None else may_mean(run, 200)
        makers = " or ".join(maker.command for maker in MAKERS.values())
        return f"{self.path} is not a run folder, it {what}{meant}; name the folder that {makers} wrote to its --out"

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
