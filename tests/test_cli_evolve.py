"""`nas evolve` on small pictures and tiny networks: the whole command, its page and its export, and wrong input."""

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Command
from test_bad_input import refused
from test_kill import finish
from toy_pyramid import write_inputs

from nas.evolving.domain import LayerDomain
from nas.searching.study import load_study
from search_spaces.graphs import LayerGraph

FEW = [
    "--quality-steps",
    "8",
    "--least-accuracy",
    "0.2",
    "--steps",
    "12",
    "--longer-steps",
    "16",
    "--reranked",
    "2",
    "--population",
    "10",
]
NETWORKS = ["--networks", "toy_layers:narrow,toy_layers:wide", "--series", "sample"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pictures")
    write_inputs(made)
    return made


def command(folder: Path, run: Path, *flags: object) -> list[str]:
    data = str(folder / "pictures.parquet")
    return ["evolve", "--data", data, "--out", str(run), *NETWORKS, *FEW, "--budget", "60", *map(str, flags)]


@pytest.fixture(scope="module")
def done(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("evolved") / "run"
    finish(command(folder, run))
    return run


def test_the_whole_way(nas_command: Command, folder: Path, done: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(done, run)
    # A larger budget goes on with the same layers.
    answer = nas_command(*command(folder, run, "--budget", 66, "--json"))
    assert answer.status == 0, answer.err
    found = json.loads(answer.out)
    assert found["tried"] == 66 and found["accepted"] + sum(found["rejected"].values()) == 66
    assert found["layers"], "the evolution must accept some layers for this test to say anything"
    answer = nas_command("report", run, "--json")
    assert answer.status == 0, answer.err
    page = Path(json.loads(answer.out)["report"]).read_text(encoding="utf-8")
    assert "Evolved layers" in page and "As graphs" in page
    answer = nas_command("export", run, "--out", tmp_path / "layer", "--json")
    assert answer.status == 0, answer.err
    written = json.loads((tmp_path / "layer" / "layer.json").read_text(encoding="utf-8"))
    graph = LayerGraph.from_json(json.dumps(written["layer"]))
    assert graph.formula() == written["formula"] == found["layers"][0]["formula"]


def test_the_time_is_estimated_and_nothing_written(nas_command: Command, folder: Path, tmp_path: Path) -> None:
    answer = nas_command(*command(folder, tmp_path / "run", "--dry-run", "--json"))
    assert answer.status == 0, answer.err
    assert json.loads(answer.out)["seconds_at_most"] > 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--series", "rows"], "series"),
        (["--population", "1"], "population must be at least 2, got 1"),
        (["--least-accuracy", "2"], "least_accuracy must be in 0..1"),
        (["--networks", "nowhere:none"], "nowhere"),
        (["--budget", "0"], "budget must be at least 1"),
        (["--workers", "0"], "workers must be at least 1"),
        (["--stop-below", "1"], "stop_below must be at least 0 and below 1"),
    ],
)
def test_wrong_flags(nas_command: Command, folder: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    refused(nas_command(*command(folder, tmp_path / "run", *flags)), message)


def test_the_bound_is_measured_where_none_is_given(nas_command: Command, folder: Path, tmp_path: Path) -> None:
    args = ["evolve", "--data", folder / "pictures.parquet", "--networks", "toy_layers:wide", "--series", "sample"]
    more = ["--population", 4, "--budget", 4, "--steps", 40, "--reranked", 1, "--longer-steps", 1]
    answer = nas_command(*args, "--out", tmp_path / "run", *more, "--quality-steps", 40, "--json")
    assert answer.status == 0, answer.err
    bound = json.loads((tmp_path / "run" / "evolution" / "bound.json").read_text())["least_accuracy"]
    assert 1 / 3 < bound < 1
    few = nas_command(*args, "--out", tmp_path / "few", *more, "--quality-steps", 1)
    refused(few, "1 steps must suffice for batch norms and ReLU to learn a little in each network")


def test_the_first_step_judges_where_known_layers_pass_it(
    nas_command: Command, folder: Path, done: Path, tmp_path: Path
) -> None:
    assert json.loads((done / "evolution" / "first-step.json").read_text())["judged"]
    run = tmp_path / "run"
    loud = ["--networks", "toy_layers:loud", "--least-accuracy", 0, "--reranked", 1]
    answer = nas_command(*command(folder, run, *loud, "--budget", 12))
    assert answer.status == 0 and "which batch norms and ReLU fail: the first loss is" in answer.err, answer.err
    assert not json.loads((run / "evolution" / "first-step.json").read_text())["judged"]
    # It is decided once.
    again = nas_command(*command(folder, run, *loud, "--budget", 14))
    assert again.status == 0 and "first step" not in again.err, again.err


def test_networks_that_read_grey(nas_command: Command, folder: Path, tmp_path: Path) -> None:
    few = ["--networks", "toy_layers:grey", "--reranked", 1, "--least-accuracy", 0, "--steps", 1, "--quality-steps", 1]
    for budget in (4, 6):
        answer = nas_command(*command(folder, tmp_path / "run", *few, "--budget", budget, "--json"))
        assert answer.status == 0, answer.err
        assert json.loads(answer.out)["tried"] == budget


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["wide", "grey"], "must read the same images, 3 channels or 1 of grey: toy_layers:wide reads 3, "),
        (["two_channels"], "the network must take x (2, 3, 16, 16), but it raised RuntimeError"),
        (["of_four_classes"], "must give 3 outputs a row for this data, it gives the shape (2, 4)"),
    ],
)
def test_networks_that_read_other_images(
    nas_command: Command, folder: Path, tmp_path: Path, names: list[str], message: str
) -> None:
    networks = ",".join(f"toy_layers:{name}" for name in names)
    refused(nas_command(*command(folder, tmp_path / "run", "--networks", networks)), message)
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_network_without_convolutions_is_refused(nas_command: Command, folder: Path, tmp_path: Path) -> None:
    answer = nas_command(*command(folder, tmp_path / "run", "--networks", "toy_layers:flat"))
    refused(answer, "must have convolutions")
    assert not (tmp_path / "run" / "run.json").exists()


def test_another_early_stop_is_another_run(nas_command: Command, folder: Path, done: Path, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path / "run")
    answer = nas_command(*command(folder, tmp_path / "run", "--stop-below", 0.3))
    refused(answer, "was begun with stop-below 0.1, now it is 0.3")


def test_texts_are_refused(nas_command: Command, inputs: Path, tmp_path: Path) -> None:
    answer = nas_command("evolve", "--data", inputs / "reviews.csv", "--out", tmp_path / "run")
    refused(answer, "an evolution of layers needs images with classes, the data holds text rows")


def test_what_other_commands_say_of_it(nas_command: Command, done: Path, tmp_path: Path) -> None:
    refused(nas_command("search", done, "--budget", 2), "must hold a run of `nas finetune`, it is one of `nas evolve`")
    refused(nas_command("report", done, "--max-macs", 5), "an evolution of layers has no limits")
    refused(nas_command("export", done, "--out", tmp_path / "a", "--candidate", 99), "--candidate must be the number")
    (tmp_path / "full").mkdir()
    for name, text in (("mine.txt", "mine"), ("layer.json", '{"layer": "of paint"}')):
        (tmp_path / "full" / name).write_text(text)
        refused(nas_command("export", done, "--out", tmp_path / "full"), "full is something else; name another folder")
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
    refused(nas_command("report", done, "--name", "other"), "an evolution of layers has no --name")
    refused(nas_command("export", done, "--out", tmp_path / "a", "--runtime", "openvino"), "has no --name, --runtime")
    for candidate, replaces in (("01", False), ("1", True)):
        answer = nas_command("export", done, "--out", tmp_path / "a", "--candidate", candidate)
        assert answer.status == 0, answer.err
        assert (f"Exporting to {tmp_path / 'a'}, in place of the export of " in answer.err) == replaces


def test_an_evolution_without_a_layer_is_told_from_one_that_was_cut_off(
    nas_command: Command, done: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(done, run)
    layers = run / "evolution" / "layers"
    for path in layers.glob("*.json"):
        path.unlink()
    refused(
        nas_command("export", run, "--out", tmp_path / "a"), "has accepted no layer; repeat `nas evolve` with a larger"
    )
    layers.rmdir()
    refused(nas_command("export", run, "--out", tmp_path / "a"), "is not finished")


@pytest.mark.parametrize("damage", ["[]", "{", '{"layer": {"version": 1, "nodes": []}, "accuracies": {}}'])
def test_a_damaged_layer(nas_command: Command, done: Path, tmp_path: Path, damage: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(done, run)
    (run / "evolution" / "layers" / "1.json").write_text(damage)
    refused(nas_command("report", run), "must be a layer that nas wrote, it is damaged")


def journal(run: Path) -> Path:
    return run / "evolution" / "study.journal"


def living(marker: str) -> list[str]:
    """The commands of processes that have `marker` in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (path / "environ").read_bytes():
                found.append((path / "cmdline").read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_killed_among_its_trials(folder: Path, tmp_path: Path) -> None:
    """With two workers, the driver is killed; its processes end, and the command goes on to what one worker finds."""
    alone, cut, marker = tmp_path / "alone", tmp_path / "cut", f"TEST_OF_NAS_EVOLVE={uuid.uuid4()}"
    finish(command(folder, alone, "--lag", 6))
    more = command(folder, cut, "--lag", 6, "--workers", 2, "--json")
    code = [sys.executable, "-c", "import sys; from nas.command.cli import main; sys.exit(main())", *more]
    name, _, value = marker.partition("=")
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    # Ray's workers give way to all other processes, and would not get far beside tests in other processes.
    env = {**os.environ, name: value, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}

    def started() -> "subprocess.Popen[str]":
        return subprocess.Popen(code, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def waited(for_it: Callable[[], bool]) -> bool:
        end = time.monotonic() + 300
        while not for_it() and time.monotonic() < end:
            time.sleep(0.05)
        return for_it()

    running = started()
    try:
        assert waited(lambda: journal(cut).is_file() and journal(cut).read_bytes().count(b"rejected_by") > 12)
        assert len(living(marker)) > 3, "Ray and its workers"
    finally:
        running.kill()
        running.communicate()
    assert load_study(journal(cut), LayerDomain.from_identity).measurements != []
    assert waited(lambda: not living(marker)), living(marker)
    again = started()
    out, err = again.communicate(timeout=600)
    assert again.returncode == 0, err
    assert json.loads(out)["tried"] == 60, "standard output is one JSON object, whatever Ray and Tune have to say"
    one, other = (load_study(journal(run), LayerDomain.from_identity).measurements for run in (alone, cut))
    assert [(m.candidate, dict(m.values), dict(m.extras)) for m in one] == [
        (m.candidate, dict(m.values), dict(m.extras)) for m in other
    ]
    assert (alone / "evolution" / "ranking.json").read_bytes() == (cut / "evolution" / "ranking.json").read_bytes()
    assert waited(lambda: not living(marker)), living(marker)
