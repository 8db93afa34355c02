"""Damaged and hostile files: a sentence and exit status 2, or the work done; never a crash, and nothing changed.

Every file of a finished run, and of those that were stopped, is damaged in the ways of `damage`, and so is what a
command is given beside its run. The commands that read it are run on it, each case in a process of its own: a few cases
of each file always, all of them under `make exhaustive`, which tells how many there were.
"""

import json
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import damage
import pytest
from conftest import TellCases
from damaged_commands import Cases, cases
from test_cli_evolve import command as evolve
from test_cli_prune import command as prune
from test_kill import finish, stop
from tiny import write_model, write_reviews
from toy_pyramid import FACTORY, write_inputs

FEW, ONE_OF = 3, 8
Damages = Callable[[bytes], Iterator[damage.Damage]]
Snapshot = dict[str, tuple[int, int]]


class File(NamedTuple):
    """A file that commands read, below the folder of its kind of run, and how it is damaged.

    Args:
        path: a pattern; the first that fits is taken for all of them.
        damages: of its form.
        commands: the names in `Made.commands` of those that read it.
        without: files that are not there then, because it is read only in their place.
        remade: whether a damaged one is made anew, and not refused.
    """

    path: str
    damages: Damages
    commands: tuple[str, ...]
    without: tuple[str, ...] = ()
    remade: bool = False


class Made(NamedTuple):
    """A folder with everything that commands read, not to be changed, and the commands by name, in a copy of it."""

    folder: Path
    commands: Callable[[Path], dict[str, list[object]]]


TEXT = (
    File("run/run.json", damage.of_json, ("report", "search")),
    File("run/.lock", damage.of_bytes, ("report", "search"), remade=True),
    File("run/data/train.parquet", damage.of_bytes, ("refine",)),
    File("run/data/validation.parquet", damage.of_bytes, ("refine", "plan a search")),
    File("run/data/test.parquet", damage.of_bytes, ("export",)),
    File("run/supernet/config.json", damage.of_json, ("plan a search",)),
    File("run/supernet/tokenizer.json", damage.of_json, ("plan a search",)),
    File("run/supernet/tokenizer_config.json", damage.of_json, ("plan a search",)),
    File("run/supernet/model.safetensors", damage.of_bytes, ("plan a search",)),
    File("run/supernet/space.json", damage.of_json, ("report", "plan a search")),
    File("run/supernet/finetuned.json", damage.of_json, ("report",)),
    File("run/searches/default/search.json", damage.of_json, ("report", "search")),
    File("run/searches/default/study.journal", damage.of_lines, ("report", "search")),
    File("run/searches/default/verified.json", damage.of_json, ("report", "search")),
    File("run/searches/default/exported.json", damage.of_json, ("report",)),
    File("run/searches/profiled/search.json", damage.of_json, ("report profiled",)),
    File("run/searches/profiled/study.journal", damage.of_lines, ("report profiled",)),
    File("run/searches/profiled/verified.json", damage.of_json, ("report profiled", "search profiled")),
    File("run/searches/profiled/profiles/latency_ms.json", damage.of_json, ("report profiled",)),
    File("run/further/*/further.json", damage.of_json, ("refine",)),
    File("run/further/*/weights/finetuned.json", damage.of_json, ("refine",)),
    File("run/further/*/weights/model.safetensors", damage.of_bytes, ("refine",)),
    File("cut/data/data.json", damage.of_json, ("go on",)),
    File("cut/data/train.parquet", damage.of_bytes, ("go on",)),
    File("cut/data/validation.parquet", damage.of_bytes, ("go on",)),
    File("cut/checkpoint/state.json", damage.of_json, ("go on",)),
    File("cut/checkpoint/state.safetensors", damage.of_bytes, ("go on",)),
    File("laptop.json", damage.of_json, ("profile", "plan with a profile")),
    File("result.json", damage.of_json, ("read a result",)),
    File("candidate.json", damage.of_json, ("export a candidate",)),
    File("front.csv", damage.of_bytes, ("warm start",)),
    File("flags.json", damage.of_json, ("with a configuration",)),
    File("model/config.json", damage.of_json, ("plan a finetuning", "plan a profile")),
    File("model/tokenizer.json", damage.of_json, ("plan a finetuning",)),
    File("model/tokenizer_config.json", damage.of_json, ("plan a finetuning",)),
    File("model/vocab.txt", damage.of_bytes, ("plan a finetuning",), without=("model/tokenizer.json",)),
    File("model/model.safetensors", damage.of_bytes, ("plan a finetuning",)),
    File("reviews.csv", damage.of_bytes, ("plan a finetuning",)),
)

PRUNED = (
    File("pruned/run.json", damage.of_json, ("report", "prune")),
    File("pruned/data/data.json", damage.of_json, ("prune",)),
    File("pruned/data/train.parquet", damage.of_bytes, ("prune",)),
    File("pruned/data/validation.parquet", damage.of_bytes, ("prune",)),
    File("pruned/data/test.parquet", damage.of_bytes, ("export",)),
    File("pruned/pruning/pruning.json", damage.of_json, ("prune",)),
    File("pruned/pruning/detectors/errors.json", damage.of_json, ("report", "prune")),
    File("pruned/pruning/detectors/*.safetensors", damage.of_bytes, ("prune more",)),
    File("pruned/pruning/searches/*/study.journal", damage.of_lines, ("report", "prune")),
    File("pruned/pruning/searches/*/kept/*/model.safetensors", damage.of_bytes, ("prune more",)),
    File("pruned/pruned/*/training.json", damage.of_json, ("prune",)),
    File("pruned/pruned/*/model.safetensors", damage.of_bytes, ("export the second",)),
    File("pruned/pruned/latencies.json", damage.of_json, ("prune",)),
    File("pruned/pruned/latency.json", damage.of_json, ("prune",), without=("pruned/pruned/latencies.json",)),
    File("pruned/supernet/model.safetensors", damage.of_bytes, ("export", "prune")),
    File("pruned/supernet/preprocessor_config.json", damage.of_json, ("export", "prune")),
    File("pruned/supernet/space.json", damage.of_json, ("report", "prune")),
    File("pruned/searches/default/search.json", damage.of_json, ("report", "prune")),
    File("pruned/searches/default/verified.json", damage.of_json, ("report", "prune")),
    File("pruned/searches/default/study.journal", damage.of_lines, ("report", "prune")),
    File("pruned/searches/default/study.journal.latency.json", damage.of_json, ("prune",)),
    File("pyramid.safetensors", damage.of_bytes, ("plan a pruning",)),
    File("pictures.parquet", damage.of_bytes, ("plan a pruning",)),
)
EVOLVED = (
    File("evolved/run.json", damage.of_json, ("report", "evolve")),
    File("evolved/evolution/study.journal", damage.of_lines, ("report", "evolve")),
    File("evolved/data/data.json", damage.of_json, ("evolve",)),
    File("evolved/data/*.parquet", damage.of_bytes, ("evolve",)),
    File("evolved/evolution/bound.json", damage.of_json, ("evolve",)),
    File("evolved/evolution/first-step.json", damage.of_json, ("evolve",)),
    File("evolved/evolution/ranking.json", damage.of_json, ("evolve",), remade=True),
    File("evolved/evolution/layers/*.json", damage.of_json, ("report", "export")),
)
TAUGHT = (
    File("taught/teacher/weights/finetuned.json", damage.of_json, ("be taught",)),
    File("taught/teacher/weights/model.safetensors", damage.of_bytes, ("be taught",)),
    File("taught/teacher-outputs/outputs.json", damage.of_json, ("be taught",), remade=True),
    File("taught/teacher-outputs/*.safetensors", damage.of_bytes, ("be taught",)),
)
JOINT = (
    File("run/searches/joint/search.json", damage.of_json, ("report joint",)),
    File("run/searches/joint/study.journal", damage.of_lines, ("report joint",)),
    File("run/searches/joint/verified.json", damage.of_json, ("report joint",)),
)
# As those of `run`.
ALIKE = ("cut/data/test.parquet", "cut/run.json", "taught/data/*", "taught/run.json", "taught/checkpoint/*", ".lock")
NEVER_READ = (
    "run/data/data.json",
    "run/searches/*/front.csv",
    "pruned/searches/*/front.csv",
    "trials/*",
    "tracking/*",
    "report*",
    "*.png",
)


def text_commands(original: Path, copy: Path) -> dict[str, list[object]]:
    run, out, cheap = copy / "run", copy / "out", ["--objectives", "accuracy,macs"]
    quick = ["--tolerance", 100, "--tokens", 16]
    short = ["--steps", 1, "--dry-run"]
    trained = [original / "model", "--data", original / "reviews.csv"]
    plan = ["search", run, "--name", "new", *cheap, "--dry-run"]
    return {
        "report": ["report", run],
        "report profiled": ["report", run, "--name", "profiled"],
        "report joint": ["report", run, "--name", "joint"],
        "search": ["search", run, *cheap, "--budget", 12],
        "search profiled": ["search", run, "--name", "profiled", "--profile", copy / "laptop.json", "--budget", 8],
        "plan a search": plan,
        "plan with a profile": [*plan[:4], "--profile", copy / "laptop.json", "--dry-run"],
        "warm start": [*plan[:-1], "--warm-start", copy / "front.csv", "--budget", 2],
        "with a configuration": [*plan, "--config", copy / "flags.json"],
        "export": ["export", run, "--out", out],
        "export a candidate": ["export", run, "--candidate", copy / "candidate.json", "--out", out],
        "refine": ["refine", run, "--candidate", "smallest", "--steps", 4, "--out", original / "refined"],
        "finetune": ["finetune", *trained, "--out", run, "--steps", 40, "--learning-rate", "3e-3"],
        "be taught": ["finetune", *trained, "--out", copy / "taught", *CUT, *STRONG],
        "go on": ["finetune", *trained, "--out", copy / "cut", *CUT],
        "profile": ["profile", run, "--out", copy / "laptop.json", "--budget", 8, *quick],
        "read a result": ["profile-result", run, copy / "result.json", "--out", copy / "new.json"],
        "plan a finetuning": ["finetune", copy / "model", "--data", copy / "reviews.csv", "--out", out, *short],
        "plan a profile": ["profile", copy / "model", "--out", copy / "p.json", "--budget", 2, *quick, "--dry-run"],
    }


CUT = ("--steps", 40, "--checkpoint-every-s", "0.02")
STRONG = ("--distillation", "high-cost", "--hidden-weight", 10)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A run of a text network with everything beside it that a command may be given."""
    folder = tmp_path_factory.mktemp("damaged")
    write_model(folder / "model")
    write_reviews(folder / "reviews.csv")
    commands = partial(text_commands, folder)
    made = commands(folder)
    finish(words(made["finetune"]))
    finish(words(made["search"]))
    finish(words(made["profile"]))
    finish(words(made["search profiled"]))
    finish(words(made["export"]))
    finish(words(made["refine"]))
    stop(words(made["go on"]), (folder / "cut" / "checkpoint" / "state.json").exists, signal.SIGKILL)
    profile = json.loads((folder / "laptop.json").read_text(encoding="utf-8"))
    planned = [row["candidate"] for row in profile["rows"]]
    result = {"planned": planned, "order": [*range(len(planned))], "profile": profile}
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    (folder / "candidate.json").write_text(json.dumps(planned[0]), encoding="utf-8")
    shutil.copy(folder / "run" / "searches" / "default" / "front.csv", folder)
    flags = {"budget": 3, "rows": 20, "seed": 1, "threads": 1, "max_macs": 1e9, "profile": []}
    (folder / "flags.json").write_text(json.dumps(flags), encoding="utf-8")
    for left in (folder / "out", folder / "refined"):
        shutil.rmtree(left)
    return Made(folder, commands)


@pytest.fixture(scope="module")
def joint(text: Made) -> Made:
    """The same with a search over the precision of every layer."""
    search = ["search", text.folder / "run", "--name", "joint", "--objectives", "accuracy,size_mib", "--budget", 6]
    finish(words([*search, "--rows", 20, "--quantize", "--runtime", "openvino", "--verify", 2]))
    return text


@pytest.fixture(scope="module")
def taught(text: Made) -> Made:
    """The same with a run that was stopped while its strong teacher taught."""
    begun = (text.folder / "taught" / "checkpoint" / "state.json").exists
    stop(words(text.commands(text.folder)["be taught"]), begun, signal.SIGKILL)
    return text


def image_commands(original: Path, copy: Path) -> dict[str, list[object]]:
    run = copy / "pruned"
    return {
        "report": ["report", run],
        "prune": [*prune(original, run, "--rates", "0.2,0.4", "--max-latency-ms", 1000)],
        "prune more": [*prune(original, run, "--rates", "0.2,0.4", "--max-latency-ms", 1000, "--budget", 8)],
        "export": ["export", run, "--model", FACTORY, "--out", copy / "out"],
        "export the second": ["export", run, "--model", FACTORY, "--candidate", 2, "--out", copy / "out"],
        "plan a pruning": [*prune(copy, copy / "out", "--rates", "0.2"), "--dry-run"],
    }


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A run of pruned networks."""
    folder = tmp_path_factory.mktemp("damaged-pruned")
    write_inputs(folder)
    commands = partial(image_commands, folder)
    finish(words(commands(folder)["prune"]))
    return Made(folder, commands)


BOUND = ("--least-accuracy", "0.2")
"""Without it the bound is measured, and kept."""


def layer_commands(original: Path, copy: Path) -> dict[str, list[object]]:
    run = copy / "evolved"
    return {
        "report": ["report", run],
        "evolve": [word for word in evolve(original, run, "--quality-steps", 40) if word not in BOUND],
        "export": ["export", run, "--out", copy / "out"],
    }


@pytest.fixture(scope="module")
def evolved(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A run of evolved layers."""
    folder = tmp_path_factory.mktemp("damaged-evolved")
    write_inputs(folder)
    commands = partial(layer_commands, folder)
    finish(words(commands(folder)["evolve"]))
    return Made(folder, commands)


@pytest.fixture(scope="module")
def forking() -> Iterator[Cases]:
    with cases(Path(__file__).parent, Path(__file__).parent.parent) as made:
        yield made


def words(command: Sequence[object]) -> list[str]:
    return [str(word) for word in command]


def snapshot(folder: Path) -> Snapshot:
    """What lies in a folder, but for locks, which every command touches."""
    found = {}
    for path in folder.rglob("*"):
        told = path.stat()
        size, time_ns = (told.st_size, told.st_mtime_ns) if path.is_file() else (0, 0)
        if path.name != ".lock":
            found[str(path.relative_to(folder))] = (size, time_ns)
    return found


def restore(copy: Path, original: Path, before: Snapshot, after: Snapshot) -> None:
    """Undo what was changed in a copy of a folder."""
    for name in sorted(after.keys() - before.keys()):
        path = copy / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for name in sorted(name for name, told in before.items() if after.get(name) != told):
        source, path = original / name, copy / name
        if source.is_dir():
            path.mkdir(exist_ok=True)
        else:
            shutil.copy2(source, path)


class Counted:
    """Runs the commands that read one file on damages of it, counts these cases and keeps what went wrong.

    Args:
        forking: runs a command.
        made: the folder that the file lies in; the commands work in a copy of it.
        file: the file.
        copy: where that copy is made.
    """

    def __init__(self, forking: Cases, made: Made, file: File, copy: Path) -> None:
        shutil.copytree(made.folder, copy)
        for name in file.without:
            (copy / name).unlink()
        self.cases, self.bad = 0, list[str]()
        self._forking, self._made, self._file, self._copy = forking, made, file, copy
        self._path, self._commands = min(copy.glob(file.path)), made.commands(copy)
        self.damages = [*file.damages(self._path.read_bytes())]

    def run(self, which: damage.Damage, name: str) -> int:
        """The exit status of a command on one damage."""
        self._path.write_bytes(which.content)
        before = snapshot(self._copy)
        outcome = self._forking.outcome(self._commands[name])
        after = snapshot(self._copy)
        wrong = outcome.trouble() or ("a refusal changed files" if outcome.status == 2 and after != before else "")
        if wrong:
            self.bad.append(f"{self._file.path}, {which.name[:100]}, {name}: {wrong}")
        restore(self._copy, self._made.folder, before, after)
        self.cases += 1
        return outcome.status


def name_of(value: object) -> str:
    return value.path if isinstance(value, File) else str(value)


KINDS = [("text", file) for file in TEXT]
KINDS_SLOW = [("joint", each) for each in JOINT] + [("pruned", each) for each in PRUNED]
KINDS_SLOW += [("taught", each) for each in TAUGHT] + [("evolved", each) for each in EVOLVED]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text", "joint", "taught", "pruned", "evolved"])
def test_every_file_that_is_made_is_damaged_or_never_read(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind).folder
    known = [*(file.path for _, file in (*KINDS, *KINDS_SLOW)), *ALIKE, *NEVER_READ]
    there = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert not [str(path) for path in there if not any(path.match(pattern) for pattern in known)]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "file"), [*KINDS, *KINDS_SLOW], ids=name_of)
def test_some_damage(forking: Cases, kind: str, file: File, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    counted = Counted(forking, request.getfixturevalue(kind), file, tmp_path / "copy")
    for each in random.Random(file.path).sample(counted.damages, min(FEW, len(counted.damages))):
        for name in file.commands:
            counted.run(each, name)
    assert not counted.bad, "\n".join(counted.bad)


def every_damage(counted: Counted, file: File) -> None:
    """All cases of a file, but for those that repeat one.

    The commands read a file by the same function. So what the first one refuses is told to the others in one of
    `ONE_OF` cases only. A command that refuses no damage at all does not read the file, and then the cases say nothing.
    """
    found: dict[str, Counter[int]] = {name: Counter() for name in file.commands}
    first, *others = file.commands
    for each in counted.damages:
        status = counted.run(each, first)
        if status != 2 or found[first][2] % ONE_OF == 0:
            for name in others:
                found[name][counted.run(each, name)] += 1
        found[first][status] += 1
    if not file.remade:
        counted.bad += [f"{name} refuses no damage" for name, statuses in found.items() if not statuses[2]]


@pytest.mark.exhaustive
@pytest.mark.parametrize(("kind", "file"), [*KINDS, *KINDS_SLOW], ids=name_of)
def test_every_damage(
    forking: Cases,
    kind: str,
    file: File,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    tell_cases: TellCases,
) -> None:
    counted = Counted(forking, request.getfixturevalue(kind), file, tmp_path / "copy")
    every_damage(counted, file)
    tell_cases(file.path, counted.cases, counted.bad)
