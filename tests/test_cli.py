"""The command: flags, configuration files, exit statuses, and standard output that holds the result alone."""

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest
from conftest import Command

import nas.runs.search
from nas.console import Bar

COMMANDS = (
    "finetune",
    "profile",
    "search",
    "report",
    "export",
    "refine",
    "profile-kit",
    "profile-result",
    "demo",
    "doctor",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(nas_command: Command, command: str) -> None:
    answer = nas_command(command, "--help")
    assert answer.status == 0
    assert f"nas {command}" in answer.out
    assert all(flag in answer.out for flag in ("--config", "--seed", "--device", "--json", "--debug"))
    assert ("--dry-run" in answer.out) == (command in ("finetune", "refine", "profile", "search", "demo"))


def test_help_and_version(nas_command: Command) -> None:
    answer = nas_command("--help")
    assert answer.status == 0
    assert all(command in answer.out for command in COMMANDS)
    assert nas_command("--version").out.startswith("supersieve ")
    assert nas_command().status == 2


def test_the_main_job(nas_command: Command, inputs: Path, tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "subnet"
    data = ("--data", inputs / "reviews.csv", "--out", run, "--steps", 12)
    finetuned = json.loads(nas_command("finetune", inputs / "model", *data, "--json").out)
    assert finetuned["steps"] == 12
    assert finetuned["rows"] == {"train": 168, "validation": 36, "test": 36}
    before = (run / "supernet" / "model.safetensors").stat().st_mtime_ns
    assert json.loads(nas_command("finetune", inputs / "model", *data, "--json").out) == finetuned
    assert (run / "supernet" / "model.safetensors").stat().st_mtime_ns == before, "a finished stage is recognised"
    assert not (run / "checkpoint").exists()

    found = json.loads(nas_command("search", run, "--budget", 10, "--tokens", 16, "--json").out)
    assert found["measured"] + found["failed"] == 10
    assert set(found["full"]) == {"accuracy", "latency_ms", "measured_accuracy"}
    assert json.loads(nas_command("search", run, "--budget", 10, "--tokens", 16, "--json").out) == found
    more = json.loads(nas_command("search", run, "--budget", 12, "--tokens", 16, "--json").out)
    assert more["measured"] == 12, "a larger budget goes on with the same search"

    limit = found["full"]["latency_ms"]
    report = json.loads(nas_command("report", run, "--max-latency-ms", limit, "--json").out)
    assert Path(report["picture"]).read_bytes().startswith(b"\x89PNG")
    with Path(report["table"]).open(encoding="utf-8", newline="") as file:
        roles = [row["role"] for row in csv.DictReader(file)]
    assert any("full" in role for role in roles)
    assert any("chosen" in role for role in roles)

    exported = json.loads(nas_command("export", run, "--out", out, "--max_latency_ms", limit, "--json").out)
    assert exported["export"] == str(out)
    assert exported["chosen"]["macs"] <= exported["full"]["macs"]
    assert exported["chosen"]["predicted_latency_ms"] is None
    low, high = exported["accuracy_difference_interval"]
    assert low <= exported["accuracy_difference_points"] <= high
    names = {path.name for path in out.iterdir()}
    assert {"config.json", "model.safetensors", "model.onnx", "README.md", "tokenizer.json"} <= names


def test_tables_for_a_person(nas_command: Command, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    answer = nas_command("export", tmp_path / "run", "--out", tmp_path / "subnet")
    assert answer.status == 0
    assert "test accuracy" in answer.out
    assert "standard error" in answer.out
    assert "nas: " not in answer.err


def test_dry_runs_write_nothing(nas_command: Command, inputs: Path, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    answer = nas_command(
        "finetune", inputs / "model", "--data", inputs / "reviews.csv", "--out", run, "--dry-run", "--json"
    )
    assert json.loads(answer.out)["seconds"] > 0
    assert not run.exists()
    before = sorted(finished.rglob("*"))
    answer = nas_command("search", finished, "--name", "other", "--objectives", "accuracy", "--dry-run", "--json")
    assert json.loads(answer.out)["peak_memory_mib"] > 0
    assert sorted(finished.rglob("*")) == before
    assert nas_command("demo", "--out", tmp_path / "demo", "--dry-run").status == 0
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("flags.json", '{"max-latency-ms": 1e-9, "name": "none"}'),
        ("flags.toml", 'max_latency_ms = 1e-9\nname = "none"'),
    ],
)
def test_config_file_and_flags_over_it(
    nas_command: Command, finished: Path, tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    answer = nas_command("report", finished, "--config", tmp_path / name)
    assert (answer.status, "no search named 'none'" in answer.err) == (2, True)
    answer = nas_command("report", finished, "--config", tmp_path / name, "--name", "default")
    assert (answer.status, "max_latency_ms" in answer.err) == (2, True)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.json", '{"bugdet": 3}', "'bugdet' is no flag of this command (did you mean budget?)"),
        ("a.json", '{"budget": "many"}', "--budget takes a whole number without a unit, got 'many'"),
        ("a.json", '{"config": "b.json"}', "'config' is no flag"),
        ("a.json", "[1]", "must hold one object"),
        ("a.json", "{", "is damaged"),
        ("a.json", "[" * 10_000, "is damaged: it is nested too deeply"),
        ("a.json", " " * 20_000, "is damaged: it has 20000 bytes, more than 16384"),
        ("a.toml", "[1]\n[1]", "is damaged"),
        ("a.toml", "budget = " + "[" * 10_000, "is damaged: it is nested too deeply"),
        ("a.toml", "a." * 5_000 + "a = 1", "is damaged: it is nested too deeply"),
        ("a.toml", "#" * 20_000, "is damaged: it has 20000 bytes, more than 16384"),
        ("a.toml", "a\x00 = 1", "is damaged"),
        ("a.toml", "max-latency-ms = nan", "max-latency-ms must be a number of usual size, got nan"),
        ("a.toml", "max-latency-ms = -inf", "max-latency-ms must be a number of usual size, got -inf"),
        ("a.toml", f"budget = {2**64}", "budget must be a number of usual size"),
        ("a.toml", "a = {b = [1e300]}", "a.b.0 must be a number of usual size, got 1e+300"),
        ("a.toml", '"\\u001b[31mbudget\\u202e" = 3', "'budget\\u202e' is no flag of this command"),
        ("a.toml", '"\\u001b[31mbudget\\u202e" = nan', "is damaged: budget\\u202e must be a number of usual size"),
        ("a.toml", "budget = 1979-05-27", "budget cannot be 1979-05-27"),
        ("a.yaml", "", "must name a .json or .toml file"),
    ],
)
def test_wrong_config_files(nas_command: Command, tmp_path: Path, name: str, text: str, sentence: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    answer = nas_command("search", "run", "--config", tmp_path / name)
    assert answer.status == 2
    assert sentence in answer.err
    assert answer.err.count("\n") == 1 and "\x1b" not in answer.err and "\u202e" not in answer.err


def test_standard_output_is_ours_alone(
    nas_command: Command, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import os\ndef size(module):\n    os.write(1, b'noise')\n    print('noise')\n"
        "    return float(sum(p.numel() for p in module.parameters()))\n"
    )
    (tmp_path / "noisy_objective.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    shutil.copytree(finished, tmp_path / "run")
    answer = nas_command(
        "search", tmp_path / "run", "--name", "noisy", "--objectives", "noisy_objective:size", "--budget", 3, "--json"
    )
    assert answer.status == 0
    assert json.loads(answer.out)["measured"] == 3
    assert "noise" in answer.err


def test_a_limit_alone_is_a_whole_specification(nas_command: Command, finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    flags = ("search", run, "--name", "limited", "--budget", 8, "--json")
    found = json.loads(nas_command(*flags, "--max-macs", 2e6).out)
    assert set(found["full"]) == {"accuracy", "macs", "measured_accuracy"}
    assert all(row["macs"] <= 2e6 for row in found["front"])
    again = nas_command(*flags, "--max-macs", 2e6, "--objectives", "accuracy,macs")
    assert json.loads(again.out) == found, "said in full it is the same search"


def test_a_database_and_a_warm_start(nas_command: Command, finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    url = f"sqlite:///{tmp_path}/studies.db"
    flags = ("--objectives", "accuracy,macs", "--budget", 5, "--json")
    stored = ("search", run, "--name", "stored", "--storage", url, *flags)
    found = json.loads(nas_command(*stored).out)
    assert found["measured"] == 5 and json.loads(nas_command(*stored).out) == found
    assert json.loads(nas_command("report", run, "--name", "stored", "--json").out)["measured"] == 5
    alone = shutil.copytree(finished, tmp_path / "alone")
    assert json.loads(nas_command("search", alone, "--name", "c", "--warm-start", alone, *flags).out)["known"] >= 1
    assert "was begun with storage 'sqlite-" in nas_command("search", run, "--name", "stored", *flags).err
    for name, source in (("a", run / "searches" / "stored"), ("b", run / "searches" / "default" / "front.csv")):
        warm = json.loads(nas_command("search", run, "--name", name, "--warm-start", source, *flags).out)
        assert warm["measured"] == 5 and warm["known"] >= 1


def test_everything_is_measured_where_the_budget_allows(nas_command: Command, inputs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    sizes = ("--depth", "3,4", "--heads", "none", "--ffn", "none", "--steps", 2)
    data = ("--data", inputs / "reviews.csv", "--out", run)
    assert nas_command("finetune", inputs / "model", *data, *sizes).status == 0
    answer = nas_command("search", run, "--objectives", "macs", "--budget", 50, "--json")
    assert json.loads(answer.out)["measured"] == 2 and json.loads(answer.out)["every_sub_network"]
    assert "There are 2 sub-networks, and all of them were measured, --budget 50 is past that" in answer.err


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (KeyboardInterrupt(), 130, "the same command goes on"),
        (OSError(28, "No space left on device", "run/x"), 2, "No space left on device: run/x"),
        (OSError(30, "Read-only file system"), 2, "Read-only file system"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 2, "No space left on device"),
        (RuntimeError("surprise\nin two lines"), 1, "the work failed: RuntimeError: surprise in two lines"),
    ],
)
def test_exit_statuses(
    nas_command: Command, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, sentence: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(nas.runs.search, "search_run", fail)
    answer = nas_command("search", "run")
    assert answer.status == status
    assert answer.out == ""
    assert answer.err.count("\n") == 1
    assert sentence in answer.err
    assert "Traceback" in nas_command("search", "run", "--debug").err


def test_doctor(nas_command: Command) -> None:
    found = json.loads(nas_command("doctor", "--json").out)
    assert not [package for package in found["packages"] if not package["usable"]] and found["healthy"]
    assert {"torch", "optuna", "tyro"} <= {package["name"] for package in found["packages"]}
    runtimes = {runtime["name"]: runtime for runtime in found["runtimes"]}
    assert "float32" in runtimes["pytorch"]["precisions"] and "int8" in runtimes["pytorch"]["notes"]
    assert set(runtimes) == {"pytorch", "onnxruntime", "openvino"}
    shown = nas_command("doctor").out
    assert "torch" in shown and "openvino" in shown


def test_a_plain_line_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("Working", 3) as bar:
        bar.update(3, "loss 0.5")
    assert capsys.readouterr().err.startswith("Working: 3/3, loss 0.5")


def test_a_function_of_ones_own_in_the_current_folder_and_what_it_does_wrong(
    nas_command: Command, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an installed command has it: the current folder is no place of modules by itself."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    code = "def size(net): return -sum(p.numel() for p in net.parameters())\ndef same(net): return 1.0\n"
    (tmp_path / "own_objectives.py").write_text(code + "def bad(net): raise RuntimeError('a bug')\n", encoding="utf-8")
    (tmp_path / "own_broken.py").write_text("def (", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [place for place in sys.path if place not in ("", str(tmp_path))])
    flags = ("search", run, "--budget", 30, "--json")
    found = nas_command(*flags, "--name", "own", "--objectives", "accuracy,own_objectives:size")
    assert found.status == 0 and "hypervolume -" not in found.err
    for name, message in (("own_broken:f", "SyntaxError"), ("os:sep", "must be a function")):
        assert (
            answer := nas_command(*flags, "--name", "wrong", "--objectives", name)
        ).status == 2 and message in answer.err
    answer = nas_command(*flags, "--name", "same", "--objectives", "own_objectives:same")
    assert answer.status == 2 and "for all of 20 sub-networks measured" in answer.err
    failing = (*flags, "--name", "bad", "--objectives", "own_objectives:bad", "--storage", f"sqlite:///{tmp_path}/s.db")
    assert "none of 20 sub-networks could be measured" in nas_command(*failing).err
    mended = code.replace("def size", "def bad")
    (tmp_path / "own_objectives.py").write_text(mended, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "own_objectives")
    found = json.loads(nas_command(*failing).out)
    assert found["failed"] == 20 and found["measured"] == 10
