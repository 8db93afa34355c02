"""The protocol of measuring one network beside a reference network, so that rows compare with each other.

Both run in one process in turns, and the figure is the median of their ratio: a slow minute of the machine meets both.
Measuring goes on until the interval of that median is narrow enough, and what does not get there is not called stable.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch

from hardware.counters import energy_meter, peak_memory_mib
from hardware.inputs import Inputs, call, split
from hardware.latency import Clock, undisturbed, waiter
from hardware.profile import MeasurementProtocol, Timing

Runnable = Callable[..., object]
# Wall and CPU time of one call, in milliseconds.
Times = tuple[float, float]
EnergyMeter = Callable[[], Callable[[], float]]


class UnstableError(RuntimeError):
    """A measurement did not get stable; the message says how far it came and what to do."""


def measure_beside(
    network: Runnable,
    reference: Runnable,
    inputs: Inputs,
    *,
    protocol: MeasurementProtocol | None = None,
    threads: int = 1,
    clock: Clock = time.perf_counter,
    cpu_clock: Clock = time.process_time,
    energy: EnergyMeter | None = None,
) -> Timing:
    """Times of `network`, and its ratio to `reference`, both called in turns with the same inputs.

    The reference itself is measured by giving it twice: its ratio, about one, then says how steady the machine is.
    Gradients and the garbage collector are off; work on the inputs' CUDA device is waited for.

    Args:
        network: a module or loaded runtime, called with the inputs as they are named.
        reference: another one in the same runtime, usually the full network.
        inputs: tuple (positional) or mapping (keyword) of tensors.
        protocol: when warming up and measuring end; None: `MeasurementProtocol()`.
        threads: of torch inside the process, put back afterwards; other runtimes fix theirs when they load a model.
        clock: wall time in seconds.
        cpu_clock: CPU time of the process in seconds.
        energy: see `energy_meter`; None: that of this machine, where it can be read.

    Raises:
        ValueError: fewer than one thread, a clock that stands still, or a protocol by CPU time where that says nothing.
    """
    settings, meter = protocol or MeasurementProtocol(), energy or energy_meter()
    _possible(settings, threads, inputs)
    watch = _Watch(inputs, clock, cpu_clock, waiter(inputs))
    with undisturbed(threads), torch.inference_mode():
        warm = _warmed_up((network, reference), watch, settings)
        own, other, spent = _rounds(network, reference, watch, settings, meter)
    half_width = _half_width(_ratios(own, other, settings))
    return _timing(np.array(own), np.array(other), spent, half_width, warm and half_width <= settings.tolerance)


def _possible(protocol: MeasurementProtocol, threads: int, inputs: Inputs) -> None:
    if threads < 1:
        raise ValueError(f"measuring needs threads >= 1, got {threads}")
    args, kwargs = split(inputs)
    devices = {value.device.type for value in [*args, *kwargs.values()]}
    if protocol.clock == "cpu" and (threads > 1 or devices != {"cpu"}):
        raise ValueError(
            "CPU time is a latency for one thread on the processor only, "
            f"got {threads} threads on {', '.join(sorted(devices))}; measure by wall time"
        )


def require_stable(timing: Timing, what: str = "this network") -> Timing:
    """The same timing; raises UnstableError where it is not stable."""
    if timing.stable:
        return timing
    raise UnstableError(
        f"the latency of {what} did not get stable: after {len(timing.samples)} rounds its ratio to the reference is "
        f"known to {100 * timing.half_width:.1f} % only; stop what else runs on this machine, or allow more"
    )


class _Watch:
    """Wall and CPU time of one call, in milliseconds."""

    def __init__(self, inputs: Inputs, clock: Clock, cpu_clock: Clock, wait: Callable[[], None]) -> None:
        self._inputs, self._clock, self._cpu_clock, self._wait = inputs, clock, cpu_clock, wait

    def __call__(self, network: Runnable) -> tuple[float, float]:
        start, cpu_start = self._clock(), self._cpu_clock()
        call(network, self._inputs)
        self._wait()
        end, cpu_end = self._clock(), self._cpu_clock()
        if end <= start:
            raise ValueError("the clock must advance during a call, it stood still; measure with a finer clock")
        return 1e3 * (end - start), 1e3 * (cpu_end - cpu_start)


def _warmed_up(networks: Sequence[Runnable], watch: _Watch, protocol: MeasurementProtocol) -> bool:
    """Call each in turns until two consecutive windows have the same median; False where that does not happen."""
    clock = ("wall", "cpu").index(protocol.clock)
    times: list[list[float]] = [[] for _ in networks]
    for _ in range(protocol.warmup_most):
        for network, taken in zip(networks, times, strict=True):
            taken.append(watch(network)[clock])
        if all(_steady(taken, protocol) for taken in times):
            return True
    return protocol.warmup_most == 0


def _steady(times: Sequence[float], protocol: MeasurementProtocol) -> bool:
    window = protocol.window
    if len(times) < 2 * window:
        return False
    before, now = float(np.median(times[-2 * window : -window])), float(np.median(times[-window:]))
    return abs(now - before) <= protocol.warmup_tolerance * before


def _rounds(
    network: Runnable, reference: Runnable, watch: _Watch, protocol: MeasurementProtocol, meter: EnergyMeter | None
) -> tuple[list[Times], list[Times], list[float]]:
    """(wall, CPU) times of both networks by round, and the energy of the first one's calls in millijoules."""
    own: list[Times] = []
    other: list[Times] = []
    spent: list[float] = []
    while len(own) < protocol.rounds_most:
        # Who comes first turns: the second one may find caches that the first one filled, or lose what it had.
        if len(own) % 2:
            other.append(watch(reference))
        stop = meter() if meter is not None else None
        own.append(watch(network))
        if stop is not None:
            spent.append(stop())
        if len(other) < len(own):
            other.append(watch(reference))
        if len(own) >= protocol.rounds and _half_width(_ratios(own, other, protocol)) <= protocol.tolerance:
            break
    return own, other, spent


def _ratios(own: Sequence[Times], other: Sequence[Times], protocol: MeasurementProtocol) -> list[float]:
    """By the protocol's clock; the CPU's may be too coarse for a round, which then tells nothing."""
    clock = ("wall", "cpu").index(protocol.clock)
    pairs = [(mine[clock], theirs[clock]) for mine, theirs in zip(own, other, strict=True)]
    return [mine / theirs for mine, theirs in pairs if mine > 0 and theirs > 0]


def _half_width(values: Sequence[float]) -> float:
    """Half the 95 % interval of the median, over the median; infinite for fewer than 6 values.

    The interval lies between two order statistics, whatever the distribution (Hahn and Meeker, 1991, section 5.2).
    """
    rank = _rank(len(values))
    if rank == 0:
        return math.inf
    ordered = sorted(values)
    return (ordered[-rank] - ordered[rank - 1]) / 2 / float(np.median(ordered))


@cache
def _rank(count: int) -> int:
    """Largest r so that the r-th smallest and r-th largest of `count` values hold the median with 95 %; 0: none."""
    rank, tail = 0, 0
    while rank < count:
        tail += math.comb(count, rank)
        if 2 * tail > 0.05 * 2**count:
            break
        rank += 1
    return rank


def _timing(
    own: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    other: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    spent: list[float],
    half_width: float,
    stable: bool,
) -> Timing:
    low, median, high, p95 = (float(value) for value in np.percentile(own[:, 0], (25, 50, 75, 95)))
    # A coarse CPU clock may show nothing for a short call: then there is no CPU time to compare.
    counted = (own[:, 1] > 0) & (other[:, 1] > 0)
    return Timing(
        median_ms=median,
        p95_ms=p95,
        quartiles=(low, high),
        cpu_ms=float(np.median(own[:, 1])),
        noise=(high - low) / median,
        samples=tuple(own[:, 0].tolist()),
        ratio=float(np.median(own[:, 0] / other[:, 0])),
        cpu_ratio=float(np.median(own[counted, 1] / other[counted, 1])) if counted.any() else 0.0,
        # A clock too coarse to tell an interval tells nothing: that is no number in a file, and is not stable.
        half_width=min(half_width, 1e9),
        stable=stable,
        reference_ms=float(np.median(other[:, 0])),
        peak_memory_mib=peak_memory_mib(),
        energy_mj=float(np.mean(spent)) if spent else None,
    )
