"""Latency of several callables, measured so that they can be compared.

All callables are timed interleaved in one process: every round calls each once, in an order that rotates from round to
round, so that a slow phase of the machine affects all of them alike. Results of two calls of `measure_latency` compare
only through a callable that was measured in both.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from hardware.inputs import call, split
from search_spaces.inputs import Inputs

Clock = Callable[[], float]


@dataclass(frozen=True)
class Latency:
    """Times of one callable, in milliseconds.

    Attributes:
        median_ms: median of wall time: the latency.
        p95_ms: 95th percentile of wall time.
        quartiles: first and third quartile of wall time.
        cpu_ms: median of the CPU time of the process, summed over its threads; above the wall time if several threads
            work, far below it if the machine was busy with other processes.
        noise: (third - first quartile) / median; smaller differences between networks mean little.
        samples: wall times in the order of measurement.
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
    """Measure the latency of every callable on the same inputs.

    Gradients and the garbage collector are off while measuring. Each call ends when the CUDA device of the inputs has
    finished its work.

    Args:
        callables: modules or loaded runtimes, which accept the inputs.
        inputs: tuple (positional) or mapping (keyword) of tensors.
        repeats: timed rounds; every round calls each callable once.
        warmup: rounds before them that are not timed.
        threads: number of threads of torch, restored afterwards; other runtimes fix theirs when they load a model.
        clock: returns wall time in seconds.
        cpu_clock: returns CPU time of the process in seconds.

    Returns:
        One `Latency` for each callable, in the same order.

    Raises:
        ValueError: nothing to measure, fewer than one repeat or thread, or a negative warm-up.
    """
    if not callables or repeats < 1 or warmup < 0 or threads < 1:
        raise ValueError(
            "measuring needs at least one callable, repeats >= 1, warmup >= 0 and threads >= 1, "
            f"got {len(callables)} callables, repeats={repeats}, warmup={warmup}, threads={threads}"
        )
    # CUDA kernels run asynchronously: without waiting, a call would return before its work is done.
    wait = waiter(inputs)
    wall: list[list[float]] = [[] for _ in callables]
    cpu: list[list[float]] = [[] for _ in callables]
    with undisturbed(threads), torch.inference_mode():
        # Warm-up rounds have negative numbers: the order keeps rotating across both parts.
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
    """Indices 0 .. count - 1, rotated by `turn`."""
    return [(turn + step) % count for step in range(count)]


def waiter(inputs: Inputs) -> Callable[[], None]:
    """A function that waits until the CUDA devices of the inputs are idle; it does nothing for inputs on the CPU."""
    args, kwargs = split(inputs)
    devices = {value.device for value in [*args, *kwargs.values()] if value.device.type == "cuda"}

    def wait() -> None:
        for device in devices:
            torch.cuda.synchronize(device)

    return wait


@contextmanager
def fixed_threads(threads: int) -> Iterator[None]:
    """Set the number of threads that torch uses within an operation; restored afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def undisturbed(threads: int) -> Iterator[None]:
    """Set the number of threads of torch and switch off the garbage collector; both are restored afterwards."""
    # A collection during a call would count as its latency. None is run beforehand either: a full one takes 0.2 s,
    # more than measuring a small network.
    collecting = gc.isenabled()
    gc.disable()
    try:
        with fixed_threads(threads):
            yield
    finally:
        if collecting:
            gc.enable()


def _summary(times: list[float], cpu_times: list[float]) -> Latency:
    # Order statistics, because the times of calls that other processes interrupt are outliers.
    low, median, high, p95 = (float(value) for value in np.percentile(times, (25, 50, 75, 95)))
    return Latency(
        median_ms=median,
        p95_ms=p95,
        quartiles=(low, high),
        cpu_ms=float(np.median(cpu_times)),
        noise=(high - low) / median if median > 0 else 0.0,
        samples=tuple(times),
    )
