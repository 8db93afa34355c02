"""Calls that wait for a processor are told from calls that compute, with clocks of our own."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import profiles
import pytest
import torch
from conftest import Command

from hardware.latency import Latency, measure_latency
from hardware.profile import ProfileRow
from hardware.waiting import Waiting
from nas.runs.profile import summary_of
from nas.searching.relative_latency import LatencySettings, RelativeLatency
from search_spaces import Candidate

ROW = {"x": torch.zeros(1, 2)}
BUSY = "Other programs keep this machine busy"


class Machine:
    """Two clocks that the networks alone advance: each computes for some seconds and waits for others."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def network(self, computes: float, waits: float, threads: int = 1) -> Callable[..., None]:
        def run(x: torch.Tensor) -> None:
            self.wall += computes + waits
            self.cpu += computes * threads

        return run

    @property
    def clocks(self) -> dict[str, Callable[[], float]]:
        return {"clock": lambda: self.wall, "cpu_clock": lambda: self.cpu}

    def waiting(self, *networks: tuple[float, float, int]) -> Waiting:
        found = Waiting()
        for latency in measure_latency([self.network(*each) for each in networks], ROW, **self.clocks):
            found.add(latency)
        return found


@pytest.mark.parametrize(
    ("networks", "factor"),
    [
        ([(0.01, 0.0, 1)], None),
        ([(0.01, 0.002, 1)], None),
        ([(0.01, 0.01, 1)], 2.0),
        ([(0.01, 0.0, 1), (0.01, 0.02, 1)], 2.0),
        # A runtime with threads of its own wakes them for each call, which is no sign of others.
        ([(0.0001, 0.0001, 1)], None),
        # Several threads compute more than the wall shows, so only much waiting is seen.
        ([(0.01, 0.0, 4)], None),
        ([(0.01, 0.07, 4)], 2.0),
    ],
)
def test_waiting_is_wall_time_beyond_cpu_time(networks: list[tuple[float, float, int]], factor: float | None) -> None:
    found = Machine().waiting(*networks)
    assert found.factor == (None if factor is None else pytest.approx(factor))
    assert (found.warning("they are too high") is None) == (factor is None)


def test_nothing_is_said_without_cpu_times() -> None:
    found = Waiting()
    assert found.factor is None and found.calls == 0
    found.add(Latency(1.0, 1.0, (1.0, 1.0), 0.0, 0.0, (1.0,) * 9))
    assert found.factor is None and found.calls == 9


def latencies_of_a_search(
    machine: Machine, waits: float, monkeypatch: pytest.MonkeyPatch, device: str = "cpu"
) -> tuple[list[float], RelativeLatency]:
    monkeypatch.setattr("nas.searching.relative_latency.measure_latency", partial(measure_latency, **machine.clocks))

    class Runners:
        row = ROW
        deployment = SimpleNamespace(
            device=device,
            runtime="pytorch",
            tokens=None,
            version=lambda: "1",
            conditions=lambda: {"runtime_version": 1},
        )

        def __call__(self, candidate: Candidate) -> Callable[..., None]:
            return machine.network(0.01, waits)

        def full(self) -> Callable[..., None]:
            return machine.network(0.02, 2 * waits)

    runners: Any = Runners()
    latency = RelativeLatency(runners, LatencySettings(), None, "measure them anew")
    return [latency(Candidate({"depth": depth})) for depth in range(5)], latency


def test_a_search_says_it_once_and_measures_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    idle, _ = latencies_of_a_search(Machine(), 0.0, monkeypatch)
    assert capsys.readouterr().err == "" and idle == pytest.approx([10.0] * 5)
    busy, _ = latencies_of_a_search(Machine(), 0.01, monkeypatch)
    said = capsys.readouterr().err
    assert (
        said.count(BUSY) == 1 and "2.0 times" in said and said.endswith("stop those programs and measure them anew\n")
    )
    assert said.count("\n") == 1
    assert busy == pytest.approx([20.0] * 5), "what is measured is what the clock says"
    latencies_of_a_search(Machine(), 0.01, monkeypatch, device="cuda")
    assert capsys.readouterr().err == "", "a GPU computes without CPU time"


@pytest.mark.parametrize(
    ("clock", "device", "waited", "told"),
    [
        ("wall", "cpu", 1.0, None),
        ("wall", "cpu", 2.0, "too high"),
        ("cpu", "cpu", 2.0, "processor times"),
        ("wall", "cuda", 2.0, None),
    ],
)
def test_a_profile_says_what_it_means_for_its_clock(
    clock: str, device: str, waited: float, told: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subject = profiles.subject()
    timing = profiles.timing(0.5)
    timing = timing.model_copy(update={"samples": tuple(waited * each for each in timing.samples)})
    row = ProfileRow(candidate=dict(subject.space.smallest()), timing=timing, order=0)
    protocol = {**vars(profiles.profile(subject).protocol), "clock": clock}
    made = profiles.profile(subject).model_copy(update={"device": device, "reference": timing, "rows": (row,)})
    made = made.model_copy(update={"protocol": type(made.protocol)(**protocol)})
    summary_of(made, subject, tmp_path / "profile.json")
    said = capsys.readouterr().err
    assert (BUSY in said) == (told is not None)
    assert told is None or told in said


@pytest.mark.slow
def test_an_export_says_it(
    nas_command: Command, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    ticks = count()
    # Both clocks are read in turns, so that each call takes two ticks of either.
    for cpu_seconds, told in ((0.001, False), (0.0005, True)):
        clocks = {"clock": lambda: 0.001 * next(ticks), "cpu_clock": lambda each=cpu_seconds: each * next(ticks)}
        monkeypatch.setattr("nas.exporting.comparison.measure_latency", partial(measure_latency, **clocks))
        answer = nas_command("export", run, "--out", tmp_path / "subnet", "--json")
        assert answer.status == 0 and (BUSY in answer.err) == told, answer.err
        assert json.loads(answer.out)["chosen"]["latency_ms"] == pytest.approx(2.0)
