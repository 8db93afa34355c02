"""Latencies of networks that a pruning may make, measured once and kept, so that a repeated command chooses alike."""

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Literal

import pydantic

from hardware.inputs import device_of
from nas.objectives import LATENCY, check_values
from nas.pruning.emo_pms import Pruned
from nas.pruning.impairment import Scheme
from nas.records import Record, Scalar, read_record, same_request, write_record
from nas.runs.loading import LoadedRun
from nas.searching.relative_latency import LatencySettings, RelativeLatency
from nas.searching.runners import Runners

ANOTHER_PRUNING = "begin another pruning with --out"
"""What gives exact latencies after a pruning on a busy machine, because what is measured stays as it is."""


class Latencies(Record):
    """`latencies.json`: milliseconds by the channels of the network, as JSON, and how they were measured."""

    version: Literal[1] = 1
    latency_ms: dict[str, float]
    measured: dict[str, Scalar]

    @pydantic.field_validator("latency_ms")
    @classmethod
    def _of_their_kind(cls, latency_ms: dict[str, float]) -> dict[str, float]:
        for value in latency_ms.values():
            check_values({LATENCY: value})
        return latency_ms


class SchemeLatency:
    """Measures the latency of schemes in milliseconds, beside the original; it depends on no weights.

    Args:
        load: loads the run; called only where a network was not measured before.
        pruned: its sub-networks.
        settings: how latency is measured.
        folder: where what was measured is kept.
    """

    def __init__(self, load: Callable[[], LoadedRun], pruned: Pruned, settings: LatencySettings, folder: Path) -> None:
        self._load, self._pruned, self._settings, self._folder = load, pruned, settings, folder

    def __call__(self, scheme: Scheme) -> float:
        """Latency of the network of a scheme; measured only if it was not before.

        Raises:
            UserError: what is kept was measured in another runtime or precision.
        """
        candidate, path = self._pruned.candidate(scheme), self._folder / "latencies.json"
        name = json.dumps(dict(candidate), sort_keys=True)
        known, settings = self._known(path), asdict(self._settings)
        if name not in known:
            known[name] = self._measure(candidate)
            write_record(path, Latencies(latency_ms=known, measured=settings), indent=None)
        return known[name]

    def _known(self, path: Path) -> dict[str, float]:
        if not path.is_file():
            return {}
        found = read_record(path, Latencies, 1 << 26)
        same_request(path, found.measured, asdict(self._settings))
        return dict(found.latency_ms)

    @cached_property
    def _measure(self) -> RelativeLatency:
        loaded = self._load()
        row = loaded.example(1, batch=1)
        deployment = self._settings.deployment(row, device_of(loaded.supernet))
        runners = Runners(loaded.supernet, loaded.networks(), row, deployment)
        return RelativeLatency(runners, self._settings, self._folder / "latency.json", ANOTHER_PRUNING)
