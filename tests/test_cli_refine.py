"""`nas refine`: one sub-network of a finished run is trained further, on its own, and exported."""

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import Command
from safetensors.torch import load_file
from test_bad_input import refused

from search_spaces import Space


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def small(run: Path) -> dict[str, int]:
    """A candidate by the choices of the run's own space: the smallest option of each."""
    space = Space.from_json((run / "supernet" / "space.json").read_text(encoding="utf-8"))
    return {name: option for name, option in space.smallest().items() if isinstance(option, int)}


@pytest.mark.parametrize("spec", ["chosen", pytest.param("smallest", marks=pytest.mark.exhaustive)])
def test_further_fine_tuning_is_exported(nas_command: Command, run: Path, tmp_path: Path, spec: str) -> None:
    out = tmp_path / "subnet"
    args = ["refine", run, "--candidate", spec, "--out", out, "--steps", 8, "--learning-rate", "1e-3", "--json"]
    answer = nas_command(*args)
    assert answer.status == 0, answer.err
    assert re.search(r"Validation accuracy: \S+ % before, \S+ % after", answer.err)
    result = json.loads(answer.out)
    assert result["refined"]["steps"] == 8
    assert 0 <= result["chosen"]["test_accuracy"] <= 1
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "it was fine-tuned further for 8 steps" in card
    right = round(result["chosen"]["test_accuracy"] * result["test_rows"])
    assert re.search(rf"^\| test_accuracy .*\({right:,} of {result['test_rows']:,}\) \|$", card, re.MULTILINE)
    assert {"config.json", "model.safetensors", "model.onnx", "README.md", "tokenizer.json"} <= {
        path.name for path in out.iterdir()
    }
    assert not list(run.glob("further/*/checkpoint"))

    (kept,) = run.glob("further/*/weights/model.safetensors")
    before, stamp = load_file(out / "model.safetensors"), kept.stat().st_mtime_ns
    again = json.loads(nas_command(*args).out)
    assert again["refined"] == result["refined"], "what is trained is not trained again"
    assert kept.stat().st_mtime_ns == stamp
    after = load_file(out / "model.safetensors")
    assert all(before[name].equal(after[name]) for name in before)


@pytest.mark.slow
def test_a_candidate_from_a_file(nas_command: Command, run: Path, tmp_path: Path) -> None:
    wanted = small(run)
    (tmp_path / "small.json").write_text(json.dumps(wanted), encoding="utf-8")
    out = tmp_path / "subnet"
    answer = nas_command("refine", run, "--candidate", tmp_path / "small.json", "--out", out, "--steps", 2, "--json")
    assert answer.status == 0, answer.err
    chosen = json.loads(answer.out)["candidate"]
    assert {name: option for name, option in chosen.items() if option is not None} == {
        name: option for name, option in wanted.items() if chosen[name] is not None
    }


@pytest.mark.slow
def test_fine_tuning_changes_the_weights(nas_command: Command, run: Path, tmp_path: Path) -> None:
    """Against the export of the same sub-network as it is: a further step must have moved its weights."""
    plain, further = tmp_path / "plain", tmp_path / "further"
    assert nas_command("export", run, "--out", plain).status == 0
    assert nas_command("refine", run, "--candidate", "chosen", "--out", further, "--steps", 2).status == 0
    one, other = load_file(plain / "model.safetensors"), load_file(further / "model.safetensors")
    assert {name: value.shape for name, value in one.items()} == {name: value.shape for name, value in other.items()}
    assert any(not one[name].equal(other[name]) for name in one)
    assert "fine-tuned further" not in (plain / "README.md").read_text(encoding="utf-8")


def test_dry_run_writes_nothing(nas_command: Command, finished: Path, tmp_path: Path) -> None:
    before = sorted(finished.rglob("*"))
    out = tmp_path / "subnet"
    answer = nas_command("refine", finished, "--candidate", "largest", "--out", out, "--dry-run", "--json")
    assert json.loads(answer.out)["steps"] == 4 * -(-168 // 32)
    assert sorted(finished.rglob("*")) == before
    assert not out.exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "must be chosen, a number in the front, largest, smallest or a JSON file"),
        ("{", "is damaged"),
        ("[" * 100_000, "is damaged"),
        ("[1]", "must hold one object"),
        ('{"colour": 1}', "colour is no choice of this space"),
        ('{"depth": 77}', "depth must be one of"),
        ("{}", "depth must be given"),
    ],
)
def test_wrong_candidates(nas_command: Command, run: Path, tmp_path: Path, text: str | None, sentence: str) -> None:
    file = tmp_path / "candidate.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    refused(nas_command("refine", run, "--candidate", file, "--out", tmp_path / "subnet"), sentence)
    assert not (run / "further").exists()
    assert not (tmp_path / "subnet").exists()


@pytest.mark.parametrize(
    ("flags", "sentence", "status"),
    [
        (["--candidate", "chosen", "--max-macs", 1], "none of 12 measured candidates meets macs <= 1", 3),
        (["--candidate", "chosen", "--name", "none"], "no search named 'none'", 2),
        (["--candidate", "largest", "--max-macs", 1], "give them without --candidate, or with chosen", 2),
        (["--candidate", "largest", "--data", "x.csv"], "--data", 2),
        (["--candidate", "largest", "--depth", "1"], "--depth", 2),
        (["--candidate", "largest", "--steps", 0], "steps must be at least 1", 2),
        (["--candidate", "largest", "--trackers", "nowhere"], "a tracker must be one of", 2),
        (["--max-macs", 1], "--candidate", 2),
    ],
)
def test_flags_that_do_not_go_together(
    nas_command: Command, run: Path, tmp_path: Path, flags: list[object], sentence: str, status: int
) -> None:
    for dry in ([], ["--dry-run"]):
        refused(nas_command("refine", run, "--out", tmp_path / "subnet", *flags, *dry), sentence, status)
    assert not (tmp_path / "subnet").exists()
    assert not (run / "further").exists()


def test_its_old_spelling_is_answered_with_the_command(nas_command: Command, run: Path, tmp_path: Path) -> None:
    for flags in (["--candidate", "largest"], ["--candidate=largest"]):
        answer = nas_command("finetune", run, "--out", tmp_path / "subnet", *flags)
        refused(answer, "nas finetune --candidate is a command of its own now: nas refine RUN --candidate SPEC")


def test_other_settings_are_refused(nas_command: Command, run: Path, tmp_path: Path) -> None:
    args = ["refine", run, "--candidate", "smallest", "--out", tmp_path / "subnet"]
    assert nas_command(*args, "--steps", 1).status == 0
    refused(nas_command(*args, "--steps", 2), "was begun with steps 1, now it is 2")
    other = ["refine", run, "--candidate", "largest", "--out", tmp_path / "subnet", "--steps", 1]
    refused(nas_command(*other), "was begun with candidate")


def test_only_a_finished_run(nas_command: Command, inputs: Path, run: Path, tmp_path: Path) -> None:
    args = ["--candidate", "largest", "--out", tmp_path / "subnet"]
    refused(nas_command("refine", inputs / "model", *args), "is not a run folder")
    shutil.rmtree(run / "supernet")
    refused(nas_command("refine", run, *args), "is not finished")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("mine", encoding="utf-8")
    refused(nas_command("refine", run, "--candidate", "largest", "--out", tmp_path / "thesis"), "is something else")
