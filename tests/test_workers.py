"""`nas search` on a small network: one study, whatever the workers, the hash seed, and what is killed meanwhile."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import pytest
from tiny import write_model, write_reviews

from nas.command.cli import main
from nas.searching.study import load_study

pytestmark = pytest.mark.slow
COMMAND = ["-c", "import sys; from nas.command.cli import main; sys.exit(main())"]
TIMEOUT_S = 600
Told = list[tuple[object, dict[str, float], str]]


@pytest.fixture(scope="module")
def barely(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose network has learned little, so that accuracies differ; not to be changed."""
    folder = tmp_path_factory.mktemp("barely")
    model, data = write_model(folder / "model"), write_reviews(folder / "reviews.csv", rows=600)
    flags = ["--steps", "12", "--learning-rate", "1e-2"]
    assert main(["finetune", str(model), "--data", str(data), "--out", str(folder / "run"), *flags]) == 0
    return folder / "run"


def start(run: Path, hash_seed: int, *flags: str, budget: int = 40) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, *COMMAND, *search(run, *flags, budget=budget)]
    return subprocess.Popen(command, text=True, env=environment, **pipes)


def search(run: Path, *flags: str, budget: int = 40) -> list[str]:
    return ["search", str(run), "--objectives", "accuracy,macs", "--budget", str(budget), "--json", *flags]


def finish(running: subprocess.Popen[str]) -> None:
    out, err = running.communicate(timeout=TIMEOUT_S)
    succeeded(running.returncode, out, err)


def succeeded(status: int, out: str, err: str) -> None:
    assert status == 0, err
    assert json.loads(out)["measured"] > 0, "standard output is one JSON object, whatever Ray has to say"


def journal(run: Path) -> Path:
    return run / "searches" / "default" / "study.journal"


def told(run: Path) -> Told:
    return [(m.candidate, dict(m.values), m.state) for m in load_study(journal(run)).measurements]


@pytest.fixture(scope="module")
def serial(barely: Path, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """What one process finds that nothing disturbs, with the lag of several workers."""
    run = Path(shutil.copytree(barely, tmp_path_factory.mktemp("serial") / "run"))
    succeeded(*forked.run([*COMMAND, *search(run, "--lag", "9")], timeout_s=TIMEOUT_S))
    found = told(run)
    assert len({values["accuracy"] for _, values, _ in found}) > 3, "accuracies must differ, or they prove nothing"
    return found


@pytest.mark.parametrize(
    ("hash_seed", "flags"),
    [
        pytest.param(1, ["--ray", "--lag", "9"], marks=pytest.mark.exhaustive),
        pytest.param(2, ["--workers", "2"], marks=pytest.mark.exhaustive),
        (3, ["--workers", "4", "--timeout-s", "300"]),
    ],
)
def test_the_same_study_with_any_number_of_workers(
    barely: Path, serial: Told, tmp_path: Path, hash_seed: int, flags: list[str]
) -> None:
    run = Path(shutil.copytree(barely, tmp_path / "run"))
    finish(start(run, hash_seed, *flags))
    assert told(run) == serial
    # Its lag is recorded, whatever the workers are now; another one is a mistake.
    finish(start(run, hash_seed, budget=44))
    assert told(run)[: len(serial)] == serial and len(told(run)) == 44
    refused = start(run, hash_seed, "--lag", "1", budget=48)
    assert "begun with another lag (9, here 1)" in refused.communicate(timeout=TIMEOUT_S)[1]
    assert refused.returncode == 2


def children(process: int) -> list[int]:
    """All processes below one, from /proc."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found = [process]
    for parent in found:
        found += [child for child, above in parents.items() if above == parent]
    return found[1:]


def measuring(process: int) -> list[int]:
    """The Ray workers of a search that hold its evaluation."""
    found = []
    for child in children(process):
        try:
            name = (Path("/proc") / str(child) / "cmdline").read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::_Worker"):
            found.append(child)
    return found


@pytest.mark.exhaustive
def test_a_killed_worker_and_a_killed_driver_change_nothing(barely: Path, serial: Told, tmp_path: Path) -> None:
    run = Path(shutil.copytree(barely, tmp_path / "run"))
    running = start(run, 4, "--workers", "2")

    def wait(lines: int) -> None:
        end = time.monotonic() + TIMEOUT_S
        while running.poll() is None and time.monotonic() < end:
            if journal(run).exists() and journal(run).read_bytes().count(b"\n") >= lines:
                return
            time.sleep(0.002)
        raise AssertionError(running.communicate()[1])

    wait(5)
    os.kill(measuring(running.pid)[0], signal.SIGKILL)
    wait(12)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=TIMEOUT_S)
    before = told(run)
    assert before == serial[: len(before)] and len(before) < len(serial)
    finish(start(run, 5))
    assert told(run) == serial
