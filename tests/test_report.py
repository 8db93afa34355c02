"""The picture and the table of a search."""

import csv
import json
import math
import shutil
from pathlib import Path

import pytest
from conftest import Command

from nas.learning.finetuned import ProbeRecord
from nas.reporting.pictures import draw_front, draw_training
from nas.reporting.table import Marks, write_front
from nas.searching.measurement import Measurement, Objective
from nas.searching.study import Study
from search_spaces import Choice, Space

SPACE = Space((Choice("depth", (1, 2, 3)), Choice("width.2", (8, 16), active_if=("depth", (3,)))))
VALUES = {(1, None): (0.6, 2.0), (2, None): (0.7, 4.0), (3, 8): (0.65, 5.0), (3, 16): (0.8, 9.0)}


def study(*objectives: Objective) -> Study:
    measurements = []
    for (depth, width), values in VALUES.items():
        candidate = SPACE.candidate({"depth": depth, "width.2": width})
        named = {o.name: value for o, value in zip(objectives, values, strict=False)}
        measurements.append(Measurement(candidate, named, "measured", None, 0.1))
    failed = Measurement(SPACE.candidate({"depth": 1, "width.2": None}), {}, "failed", "why", 0.1)
    return Study(SPACE, objectives, [*measurements, failed])


ACCURACY, LATENCY = Objective("accuracy", "maximize"), Objective("latency_ms")


def roles(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["role"], row["depth"]) for row in csv.DictReader(file)]


def test_table_marks_full_and_chosen(tmp_path: Path) -> None:
    found = study(ACCURACY, LATENCY)
    full = found.find(SPACE.largest())
    assert full is not None
    write_front(found, Marks(full, found.select(max_latency_ms=5)), tmp_path / "front.csv")
    assert roles(tmp_path / "front.csv") == [("front, full", "3"), ("chosen", "2"), ("front", "1")]


def test_full_network_is_listed_where_it_is_beyond_a_limit(tmp_path: Path) -> None:
    found = study(ACCURACY, Objective("latency_ms", limit=6.0))
    write_front(found, Marks(found.find(SPACE.largest()), None), tmp_path / "front.csv")
    assert roles(tmp_path / "front.csv") == [("front", "2"), ("front", "1"), ("full", "3")]


@pytest.mark.parametrize(
    "objectives",
    [(ACCURACY,), (ACCURACY, LATENCY), (Objective("accuracy", "maximize", 0.62), Objective("latency_ms", limit=6.0))],
)
def test_picture(tmp_path: Path, objectives: tuple[Objective, ...]) -> None:
    found = study(*objectives)
    marks = Marks(found.find(SPACE.largest()), found.select())
    draw_front(found, marks, tmp_path / "front.png", title="A title", latency_of="batch 1")
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["front.png"]


@pytest.mark.parametrize("metric", ["accuracy", "r2"])
@pytest.mark.parametrize("count", [1, 3])
def test_training_over_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, count: int) -> None:
    """One line for each sub-network, over epochs; a score that was no number leaves a gap."""
    from matplotlib.axes import Axes

    lines: list[tuple[list[float], list[float]]] = []
    plot = Axes.plot

    def noted(self: Axes, across: list[float], up: list[float], **how: object) -> object:
        lines.append((across, up))
        return plot(self, across, up, **how)

    monkeypatch.setattr(Axes, "plot", noted)
    probes = [
        ProbeRecord(step=5 * number, largest=0.8, smallest=None, random=[0.5, 0.1 * number])
        for number in range(1, count + 1)
    ]
    draw_training(probes, tmp_path / "training.png", epoch_steps=10, metric=metric, title="A title")
    assert (tmp_path / "training.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["training.png"]
    scale = 100 if metric == "accuracy" else 1
    assert [across for across, _ in lines] == [[0.5 * number for number in range(1, count + 1)]] * 4
    assert lines[1][1] == pytest.approx([scale * 0.1 * number for number in range(1, count + 1)])
    assert lines[2][1] == [scale * 0.8] * count
    assert all(math.isnan(value) for value in lines[3][1])


def test_a_run_that_was_not_searched(nas_command: Command, finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    searched = json.loads(nas_command("report", run, "--json").out)
    assert {"training", "report", "picture", "table"} <= searched.keys()
    (run / "training.png").unlink()
    shutil.rmtree(run / "searches")
    report = json.loads(nas_command("report", run, "--json").out)
    assert report == {"run": str(run), "training": str(run / "training.png")}
    assert (run / "training.png").read_bytes().startswith(b"\x89PNG")
    answer = nas_command("report", run, "--name", "other")
    assert (answer.status, "has no search named 'other'" in answer.err) == (2, True)
