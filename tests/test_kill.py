"""A command that is killed in the middle and repeated ends as one that never was: bit-identical weights and front."""

import json
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from forked import Forked

from nas.command.cli import main
from nas.searching.study import load_study

pytestmark = pytest.mark.slow
COMMAND = ["-c", "import sys; from nas.command.cli import main; sys.exit(main())"]
TIMEOUT_S = 300


def finish(args: Sequence[str]) -> None:
    """In this process, which saves the imports: the bits do not depend on what ran before."""
    assert main(list(args)) == 0


def stop(args: Sequence[str], ready: Callable[[], bool], with_signal: signal.Signals) -> tuple[int, str]:
    """Start a command and signal it as soon as `ready`; exit status and standard error."""
    # Of lower priority, so that on a busy machine it does not run away from who watches it.
    running = Forked([*COMMAND, *args], nice=5)
    end = time.monotonic() + TIMEOUT_S
    while not ready() and running.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    assert running.poll() is None, running.finish(TIMEOUT_S).err
    running.send_signal(with_signal)
    ended = running.finish(TIMEOUT_S)
    return ended.status, ended.err


def steps_done(folder: Path) -> int:
    try:
        return len(json.loads((folder / "checkpoint" / "state.json").read_text(encoding="utf-8"))["history"])
    except (OSError, ValueError):
        return 0


def finetune(inputs: Path, run: Path, *flags: str) -> list[str]:
    model, data = str(inputs / "model"), str(inputs / "reviews.csv")
    often = ["--steps", "60", "--checkpoint-every-s", "0.05"]
    return ["finetune", model, "--data", data, "--out", str(run), *often, *flags]


@pytest.fixture(scope="module")
def whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a fine-tuning that nothing disturbed."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(finetune(inputs, run))
    return run


def test_finetune_killed_and_interrupted(inputs: Path, whole: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"

    # In the middle, twice, the second time politely.
    assert stop(finetune(inputs, cut), lambda: steps_done(cut) >= 10, signal.SIGKILL)[0] == -signal.SIGKILL
    assert 10 <= steps_done(cut) < 60
    assert not (cut / "supernet").exists()
    before = steps_done(cut)
    status, err = stop(finetune(inputs, cut), lambda: steps_done(cut) >= before + 10, signal.SIGINT)
    assert (status, "the same command goes on where it stopped" in err) == (130, True), err
    assert "Traceback" not in err
    finish(finetune(inputs, cut))
    for name in ("model.safetensors", "space.json", "config.json"):
        assert (cut / "supernet" / name).read_bytes() == (whole / "supernet" / name).read_bytes(), name


def test_finetune_killed_at_its_beginning(inputs: Path, whole: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    stop(finetune(inputs, cut), (cut / "data").exists, signal.SIGKILL)
    finish(finetune(inputs, cut))
    weights = Path("supernet") / "model.safetensors"
    assert (cut / weights).read_bytes() == (whole / weights).read_bytes()


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(
            ("--distillation", "hybrid", "--sampling", "sandwich", "--drop-order", "importance"),
            marks=pytest.mark.exhaustive,
        ),
        ("--distillation", "high-cost", "--sampling", "pareto", "--patience", "100", "--accumulate", "2"),
    ],
)
def test_finetune_with_a_teacher_killed(inputs: Path, tmp_path: Path, flags: tuple[str, ...]) -> None:
    """Killed while the teacher is trained, and again while the super-network is."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(finetune(inputs, whole, *flags))
    stop(finetune(inputs, cut, *flags), lambda: steps_done(cut / "teacher") >= 10, signal.SIGKILL)
    assert not (cut / "teacher" / "weights").exists()
    stop(finetune(inputs, cut, *flags), lambda: steps_done(cut) >= 10, signal.SIGKILL)
    assert not (cut / "supernet").exists()
    finish(finetune(inputs, cut, *flags))
    for weights in ("teacher/weights/model.safetensors", "supernet/model.safetensors"):
        assert (cut / weights).read_bytes() == (whole / weights).read_bytes(), weights
    probes = [json.loads((run / "supernet" / "finetuned.json").read_text())["probes"] for run in (whole, cut)]
    assert probes[0] == probes[1] != []


def test_further_fine_tuning_killed(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))

    def further(name: str) -> list[str]:
        flags = ["--candidate", "smallest", "--steps", "80", "--checkpoint-every-s", "0.05"]
        return ["refine", str(run), "--out", str(tmp_path / name), *flags]

    def done() -> int:
        return max([steps_done(place) for place in run.glob("further/*")], default=0)

    stop(further("cut"), lambda: done() >= 10, signal.SIGKILL)
    assert 10 <= done() < 80
    assert not (tmp_path / "cut").exists()
    finish(further("cut"))
    finish(further("whole"))
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_search_killed(finished: Path, tmp_path: Path) -> None:
    def search(run: Path) -> list[str]:
        return ["search", str(run), "--name", "killed", "--objectives", "accuracy,macs", "--budget", "40"]

    def measured(run: Path) -> int:
        journal = run / "searches" / "killed" / "study.journal"
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    whole, cut = (Path(shutil.copytree(finished, tmp_path / name)) for name in ("whole", "cut"))
    finish(search(whole))
    stop(search(cut), lambda: measured(cut) >= 10, signal.SIGKILL)
    assert measured(cut) < measured(whole)
    stop(search(cut), lambda: measured(cut) >= 20, signal.SIGKILL)
    assert measured(cut) < measured(whole)
    finish(search(cut))
    place = Path("searches") / "killed"
    assert (cut / place / "front.csv").read_bytes() == (whole / place / "front.csv").read_bytes()
    one, other = (load_study(run / place / "study.journal").measurements for run in (whole, cut))
    assert [(m.candidate, dict(m.values)) for m in one] == [(m.candidate, dict(m.values)) for m in other]
