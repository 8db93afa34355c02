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

import numpy as np
import torch
from torch import nn

from hardware.inputs import Inputs, device_of, is_tokens, map_inputs, split
from hardware.latency import measure_latency
from hardware.machine import processor, usable_cores
from nas.errors import UserError
from nas.files import read_json, write_json_atomic
from search_spaces import Candidate, Supernet
from search_spaces.arrays import FloatArray


@dataclass(frozen=True)
class LatencySettings:
    """How latency is measured: eager PyTorch, float32, batch 1.

    Args:
        tokens: length of the text; images keep their size.
        threads: of PyTorch.
        repeats: timed rounds for every candidate; the full network alone gets three times as many, once.
        warmup: rounds before them.
    """

    tokens: int = 128
    threads: int = 1
    repeats: int = 9
    warmup: int = 1

    def __post_init__(self) -> None:
        for name, least in (("tokens", 1), ("threads", 1), ("repeats", 1), ("warmup", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} of latency must be at least {least}, got {getattr(self, name)}")


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
    """Latency of a candidate relative to the full network measured beside it, times the latter's stored latency."""

    def __init__(self, supernet: Supernet, row: Inputs, settings: LatencySettings, place: Path | None) -> None:
        device = device_of(supernet)
        self._supernet, self._settings = supernet, settings
        self._row = map_inputs(row, lambda value: value.to(device))
        self._path = place
        self._how = {**measured_on(device), "batch": 1, **asdict(settings), "tokens": _tokens(row)}
        self._reference = None if self._path is None else _read_reference(self._path, self._how)

    def __call__(self, candidate: Candidate) -> float:
        """Milliseconds."""
        reference = self._reference or self._first()
        small, full = self._interleaved([self._supernet.extract(candidate).eval(), self._supernet.model], 1)
        self._keep(reference.seen(float(np.median(full))))
        return reference.median_ms * float(np.median(small / full))

    def _first(self) -> Reference:
        median = float(np.median(self._interleaved([self._supernet.model], 3)[0]))
        return Reference(median, median, median, 1)

    def _interleaved(self, modules: list[nn.Module], times: int) -> list[FloatArray]:
        found = measure_latency(
            modules,
            self._row,
            repeats=times * self._settings.repeats,
            warmup=self._settings.warmup,
            threads=self._settings.threads,
        )
        return [np.array(each.samples) for each in found]

    def _keep(self, reference: Reference) -> None:
        self._reference = reference
        if self._path is not None:
            write_json_atomic(self._path, {**asdict(reference), "measured_on": self._how})


def _tokens(row: Inputs) -> int | None:
    """Length of a text (second axis of integer inputs), None for images."""
    args, kwargs = split(row)
    lengths = [value.shape[1] for value in (*args, *kwargs.values()) if is_tokens(value)]
    return int(lengths[0]) if lengths else None


def measured_on(device: torch.device) -> dict[str, str]:
    """Machine, runtime and precision that a latency belongs to."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()[0]
    machine = f"{name}, {usable_cores()} cores"
    return {"machine": machine, "runtime": f"pytorch {torch.__version__}", "precision": "float32"}


def _read_reference(path: Path, how: Mapping[str, object]) -> Reference | None:
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
    other = [key for key in how if there.get(key) != how[key]]
    if other:
        key = other[0]
        raise UserError(
            f"latencies compare only when measured alike: this search was begun with {key} {there.get(key)}, "
            f"here it is {how[key]}; go on there or start a new search"
        )
    return found
