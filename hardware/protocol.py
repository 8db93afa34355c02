"""Measure the latency of a network relative to a reference network, so that measurements at different times compare.

Both networks run alternately in one process, and the result is the median of their ratio, because a slow phase of the
machine affects both. Measuring continues until the 95 % interval of that median is narrow enough; a timing that does
not reach this is marked as unstable.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch

from hardware.counters import energy_meter, peak_memory_mib
from hardware.inputs import call, split
from hardware.latency import Clock, undisturbed, waiter
from hardware.profile import MeasurementProtocol, Timing
from search_spaces.inputs import Inputs

Runnable = Callable[..., object]
# Wall and CPU time of one call, in milliseconds.
CallTimes = tuple[float, float]
EnergyMeter = Callable[[], Callable[[], float]]
# The order of the clocks in `CallTimes`.
_CLOCKS = ("wall", "cpu")


class UnstableError(RuntimeError):
    """A measurement did not become stable; the message says how precise it is and what to do."""


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
    """Measure the times of `network` and its ratio to `reference`, calling both alternately with the same inputs.

    To measure the reference itself, pass it twice: its ratio is then about one, and its interval shows how steady the
    machine is. Gradients and the garbage collector are off; each call ends when the CUDA device of the inputs has
    finished its work.

    Args:
        network: a module or loaded runtime, which accepts the inputs.
        reference: another network in the same runtime, usually the full one.
        inputs: tuple (positional) or mapping (keyword) of tensors.
        protocol: when warm-up and measurement end; None: `MeasurementProtocol()`.
        threads: number of threads of torch, restored afterwards; other runtimes fix theirs when they load a model.
        clock: returns wall time in seconds.
        cpu_clock: returns CPU time of the process in seconds.
        energy: see `energy_meter`; None: the meter of this machine, if it can be read.

    Raises:
        ValueError: fewer than one thread, a clock that does not advance, or a protocol by CPU time for several threads
            or a GPU.
    """
    settings, meter = protocol or MeasurementProtocol(), energy or energy_meter()
    _check_settings(settings, threads, inputs)
    watch = _StopWatch(inputs, clock, cpu_clock, waiter(inputs))
    with undisturbed(threads), torch.inference_mode():
        warm = _warmed_up((network, reference), watch, settings)
        own, other, energies = _rounds(network, reference, watch, settings, meter)
    half_width = _half_width(_ratios(own, other, settings))
    return _timing(np.array(own), np.array(other), energies, half_width, warm and half_width <= settings.tolerance)


def _check_settings(protocol: MeasurementProtocol, threads: int, inputs: Inputs) -> None:
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
    """Return `timing`, or raise UnstableError, which describes it as `what`, if it is not stable."""
    if timing.stable:
        return timing
    raise UnstableError(
        f"the latency of {what} did not get stable: after {len(timing.samples)} rounds its ratio to the reference is "
        f"known to {100 * timing.half_width:.1f} % only; stop what else runs on this machine, or allow more"
    )


class _StopWatch:
    """Calls a network with fixed inputs and returns the wall and CPU time of the call, in milliseconds."""

    def __init__(self, inputs: Inputs, clock: Clock, cpu_clock: Clock, wait: Callable[[], None]) -> None:
        self._inputs, self._clock, self._cpu_clock, self._wait = inputs, clock, cpu_clock, wait

    def __call__(self, network: Runnable) -> CallTimes:
        start, cpu_start = self._clock(), self._cpu_clock()
        call(network, self._inputs)
        self._wait()
        end, cpu_end = self._clock(), self._cpu_clock()
        # A time of zero would make the ratio infinite.
        if end <= start:
            raise ValueError("the clock must advance during a call, it stood still; measure with a finer clock")
        return 1e3 * (end - start), 1e3 * (cpu_end - cpu_start)


def _warmed_up(networks: Sequence[Runnable], watch: _StopWatch, protocol: MeasurementProtocol) -> bool:
    """Call the networks alternately until the times of each are steady; False if that is not reached.

    Runtimes choose algorithms and allocate memory in the first calls, and how many calls that takes differs between
    runtimes, so that no fixed number of warm-up rounds would do.
    """
    clock = _CLOCKS.index(protocol.clock)
    times: list[list[float]] = [[] for _ in networks]
    for _ in range(protocol.warmup_most):
        for network, taken in zip(networks, times, strict=True):
            taken.append(watch(network)[clock])
        if all(_steady(taken, protocol) for taken in times):
            return True
    return protocol.warmup_most == 0


def _steady(times: Sequence[float], protocol: MeasurementProtocol) -> bool:
    """Whether the medians of the last two windows agree within the tolerance of the warm-up."""
    window = protocol.window
    if len(times) < 2 * window:
        return False
    before, now = float(np.median(times[-2 * window : -window])), float(np.median(times[-window:]))
    return abs(now - before) <= protocol.warmup_tolerance * before


def _rounds(
    network: Runnable, reference: Runnable, watch: _StopWatch, protocol: MeasurementProtocol, meter: EnergyMeter | None
) -> tuple[list[CallTimes], list[CallTimes], list[float]]:
    """Times of both networks by round, and the energy of each call of `network` in millijoules.

    At least `protocol.rounds` rounds, then until the interval of the ratio is within the tolerance.
    """
    own: list[CallTimes] = []
    other: list[CallTimes] = []
    energies: list[float] = []
    while len(own) < protocol.rounds_most:
        # Alternate which network is called first. The second may profit from caches that the first has filled, or find
        # its own data evicted; alternating cancels that bias in the median ratio.
        if len(own) % 2:
            other.append(watch(reference))
        # The meter covers the calls of `network` only, not those of the reference.
        stop = meter() if meter is not None else None
        own.append(watch(network))
        if stop is not None:
            energies.append(stop())
        if len(other) < len(own):
            other.append(watch(reference))
        if len(own) >= protocol.rounds and _half_width(_ratios(own, other, protocol)) <= protocol.tolerance:
            break
    return own, other, energies


def _ratios(own: Sequence[CallTimes], other: Sequence[CallTimes], protocol: MeasurementProtocol) -> list[float]:
    """Ratio of each round by the protocol's clock, without rounds in which a coarse CPU clock did not advance."""
    clock = _CLOCKS.index(protocol.clock)
    pairs = [(mine[clock], theirs[clock]) for mine, theirs in zip(own, other, strict=True)]
    return [mine / theirs for mine, theirs in pairs if mine > 0 and theirs > 0]


def _half_width(values: Sequence[float]) -> float:
    """Half-width of the 95 % interval of the median, relative to the median; infinite for fewer than 6 values.

    The bounds of the interval are two order statistics of the values (Hahn and Meeker 1991, *Statistical Intervals*,
    section 5.2). It holds for any distribution; times are skewed, so an interval from a normal one would not.
    """
    rank = _rank(len(values))
    if rank == 0:
        return math.inf
    ordered = sorted(values)
    return (ordered[-rank] - ordered[rank - 1]) / 2 / float(np.median(ordered))


@cache
def _rank(count: int) -> int:
    """Largest r such that the r-th smallest and r-th largest of `count` values enclose the median in 95 % of cases.

    0 if no r does, which is so for fewer than 6 values.
    """
    rank, tail = 0, 0
    while rank < count:
        # Each value is below the median with probability 1/2. Integers avoid the rounding of 2 ** -count.
        tail += math.comb(count, rank)
        if 2 * tail > 0.05 * 2**count:
            break
        rank += 1
    return rank


def _timing(
    own: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    other: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    energies: list[float],
    half_width: float,
    stable: bool,
) -> Timing:
    low, median, high, p95 = (float(value) for value in np.percentile(own[:, 0], (25, 50, 75, 95)))
    # A coarse CPU clock may not advance during a short call; such rounds have no ratio.
    counted = (own[:, 1] > 0) & (other[:, 1] > 0)
    return Timing(
        median_ms=median,
        p95_ms=p95,
        quartiles=(low, high),
        cpu_ms=float(np.median(own[:, 1])),
        noise=(high - low) / median,
        samples=tuple(own[:, 0].tolist()),
        # The median of the ratios by round, not the ratio of the medians, which drift between rounds would distort.
        ratio=float(np.median(own[:, 0] / other[:, 0])),
        cpu_ratio=float(np.median(own[counted, 1] / other[counted, 1])) if counted.any() else 0.0,
        # JSON has no infinity; the tolerance is far smaller, so the timing is unstable either way.
        half_width=min(half_width, 1e9),
        stable=stable,
        reference_ms=float(np.median(other[:, 0])),
        peak_memory_mib=peak_memory_mib(),
        energy_mj=float(np.mean(energies)) if energies else None,
    )
