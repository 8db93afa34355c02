"""Latency of several callables, measured so that they can be compared.

All are timed in one process, interleaved: every round calls each once, in an order that rotates from round to round, so
that a slow minute of the machine meets all of them. Latencies of different calls of `measure_latency` are comparable
only through a callable that was measured in both.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from hardware.inputs import Inputs, call, split

Clock = Callable[[], float]


@dataclass(frozen=True)
class Latency:
    """Times of one callable, in milliseconds.

    Attributes:
        median_ms: median of wall time: the latency.
        p95_ms: 95th percentile of wall time.
        quartiles: first and third quartile of wall time.
        cpu_ms: median of the CPU time of the process, all its threads together; above the wall time where more than one
            thread works, far below it where the machine was busy with something else.
        noise: (third - first quartile) / median: differences below it mean little.
        samples: wall times in the order in which they were taken.
    """

    median_ms: float
    p95_ms: float
    quartiles: tuple[float, float]
    cpu_ms: float
    noise: float
    samples: tuple[float, ...]


def measure_latency(
    callables: Sequence[Callable[..., object]],
    inputs: Inputs,
    *,
    repeats: int = 30,
    warmup: int = 5,
    threads: int = 1,
    clock: Clock = time.perf_counter,
    cpu_clock: Clock = time.process_time,
) -> list[Latency]:
    """Latency of every callable on the same inputs, in their order.

    Gradients and the garbage collector are off while measuring; work on the inputs' CUDA device is waited for.

    Args:
        callables: modules or loaded runtimes, called with the inputs as they are named.
        inputs: tuple (positional) or mapping (keyword) of tensors.
        repeats: timed rounds; every round calls each callable once.
        warmup: rounds before them that are not timed.
        threads: of torch inside the process, put back afterwards; other runtimes fix theirs when they load a model.
        clock: wall time in seconds.
        cpu_clock: CPU time of the process in seconds.

    Raises:
        ValueError: nothing to measure, fewer than one repeat or thread, a negative warm-up.
    """
    if not callables or repeats < 1 or warmup < 0 or threads < 1:
        raise ValueError(
            "measuring needs at least one callable, repeats >= 1, warmup >= 0 and threads >= 1, "
            f"got {len(callables)} callables, repeats={repeats}, warmup={warmup}, threads={threads}"
        )
    wait = waiter(inputs)
    wall: list[list[float]] = [[] for _ in callables]
    cpu: list[list[float]] = [[] for _ in callables]
    with undisturbed(threads), torch.inference_mode():
        for turn in range(-warmup, repeats):
            for which in _order(len(callables), turn):
                start, cpu_start = clock(), cpu_clock()
                call(callables[which], inputs)
                wait()
                end, cpu_end = clock(), cpu_clock()
                if turn >= 0:
                    wall[which].append(1e3 * (end - start))
                    cpu[which].append(1e3 * (cpu_end - cpu_start))
    return [_summary(times, cpu_times) for times, cpu_times in zip(wall, cpu, strict=True)]


def _order(count: int, turn: int) -> list[int]:
    """Indices 0 .. count - 1, starting one further each turn."""
    return [(turn + step) % count for step in range(count)]


def waiter(inputs: Inputs) -> Callable[[], None]:
    """What to call so that work on the device of the inputs is done: nothing on a CPU."""
    args, kwargs = split(inputs)
    devices = {value.device for value in [*args, *kwargs.values()] if value.device.type == "cuda"}

    def wait() -> None:
        for device in devices:
            torch.cuda.synchronize(device)

    return wait


@contextmanager
def fixed_threads(threads: int) -> Iterator[None]:
    """Run with that many threads of torch inside each operation, and put the number back."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def undisturbed(threads: int) -> Iterator[None]:
    """Run with that many threads of torch and without the garbage collector, and put both back."""
    # Not emptied before: a full collection takes a fifth of a second, more than measuring a small network.
    collecting = gc.isenabled()
    gc.disable()
    try:
        with fixed_threads(threads):
            yield
    finally:
        if collecting:
            gc.enable()


def _summary(times: list[float], cpu_times: list[float]) -> Latency:
    low, median, high, p95 = (float(value) for value in np.percentile(times, (25, 50, 75, 95)))
    return Latency(
        median_ms=median,
        p95_ms=p95,
        quartiles=(low, high),
        cpu_ms=float(np.median(cpu_times)),
        noise=(high - low) / median if median > 0 else 0.0,
        samples=tuple(times),
    )
