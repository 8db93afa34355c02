"""Measuring beside a reference, with clocks of our own: nothing here depends on how long anything takes."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from hardware.counters import energy_meter, peak_memory_mib
from hardware.machine import CPU_FEATURES, in_words, processor, this_machine
from hardware.profile import MeasurementProtocol, Timing
from hardware.protocol import UnstableError, _half_width, _rank, measure_beside, require_stable
from nas.profiling import on_device

ROW = {"x": torch.zeros(1, 2)}


class Machine:
    """A clock that only the networks advance, and a record of who ran."""

    def __init__(self) -> None:
        self.now, self.calls = 0.0, ""

    def network(self, name: str, seconds: Iterable[float]) -> Callable[..., None]:
        durations = iter(seconds)

        def run(x: torch.Tensor) -> None:
            self.now += next(durations)
            self.calls += name

        return run

    def measure(self, own: Iterable[float], other: Iterable[float], **changes: Any) -> Timing:
        networks = self.network("n", own), self.network("r", other)
        clock = lambda: self.now  # noqa: E731
        return measure_beside(*networks, ROW, clock=clock, cpu_clock=clock, **changes)


def test_a_steady_network_is_measured_with_the_fewest_calls() -> None:
    machine = Machine()
    timing = machine.measure(
        itertools.repeat(0.004), itertools.repeat(0.008), protocol=MeasurementProtocol(window=2, rounds=6)
    )
    assert machine.calls == "nr" * 4 + "nr" + "rn" + "nr" + "rn" + "nr" + "rn"
    assert timing.stable and len(timing.samples) == 6
    assert (timing.median_ms, timing.ratio, timing.cpu_ratio, timing.reference_ms) == pytest.approx((4, 0.5, 0.5, 8))
    assert timing.half_width == pytest.approx(0, abs=1e-9)


def test_the_ratio_survives_a_drift_that_the_times_do_not() -> None:
    slowing = [0.004 * 1.03**round_ for round_ in range(100)]
    timing = Machine().measure(slowing, [2 * each for each in slowing], protocol=MeasurementProtocol(rounds=20))
    assert timing.stable and timing.ratio == pytest.approx(0.5)
    assert timing.noise > 0.2


def test_warming_up_goes_on_until_windows_agree() -> None:
    machine = Machine()
    cold = [0.1, 0.05, 0.02, 0.01]
    machine.measure([*cold, *[0.004] * 50], itertools.repeat(0.008), protocol=MeasurementProtocol(window=2, rounds=6))
    # Four cold calls, and two windows of two that agree.
    assert len(machine.calls) == 2 * (8 + 6)


def test_warming_up_is_bounded_and_what_never_warms_is_not_stable() -> None:
    machine = Machine()
    growing = [0.001 * 1.5**call for call in range(60)]
    timing = machine.measure(growing, growing, protocol=MeasurementProtocol(window=1, warmup_most=5, rounds=6))
    assert len(machine.calls) == 2 * (5 + 6)
    assert timing.half_width <= 0.02 and not timing.stable
    assert Machine().measure(growing, growing, protocol=MeasurementProtocol(warmup_most=0, rounds=6)).stable


def test_a_measurement_that_never_gets_stable_is_not_called_so() -> None:
    wild = np.random.default_rng(0).uniform(0.002, 0.01, size=100).tolist()
    protocol = MeasurementProtocol(warmup_most=0, rounds=6, rounds_most=40)
    timing = Machine().measure(wild, itertools.repeat(0.008), protocol=protocol)
    assert not timing.stable and len(timing.samples) == 40 and timing.half_width > 0.02
    with pytest.raises(UnstableError, match=r"of depth 3 did not get stable: after 40 rounds .* \d+\.\d % only"):
        require_stable(timing, "depth 3")
    steady = Machine().measure(itertools.repeat(0.004), itertools.repeat(0.008))
    assert require_stable(steady) is steady


@pytest.mark.parametrize("clock", ["wall", "cpu"])
@pytest.mark.parametrize("spread", [0.02, 0.8])
def test_the_script_for_other_devices_measures_alike(
    monkeypatch: pytest.MonkeyPatch, clock: Literal["wall", "cpu"], spread: float
) -> None:
    protocol = MeasurementProtocol(window=2, warmup_most=10, rounds=6, rounds_most=20, clock=clock)
    wall, cpu = [0.0], [0.0]

    def networks() -> list[Callable[..., None]]:
        def made(seed: int, seconds: float) -> Callable[..., None]:
            rng = np.random.default_rng(seed)

            def run(**_: torch.Tensor) -> None:
                wall[0] += seconds * rng.uniform(1, 1 + spread)
                # Too short a call for the clock of the processor, now and then.
                cpu[0] += seconds * rng.uniform(1, 1 + spread) * (rng.random() > 0.1)

            return run

        return [made(0, 0.004), made(1, 0.008)]

    ours = measure_beside(*networks(), ROW, protocol=protocol, clock=lambda: wall[0], cpu_clock=lambda: cpu[0])
    wall[0] = cpu[0] = 0.0
    monkeypatch.setattr(on_device.time, "perf_counter", lambda: wall[0])
    monkeypatch.setattr(on_device.time, "process_time", lambda: cpu[0])
    theirs = on_device.timed(*networks(), dataclasses.asdict(protocol))
    monkeypatch.undo()
    assert theirs == ours.model_dump(include=set(theirs)) | {
        "quartiles": list(ours.quartiles),
        "samples": list(ours.samples),
    }
    assert ours.stable == (spread < 0.1)


def test_the_script_for_other_devices_tells_machines_apart_alike() -> None:
    assert tuple(on_device.FEATURES) == CPU_FEATURES
    told = this_machine().model_dump(include={"processor", "cores", "system", "features"})
    assert on_device.machine() == told | {"features": list(told["features"])}


def test_by_cpu_time_what_else_runs_does_not_matter() -> None:
    wild = np.random.default_rng(0).uniform(0.002, 0.01, size=100).tolist()
    machine, spent = Machine(), [0.0]

    def network(name: str, seconds: float) -> Callable[..., None]:
        waits = machine.network(name, wild)

        def run(x: torch.Tensor) -> None:
            waits(x)
            spent[0] += seconds

        return run

    timing = measure_beside(
        network("n", 0.001),
        network("r", 0.004),
        ROW,
        protocol=MeasurementProtocol(rounds=6, clock="cpu"),
        clock=lambda: machine.now,
        cpu_clock=lambda: spent[0],
    )
    assert timing.stable and len(timing.samples) == 6
    assert (timing.cpu_ratio, timing.cpu_ms, timing.half_width) == pytest.approx((0.25, 1.0, 0.0), abs=1e-9)


def test_cpu_time_is_refused_where_it_says_nothing() -> None:
    with pytest.raises(ValueError, match="for one thread on the processor only, got 2 threads on cpu; measure by wall"):
        Machine().measure([], [], threads=2, protocol=MeasurementProtocol(clock="cpu"))
    still = Machine()
    networks = still.network("n", itertools.repeat(0.001)), still.network("r", itertools.repeat(0.001))
    protocol = MeasurementProtocol(rounds=6, rounds_most=8, clock="cpu")
    timing = measure_beside(*networks, ROW, protocol=protocol, clock=lambda: still.now, cpu_clock=lambda: 0.0)
    assert not timing.stable and timing.cpu_ratio == 0.0


def test_half_width_holds_the_median_in_at_least_95_of_100_draws() -> None:
    rng = np.random.default_rng(0)
    for count in (6, 9, 20, 61):
        rank, draws = _rank(count), np.sort(rng.exponential(size=(4000, count)), axis=1)
        held = (draws[:, rank - 1] <= math.log(2)) & (math.log(2) <= draws[:, -rank])
        assert held.mean() > 0.94
        assert not ((draws[:, rank] <= math.log(2)) & (math.log(2) <= draws[:, -rank - 1])).mean() > 0.96
    assert _half_width([1.0] * 5) == math.inf


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="threads >= 1, got 0"):
        Machine().measure([], [], threads=0)
    with pytest.raises(ValueError, match="clock must advance"):
        Machine().measure(itertools.repeat(0.0), itertools.repeat(0.0))


def test_real_clocks_and_modules() -> None:
    module = torch.nn.Linear(2, 2)
    timing = measure_beside(module, module, (torch.zeros(1, 2),), protocol=MeasurementProtocol(rounds=6, rounds_most=8))
    assert 6 <= len(timing.samples) <= 8 and timing.ratio > 0


def _zone(root: Path, name: str, value: int, wraps_at: int = 1000) -> Path:
    folder = root / name
    folder.mkdir()
    (folder / "max_energy_range_uj").write_text(f"{wraps_at}\n")
    (folder / "energy_uj").write_text(f"{value}\n")
    return folder / "energy_uj"


def test_energy_of_all_packages_with_counters_that_begin_again(tmp_path: Path) -> None:
    first, second = _zone(tmp_path, "intel-rapl:0", 100), _zone(tmp_path, "intel-rapl:1", 900)
    _zone(tmp_path, "intel-rapl:0:0", 5)
    meter = energy_meter(tmp_path)
    assert meter is not None
    stop = meter()
    first.write_text("600\n")
    second.write_text("200\n")
    assert stop() == pytest.approx((500 + 300) / 1000)


def test_energy_is_part_of_a_timing_where_there_is_a_meter() -> None:
    timing = Machine().measure(
        itertools.repeat(0.004),
        itertools.repeat(0.008),
        energy=lambda: lambda: 7.0,
        protocol=MeasurementProtocol(rounds=6),
    )
    assert timing.energy_mj == 7.0


def test_no_energy_where_it_cannot_be_read(tmp_path: Path) -> None:
    assert energy_meter(tmp_path) is None
    assert energy_meter(tmp_path / "absent") is None
    _zone(tmp_path, "intel-rapl:0", 1).write_text("no number")
    assert energy_meter(tmp_path) is None
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert energy_meter(tmp_path) is None


def test_a_machine_in_words() -> None:
    assert [in_words("a processor", cores) for cores in (1, 2)] == ["a processor, 1 core", "a processor, 2 cores"]


def test_this_machine(tmp_path: Path) -> None:
    peak = peak_memory_mib()
    assert peak is not None and peak > 10
    machine = this_machine("A GPU")
    assert machine.cores >= 1 and machine.accelerator == "A GPU"
    (tmp_path / "cpuinfo").write_text("model name\t: A processor\nflags\t\t: fpu avx2 amx_bf16\n")
    assert processor(tmp_path / "cpuinfo") == ("A processor", ("avx2", "amx_bf16"))
    assert processor(tmp_path / "absent")[1] == ()
