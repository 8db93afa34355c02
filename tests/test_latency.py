"""The protocol of measuring, with clocks of our own: nothing here depends on how long anything takes."""

import gc
from collections.abc import Callable, Iterator
from itertools import count

import pytest
import torch

from hardware.latency import Latency, measure_latency

ROW = {"x": torch.zeros(1, 2)}


def _clock(step: float = 1e-3) -> Callable[[], float]:
    ticks: Iterator[int] = count()
    return lambda: step * next(ticks)


def test_calls_are_interleaved_in_rotating_order() -> None:
    calls: list[str] = []
    functions = [lambda x, name=name: calls.append(name) for name in "abc"]
    measure_latency(functions, ROW, repeats=3, warmup=1, clock=_clock(), cpu_clock=_clock())
    assert "".join(calls) == "cab" + "abc" + "bca" + "cab"


def test_times_are_the_clocks() -> None:
    now = [0.0]

    def slow(x: torch.Tensor) -> None:
        now[0] += 0.004

    def fast(x: torch.Tensor) -> None:
        now[0] += 0.001

    first, second = measure_latency([slow, fast], ROW, repeats=4, clock=lambda: now[0], cpu_clock=_clock(0.002))
    assert first.samples == pytest.approx([4.0] * 4)
    assert (second.median_ms, second.p95_ms, second.noise) == pytest.approx((1.0, 1.0, 0.0), abs=1e-9)
    assert first.cpu_ms == pytest.approx(2.0)


def test_summary_of_uneven_times() -> None:
    now, steps = [0.0], iter([0.001, 0.002, 0.003, 0.004, 0.005])

    def uneven(x: torch.Tensor) -> None:
        now[0] += next(steps)

    (latency,) = measure_latency([uneven], ROW, repeats=5, warmup=0, clock=lambda: now[0], cpu_clock=_clock())
    assert isinstance(latency, Latency)
    assert latency.median_ms == pytest.approx(3.0)
    assert latency.quartiles == pytest.approx((2.0, 4.0))
    assert latency.p95_ms == pytest.approx(4.8)
    assert latency.noise == pytest.approx(2 / 3)


def test_threads_gradients_and_collector_are_fixed_and_put_back() -> None:
    seen: list[tuple[int, bool, bool]] = []

    def look(x: torch.Tensor) -> None:
        seen.append((torch.get_num_threads(), torch.is_grad_enabled(), gc.isenabled()))

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        measure_latency([look], ROW, repeats=1, warmup=0, threads=2)
        assert seen == [(2, False, False)]
        assert torch.get_num_threads() == 3 and gc.isenabled()

        def fail(x: torch.Tensor) -> None:
            raise RuntimeError("broken")

        with pytest.raises(RuntimeError, match="broken"):
            measure_latency([fail], ROW, threads=1)
        assert torch.get_num_threads() == 3 and gc.isenabled()
    finally:
        torch.set_num_threads(before)


def test_modules_and_positional_inputs() -> None:
    (latency,) = measure_latency([torch.nn.Linear(2, 2)], (torch.zeros(1, 2),), repeats=2, warmup=0)
    assert len(latency.samples) == 2


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"warmup": -1}, {"threads": 0}])
def test_wrong_settings(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="measuring needs at least one callable"):
        measure_latency([lambda x: None], ROW, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got 0 callables"):
        measure_latency([], ROW)
