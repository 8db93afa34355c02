"""Every mistake gets one sentence and its exit status, and leaves nothing half written."""

import fcntl
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Answer, Command
from tiny import write_model, write_reviews

from nas.runs.checked_search import request_record
from nas.searching.relative_latency import LatencySettings
from nas.searching.study import load_study
from nas.settings import SearchSettings

COMMAND = [sys.executable, "-c", "import sys; from nas.command.cli import main; sys.exit(main())"]


def refused(answer: Answer, sentence: str, status: int = 2) -> None:
    """The command ended with `status` and one line on standard error that holds `sentence`."""
    assert answer.status == status, answer.err
    errors = [line for line in answer.err.splitlines() if line.startswith("nas: error: ")]
    assert len(errors) == 1, answer.err
    assert sentence in errors[0]
    assert "Traceback" not in answer.err
    assert answer.out == ""


def missing(folder: Path) -> list[object]:
    return [folder / "model", "--data", folder / "none.csv"]


def empty(folder: Path) -> list[object]:
    (folder / "empty.csv").touch()
    return [folder / "model", "--data", folder / "empty.csv"]


def header_only(folder: Path) -> list[object]:
    (folder / "header.csv").write_text("text,label\n", encoding="utf-8")
    return [folder / "model", "--data", folder / "header.csv"]


def no_label(folder: Path) -> list[object]:
    (folder / "plain.csv").write_text("text,size\na good film,1\na bad film,2\n", encoding="utf-8")
    return [folder / "model", "--data", folder / "plain.csv"]


def wrong_label(folder: Path) -> list[object]:
    return [folder / "model", "--data", folder / "reviews.csv", "--label", "verdict"]


def one_class(folder: Path) -> list[object]:
    (folder / "one.csv").write_text("text,label\n" + "".join(f"film {i},1\n" for i in range(30)), encoding="utf-8")
    return [folder / "model", "--data", folder / "one.csv"]


def no_model(folder: Path) -> list[object]:
    return [folder / "nothing" / "here", "--data", folder / "reviews.csv"]


def no_weights(folder: Path) -> list[object]:
    (folder / "model" / "model.safetensors").unlink()
    return [folder / "model", "--data", folder / "reviews.csv"]


def pickle_only(folder: Path) -> list[object]:
    (folder / "model" / "model.safetensors").unlink()
    torch.save({}, folder / "model" / "pytorch_model.bin")
    return [folder / "model", "--data", folder / "reviews.csv"]


def not_elastic(folder: Path) -> list[object]:
    none = [word for name in ("depth", "heads", "ffn") for word in (f"--{name}", "none")]
    return [folder / "model", "--data", folder / "reviews.csv", *none]


def wrong_depth(folder: Path) -> list[object]:
    return [folder / "model", "--data", folder / "reviews.csv", "--depth", "9,10"]


def words_as_depth(folder: Path) -> list[object]:
    return [folder / "model", "--data", folder / "reviews.csv", "--depth", "few"]


def absent_kind(folder: Path) -> list[object]:
    write_model(folder / "model", layers=1)
    return [folder / "model", "--data", folder / "reviews.csv", "--depth", "0.5"]


def no_steps(folder: Path) -> list[object]:
    return [folder / "model", "--data", folder / "reviews.csv", "--steps", 0]


def other_files(folder: Path) -> list[object]:
    (folder / "run").mkdir()
    (folder / "run" / "thesis.txt").write_text("mine", encoding="utf-8")
    return [folder / "model", "--data", folder / "reviews.csv"]


def a_file(folder: Path) -> list[object]:
    (folder / "run").write_text("mine", encoding="utf-8")
    return [folder / "model", "--data", folder / "reviews.csv"]


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (missing, "none.csv"),
        (empty, "it is empty"),
        (header_only, "must hold rows"),
        (no_label, "no label column"),
        (wrong_label, "no column 'verdict'; its columns are text, label"),
        (one_class, "at least two classes"),
        (no_model, "there is no folder"),
        (no_weights, "must hold its weights as safetensors, it holds no weights"),
        (pickle_only, "pytorch_model.bin, which may run code"),
        (not_elastic, "must have"),
        (wrong_depth, "depth"),
        (words_as_depth, "--depth must be numbers above 0, separated by commas"),
        (absent_kind, "sizes of depth must be given for something that the model can narrow"),
        (no_steps, "steps must be at least 1"),
        (other_files, "holds other files and no run"),
        (a_file, "is a file"),
    ],
)
def test_finetune_refuses(
    nas_command: Command, tmp_path: Path, prepare: Callable[[Path], list[object]], sentence: str
) -> None:
    write_model(tmp_path / "model")
    write_reviews(tmp_path / "reviews.csv")
    args = prepare(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    refused(nas_command("finetune", *args, "--out", tmp_path / "run"), sentence)
    assert sorted(tmp_path.rglob("*")) == before, "nothing is left of a run that was refused"


def test_several_processes_are_refused(
    nas_command: Command, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    args = ["finetune", inputs / "model", "--data", inputs / "reviews.csv", "--out", tmp_path / "run"]
    refused(nas_command(*args), "must run in one process, a launcher started 2")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may spoil."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--objectives", "beauty"], "an objective must be one of accuracy, r2, latency_ms"),
        (["--objectives", ","], "at least one objective"),
        (["--objectives", "accuracy,accuracy"], "distinct"),
        (["--objectives", "no_such_module:function"], "cannot be imported"),
        (["--budget", 0], "--budget must be at least 1, got 0"),
        (["--budget", -3], "--budget must be at least 1, got -3"),
        (["--rows", 0], "--rows must be at least 1"),
        (["--tokens", 0], "--tokens must be at least 1"),
        (["--name", "../outside"], "a search's name is"),
        (["--max-macs", 5, "--objectives", "accuracy"], "--max-macs needs macs among --objectives"),
        (["--max-latency-ms", "nan"], "finite"),
        (["--workers", 0], "--workers must be at least 1, got 0"),
        (["--patience", 0], "--patience must be at least 1, got 0"),
        (["--lag", 0], "--lag must be at least 1, got 0"),
        (["--accuracy-threads", 0], "--accuracy-threads must be at least 1, got 0"),
        (["--timeout-s", 0], "--timeout-s must be above 0, got 0"),
        (["--storage", "studies.db"], "--storage must be the URL of a database"),
        (["--storage", "sqlite:////no/such/folder/studies.db"], "cannot be reached"),
        (["--warm-start", "none.csv"], "cannot read none.csv"),
        (["--warm-start", "nowhere"], "there is no study at nowhere"),
        (["--algorithm", "guess"], "--algorithm"),
        (["--seed", -1, "--objectives", "accuracy"], "seed must not be negative"),
        (["--name", "default", "--objectives", "accuracy,macs", "--seed", 3], "was begun with seed 0, now it is 3"),
        (["--name", "default", "--objectives", "macs"], "was begun with objectives 'accuracy,macs'"),
    ],
)
def test_search_refuses(nas_command: Command, run: Path, flags: list[object], sentence: str) -> None:
    default = [] if "--name" in flags else ["--name", "new"]
    before = sorted(run.parent.rglob("*"))
    refused(nas_command("search", run, *default, *flags), sentence)
    assert sorted(run.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [({"beauty": 1}, "has a column 'beauty'"), ({}, "must have a column 'depth'")],
)
def test_warm_starts_from_other_tables(
    nas_command: Command, run: Path, tmp_path: Path, columns: dict[str, int], sentence: str
) -> None:
    table = tmp_path / "table.csv"
    cells = {"accuracy": 0.5, **columns}
    table.write_text(",".join(cells) + "\n" + ",".join(map(str, cells.values())) + "\n", encoding="utf-8")
    flags = ["--name", "new", "--objectives", "accuracy,macs", "--warm-start", table]
    refused(nas_command("search", run, *flags), sentence)


def test_a_warm_start_of_another_space(nas_command: Command, run: Path, inputs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    sizes = ["--depth", "3,4", "--heads", "none", "--ffn", "none", "--steps", 2]
    data = ["--data", inputs / "reviews.csv", *sizes]
    assert nas_command("finetune", inputs / "model", *data, "--out", other).status == 0
    refused(nas_command("search", other, "--objectives", "accuracy,macs", "--warm-start", run), "is of another space")


def test_limits_that_nothing_meets(nas_command: Command, run: Path) -> None:
    flags = ["--name", "new", "--budget", 8]
    refused(nas_command("search", run, *flags, "--max-macs", 5), "no sub-network has macs <= 5; the smallest has", 3)
    assert not (run / "searches" / "new").exists()
    flags += ["--max-latency-ms", 1e-6]
    sentence = "none of 8 measured candidates meets latency_ms <= 1e-06; the nearest has accuracy 1 as measured and"
    refused(nas_command("search", run, *flags), sentence, 3)
    assert (run / "searches" / "new" / "study.journal").exists(), "what was measured is kept"


@pytest.mark.parametrize("name", ["search", "report", "export", "refine"])
def test_percentages_as_limits_are_refused_before_anything_is_measured(
    nas_command: Command, run: Path, name: str
) -> None:
    flags = {"search": ["--name", "new"], "report": [], "export": ["--out", run / "out"]}
    flags["refine"] = ["--out", run / "out", "--candidate", "chosen"]
    before = sorted(run.rglob("*"))
    sentence = "--min-accuracy must be a share from 0 to 1 (95 % is 0.95), got 95"
    refused(nas_command(name, run, *flags[name], "--min-accuracy", 95), sentence)
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("return float('nan')", "none of 8 sub-networks could be measured; the first failed: own_number:of is nan"),
        ("raise RuntimeError('no key')", "could be measured; the first failed: RuntimeError: no key"),
        ("return 3.0", "own_number:of is 3 for all of 8 sub-networks measured: there is nothing to choose"),
    ],
)
def test_objectives_that_tell_nothing(
    nas_command: Command, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, sentence: str
) -> None:
    (tmp_path / "own_number.py").write_text(f"def of(module):\n    {body}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_number", raising=False)
    flags = ["--name", "new", "--objectives", "own_number:of", "--budget"]
    refused(nas_command("search", run, *flags, 8), sentence)
    if "return 3" not in body:
        answer = nas_command("search", run, *flags[:-1], "--name", "again", "--budget", 60)
        refused(answer, "none of 20 sub-networks could be measured")
        mended = "def of(module):\n    return sum(p.numel() for p in module.parameters())\n"
        (tmp_path / "own_number.py").write_text(mended, encoding="utf-8")
        monkeypatch.delitem(sys.modules, "own_number")
        assert nas_command("search", run, *flags, 8).status == 0, "once the reason is mended it begins anew"


def test_a_search_that_breaks_off_keeps_what_it_measured(
    nas_command: Command, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        "from nas.errors import UserError",
        "left = [5]",
        "def of(module):",
        "    left[0] -= 1",
        "    if left[0] < 0:",
        "        raise UserError('the disk must take more')",
        "    return float(left[0])",
    ]
    (tmp_path / "own_breaking.py").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    flags = ["--name", "broken", "--objectives", "own_breaking:of", "--budget", 8]
    refused(nas_command("search", run, *flags), "the disk must take more")
    assert len(load_study(run / "searches" / "broken" / "study.journal").measurements) == 5


@pytest.mark.parametrize("flags", [["--workers", 0], ["--timeout-s", 0]])
def test_a_dry_run_refuses_what_the_search_would(nas_command: Command, run: Path, flags: list[object]) -> None:
    asked = ["--objectives", "macs", "--dry-run"]
    refused(nas_command("search", run, *asked, *flags), f"{flags[0]} must be")


def test_no_password_is_recorded_and_databases_are_told_apart() -> None:
    def recorded(**settings: str) -> dict[str, object]:
        return dict(request_record(SearchSettings(**settings), "linas", 0, {}, LatencySettings()))

    first, second = (recorded(storage=f"postgresql://me:secret@host/{name}") for name in ("a", "b"))
    assert first["storage"] != second["storage"]
    assert first == recorded(storage="postgresql://me:changed@host/a")
    for url in (
        "postgresql://me:secret@host/a",
        "mysql://me:sec/secret@1@host/a#b",
        "postgresql://h/a?password=secret",
    ):
        assert "secret" not in str(recorded(storage=url)) + str(recorded(warm_start=url)), url


def other_version(run: Path) -> None:
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps({**record, "version": 99}), encoding="utf-8")


def damaged(run: Path) -> None:
    (run / "run.json").write_text('{"version": 1, "asked": {', encoding="utf-8")


def unknown_field(run: Path) -> None:
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps({**record, "import": "os"}), encoding="utf-8")


def not_text(run: Path) -> None:
    (run / "run.json").write_bytes(b"\xff\xfe\x00")


def huge(run: Path) -> None:
    (run / "run.json").write_bytes(b" " * ((1 << 20) + 1))


def no_record(run: Path) -> None:
    (run / "run.json").unlink()


def unfinished(run: Path) -> None:
    shutil.rmtree(run / "supernet")


def no_rows(run: Path) -> None:
    (run / "data" / "validation.parquet").write_bytes(b"PAR1")


def cut_weights(run: Path) -> None:
    weights = run / "supernet" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


def link_outside(run: Path) -> None:
    shutil.move(run / "supernet", run.parent / "elsewhere")
    (run / "supernet").symlink_to(run.parent / "elsewhere")


def linked_journal(run: Path) -> None:
    journal = run / "searches" / "default" / "study.journal"
    shutil.move(journal, run.parent / "theirs")
    journal.symlink_to(run.parent / "theirs")


def torn_study(run: Path) -> None:
    (run / "searches" / "default" / "study.journal").write_text("not a journal\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (other_version, "is of version 99, this nas reads version 1"),
        (damaged, "is damaged"),
        (unknown_field, "is damaged (import: "),
        (not_text, "not UTF-8"),
        (huge, "must be at most 1048576 bytes"),
        (no_record, "is not a run folder"),
        (unfinished, "is not finished; repeat the `nas finetune` command"),
        (no_rows, "validation.parquet"),
        (cut_weights, "super-network of the run cannot be read"),
        (link_outside, "must hold no links"),
        (linked_journal, "must hold no links"),
        (torn_study, "damaged"),
    ],
)
def test_spoilt_runs_are_refused(nas_command: Command, run: Path, spoil: Callable[[Path], None], sentence: str) -> None:
    spoil(run)
    flags = ["--objectives", "accuracy,macs", "--budget", 13]
    refused(nas_command("search", run, *flags), sentence)


def test_other_settings_are_refused(nas_command: Command, run: Path, inputs: Path) -> None:
    flags = ["--data", inputs / "reviews.csv", "--out", run, "--learning-rate", "3e-3"]
    refused(nas_command("finetune", inputs / "model", *flags, "--steps", 41), "was begun with steps 40, now it is 41")


@pytest.mark.parametrize("command", ["report", "export"])
def test_what_comes_after_a_search(nas_command: Command, run: Path, command: str) -> None:
    out = ["--out", run.parent / "subnet"] if command == "export" else []
    refused(
        nas_command(command, run, *out, "--max-macs", 1),
        "none of 12 measured candidates meets macs <= 1; the nearest",
        3,
    )
    refused(
        nas_command(command, run, *out, "--max-latency-ms", 1),
        "a limit must be of what was measured, one of min_accuracy, max_macs",
    )
    refused(nas_command(command, run, *out, "--name", "none"), "no search named 'none' (searches: default)")
    refused(nas_command(command, run.parent / "nowhere", *out), "is not a run folder")
    assert not (run.parent / "subnet").exists()


def test_export_replaces_nothing_of_the_users(nas_command: Command, run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine", encoding="utf-8")
    refused(nas_command("export", run, "--out", tmp_path / "mine"), "is something else")
    assert (tmp_path / "mine" / "thesis.txt").read_text(encoding="utf-8") == "mine"


def test_two_commands_on_one_run(nas_command: Command, run: Path) -> None:
    with (run / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused(nas_command("export", run, "--out", run.parent / "subnet"), "another command is at work")
        answer = nas_command("report", run)
        assert answer.status == 0 and "this is of what it has kept so far" in answer.err
    answer = nas_command("report", run)
    assert answer.status == 0 and "kept so far" not in answer.err


def test_a_report_while_a_search_writes(nas_command: Command, run: Path) -> None:
    """A journal that is being written ends within a line, and the lock of its writer stands beside it."""
    journal = run / "searches" / "default" / "study.journal"
    before = json.loads(nas_command("report", run, "--json").out)
    with journal.open("ab") as file, (run / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(b'{"op_code": 4, "wor')
        file.flush()
        Path(f"{journal}.lock").symlink_to(journal)
        assert json.loads(nas_command("report", run, "--json").out) == before
    assert journal.read_bytes().endswith(b'{"op_code": 4, "wor'), "a report leaves the study as it is"


@pytest.mark.parametrize(("args", "sentence"), [(["sarch"], "there is no command 'sarch'"), (["search"], "RUN")])
def test_wrong_words(nas_command: Command, args: list[str], sentence: str) -> None:
    refused(nas_command(*args), sentence)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, 20_000])
def test_a_full_disk(nas_command: Command, inputs: Path, tmp_path: Path, limit: int) -> None:
    """A limit on the size of files stands for a disk that is full: the same call fails at the same place."""

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    run = tmp_path / "run"
    args = ["finetune", str(inputs / "model"), "--data", str(inputs / "reviews.csv"), "--out", str(run), "--steps", "4"]
    environment = {**os.environ, "TMPDIR": "/dev/shm"} if Path("/dev/shm").is_dir() else None
    done = subprocess.run(
        [*COMMAND, *args], preexec_fn=fill, capture_output=True, text=True, timeout=300, env=environment
    )
    refused(Answer(done.returncode, done.stdout, done.stderr), "")
    assert nas_command(*args).status == 0, "the same command goes on when there is room again"


@pytest.mark.slow
def test_a_folder_that_cannot_be_written(nas_command: Command, inputs: Path) -> None:
    args = ["finetune", inputs / "model", "--data", inputs / "reviews.csv", "--out", "/proc/run"]
    refused(nas_command(*args), "/proc/run")
