"""Latency of candidates in a search: comparable from process to process, because the full network runs beside each.

Only what was measured interleaved in one process compares, and a search may be killed and go on in another process. So
every candidate is measured interleaved with the full network, and its latency is the median of its ratio to the full
network's, times the latency of the full network as measured once, when the search began. That number is kept beside the
study (`<study>.latency.json`), with the range of the full network's medians since: their drift.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from hardware.deployment import Deployment
from hardware.inputs import Inputs, is_tokens, split
from hardware.latency import measure_latency
from hardware.profile import Device, Precision
from nas.errors import UserError
from nas.files import read_json, write_json_atomic
from nas.searching.runners import Runnable, Runners
from search_spaces import Candidate
from search_spaces.arrays import FloatArray


@dataclass(frozen=True)
class LatencySettings:
    """How latency, energy and memory of candidates are measured, at batch 1.

    Args:
        tokens: length of the text; images keep their size.
        threads: of the runtime.
        repeats: timed rounds for every candidate; the full network alone gets three times as many, once.
        warmup: rounds before them.
        runtime: what runs the network: pytorch (eager), onnxruntime or openvino.
        precision: in which it computes. A network in int8 is calibrated on its example: its latency does not depend on
            the ranges of the activations.
    """

    tokens: int = 128
    threads: int = 1
    repeats: int = 9
    warmup: int = 1
    runtime: Literal["pytorch", "onnxruntime", "openvino"] = "pytorch"
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        for name, least in (("tokens", 1), ("threads", 1), ("repeats", 1), ("warmup", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} of latency must be at least {least}, got {getattr(self, name)}")

    def deployment(self, row: Inputs, device: torch.device) -> Deployment:
        """What runs the networks.

        Args:
            row: an input of one row; its length counts, not `tokens`, which a model may not read.
            device: that the super-network is on.
        """
        on: Device = "cuda" if device.type == "cuda" and self.runtime != "openvino" else "cpu"
        return Deployment(self.runtime, self.precision, self.threads, 1, _tokens(row), on)


@dataclass(frozen=True)
class Reference:
    """The full network's latency: once when the search began, and the range of its medians beside candidates since.

    A file that holds it holds also how and on what it was measured.
    """

    median_ms: float
    lowest_ms: float
    highest_ms: float
    count: int

    def seen(self, median_ms: float) -> "Reference":
        """With one more median in the range."""
        low, high = min(self.lowest_ms, median_ms), max(self.highest_ms, median_ms)
        return replace(self, lowest_ms=low, highest_ms=high, count=self.count + 1)


def reference_path(storage: Path) -> Path:
    """Where the full network's latency is kept, given the study's file."""
    return storage.with_name(f"{storage.name}.latency.json")


class RelativeLatency:
    """Latency of a candidate relative to the full network measured beside it, times the latter's stored latency.

    Args:
        runners: the networks as they run.
        settings: how they are timed.
        path: where the full network's latency is kept; None: in memory.

    Raises:
        UserError: the file is damaged, or of a search that measured otherwise.
    """

    def __init__(self, runners: Runners, settings: LatencySettings, path: Path | None) -> None:
        self._runners, self._settings, self._path = runners, settings, path
        self._conditions = _recorded(runners.deployment, settings)
        self._reference = None if path is None else _read_reference(path, self._conditions)

    def __call__(self, candidate: Candidate) -> float:
        """Milliseconds."""
        reference = self._reference or self._first()
        small, full = self._interleaved([self._runners(candidate), self._runners.full()], 1)
        self._keep(reference.seen(float(np.median(full))))
        return reference.median_ms * float(np.median(small / full))

    def _first(self) -> Reference:
        median = float(np.median(self._interleaved([self._runners.full()], 3)[0]))
        return Reference(median, median, median, 1)

    def _interleaved(self, networks: list[Runnable], times: int) -> list[FloatArray]:
        found = measure_latency(
            networks,
            self._runners.row,
            repeats=times * self._settings.repeats,
            warmup=self._settings.warmup,
            threads=self._settings.threads,
        )
        return [np.array(each.samples) for each in found]

    def _keep(self, reference: Reference) -> None:
        self._reference = reference
        if self._path is not None:
            write_json_atomic(self._path, {**asdict(reference), "measured_on": self._conditions})


def _tokens(row: Inputs) -> int | None:
    """Length of a text (second axis of integer inputs), None for images."""
    args, kwargs = split(row)
    lengths = [value.shape[1] for value in (*args, *kwargs.values()) if is_tokens(value)]
    return int(lengths[0]) if lengths else None


def _recorded(deployment: Deployment, settings: LatencySettings) -> dict[str, object]:
    """What a latency depends on, as the file of the full network's latency holds it."""
    conditions = deployment.conditions()
    runtime = f"{deployment.runtime} {deployment.version()}"
    rounds = {"repeats": settings.repeats, "warmup": settings.warmup}
    del conditions["runtime_version"]
    return {**conditions, "runtime": runtime, "tokens": deployment.tokens, **rounds}


def _read_reference(path: Path, conditions: Mapping[str, object]) -> Reference | None:
    """What an earlier process stored; raises UserError where it is damaged or measured otherwise."""
    if not path.is_file():
        return None
    try:
        stored = read_json(path)
        there = dict(stored["measured_on"])
        low, high = float(stored["lowest_ms"]), float(stored["highest_ms"])
        found = Reference(float(stored["median_ms"]), low, high, int(stored["count"]))
        if not 0 < found.median_ms < math.inf:
            raise ValueError(f"median_ms is {found.median_ms}")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"the latency of the full network in {path} is damaged: {error}; start a new search") from error
    other = [key for key in conditions if there.get(key) != conditions[key]]
    if other:
        key = other[0]
        raise UserError(
            f"latencies compare only when measured alike: this search was begun with {key} {there.get(key)}, "
            f"here it is {conditions[key]}; go on there or start a new search"
        )
    return found
