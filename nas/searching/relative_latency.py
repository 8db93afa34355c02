"""Latency of candidates in a search, comparable across processes because each is measured beside the full network.

Latencies compare only if they are measured interleaved in one process, but a search may be interrupted and continued in
another process. Every candidate is therefore measured interleaved with the full network, and its latency is

    median over rounds of (candidate / full network) * latency of the full network, measured once at the start.

The latter is stored beside the study (`<study>.latency.json`), together with the range of the full network's medians
since then, which shows the drift of the machine.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from hardware.deployment import Deployment
from hardware.inputs import is_tokens, split
from hardware.latency import measure_latency
from hardware.profile import Precision
from hardware.protocol import Runnable
from hardware.registry import NAMES, device_for
from hardware.waiting import Waiting
from nas.console import say
from nas.errors import UserError
from nas.files import read_json, write_json_atomic
from nas.searching.runners import Runners
from nas.sentences import one_of
from search_spaces import Candidate
from search_spaces.arrays import FloatArray
from search_spaces.inputs import Inputs

ANOTHER_SEARCH = "begin another search"
"""What gives exact latencies after a search on a busy machine, because what is measured stays as it is."""

_ENOUGH_CALLS = 60
"""So many calls tell whether other programs disturb them; fewer may have met one hiccup of the machine."""


@dataclass(frozen=True)
class LatencySettings:
    """How latency, energy and memory of candidates are measured, at a batch size of 1.

    Args:
        tokens: length of the text in tokens; ignored for images.
        threads: number of threads of the runtime.
        repeats: number of timed rounds of every candidate; the full network alone is measured once with three times as
            many.
        warmup: number of rounds before these that are not timed.
        runtime: pytorch (eager), onnxruntime or openvino.
        precision: precision of the computation. Networks in int8 are calibrated on the example input, because latency
            does not depend on the ranges of activations.

    Raises:
        UserError: a number below its minimum.
    """

    tokens: int = 128
    threads: int = 1
    repeats: int = 9
    warmup: int = 1
    runtime: str = "pytorch"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        for name, least in (("tokens", 1), ("threads", 1), ("repeats", 1), ("warmup", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} of latency must be at least {least}, got {getattr(self, name)}")
        if self.runtime not in NAMES:
            raise UserError(f"the runtime of latency must be {one_of(NAMES, self.runtime)}")

    def deployment(self, row: Inputs, device: torch.device) -> Deployment:
        """The deployment that these settings describe.

        Args:
            row: an input of one row. Its length is used in place of `tokens`, which may exceed what the model accepts.
            device: device of the super-network.
        """
        on = device_for(self.runtime, device)
        return Deployment(self.runtime, self.precision, self.threads, 1, _tokens(row), on)


@dataclass(frozen=True)
class FullLatency:
    """Latency of the full network in milliseconds.

    Args:
        median_ms: its median at the start of the search, which all latencies are relative to.
        lowest_ms: smallest median beside a candidate since then.
        highest_ms: largest median beside a candidate since then.
        count: number of these medians.
    """

    median_ms: float
    lowest_ms: float
    highest_ms: float
    count: int

    def with_median(self, median_ms: float) -> "FullLatency":
        """Include one more median in the range."""
        low, high = min(self.lowest_ms, median_ms), max(self.highest_ms, median_ms)
        return replace(self, lowest_ms=low, highest_ms=high, count=self.count + 1)


def reference_path(storage: Path) -> Path:
    """Path of the full network's latency, next to the file of the study."""
    return storage.with_name(f"{storage.name}.latency.json")


class RelativeLatency:
    """Measures the latency of candidates relative to the full network.

    Where the calls wait for a processor that other programs use, that is said once.

    Args:
        runners: the networks in their deployment.
        settings: how they are timed.
        path: file of the full network's latency; None keeps it in memory only.
        anew: what to do for exact latencies once the machine is idle, as the end of a sentence.

    Raises:
        UserError: the file is damaged, or was measured under other conditions.
    """

    def __init__(
        self, runners: Runners, settings: LatencySettings, path: Path | None, anew: str = ANOTHER_SEARCH
    ) -> None:
        self._runners, self._settings, self._path, self._anew = runners, settings, path, anew
        self._conditions = _conditions(runners.deployment, settings)
        self._full = None if path is None else _read_full_latency(path, self._conditions)
        # What a GPU computes takes no CPU time, which then tells nothing.
        self._waiting = Waiting() if runners.deployment.device == "cpu" else None

    def __call__(self, candidate: Candidate) -> float:
        """Latency of a candidate in milliseconds."""
        stored = self._full or self._measure_full()
        small, full = self._interleaved([self._runners(candidate), self._runners.full()], 1)
        self._store(stored.with_median(float(np.median(full))))
        self._say_if_busy()
        # The median of ratios, not the ratio of medians: both networks of a round meet the same state of the machine.
        return stored.median_ms * float(np.median(small / full))

    def _measure_full(self) -> FullLatency:
        # More rounds than for a candidate, because an error here changes all latencies of the search.
        median = float(np.median(self._interleaved([self._runners.full()], 3)[0]))
        return FullLatency(median, median, median, 1)

    def _interleaved(self, networks: list[Runnable], times: int) -> list[FloatArray]:
        found = measure_latency(
            networks,
            self._runners.row,
            repeats=times * self._settings.repeats,
            warmup=self._settings.warmup,
            threads=self._settings.threads,
        )
        if self._waiting is not None:
            for each in found:
                self._waiting.add(each)
        return [np.array(each.samples) for each in found]

    def _say_if_busy(self) -> None:
        if self._waiting is None or self._waiting.calls < _ENOUGH_CALLS:
            return
        warning = self._waiting.warning(
            f"the latencies are too high and less exact; stop those programs and {self._anew}"
        )
        if warning is not None:
            say(warning)
            self._waiting = None

    def _store(self, full: FullLatency) -> None:
        self._full = full
        if self._path is not None:
            write_json_atomic(self._path, {**asdict(full), "measured_on": self._conditions})


def _tokens(row: Inputs) -> int | None:
    """Length of a text in tokens; None for images."""
    args, kwargs = split(row)
    lengths = [value.shape[1] for value in (*args, *kwargs.values()) if is_tokens(value)]
    return int(lengths[0]) if lengths else None


def _conditions(deployment: Deployment, settings: LatencySettings) -> dict[str, object]:
    """The conditions that a latency depends on, as stored with the full network's latency."""
    conditions = deployment.conditions()
    runtime = f"{deployment.runtime} {deployment.version()}"
    rounds = {"repeats": settings.repeats, "warmup": settings.warmup}
    del conditions["runtime_version"]
    return {**conditions, "runtime": runtime, "tokens": deployment.tokens, **rounds}


def _read_full_latency(path: Path, conditions: Mapping[str, object]) -> FullLatency | None:
    """Read the latency that an earlier process stored; None if there is none.

    Raises:
        UserError: the file is damaged, or was measured under other conditions.
    """
    if not path.is_file():
        return None
    try:
        stored = read_json(path)
        there = dict(stored["measured_on"])
        low, high = float(stored["lowest_ms"]), float(stored["highest_ms"])
        found = FullLatency(float(stored["median_ms"]), low, high, int(stored["count"]))
        if not 0 < found.median_ms < math.inf:
            raise ValueError(f"median_ms is {found.median_ms}")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"the latency of the full network in {path} is damaged: {error}; start a new search") from error
    # Ratios compare under the same conditions only: smaller networks gain more on some machines than on others.
    other = [key for key in conditions if there.get(key) != conditions[key]]
    if other:
        key = other[0]
        raise UserError(
            f"latencies compare only when measured alike: this search was begun with {key} {there.get(key)}, "
            f"here it is {conditions[key]}; go on there or start a new search"
        )
    return found
