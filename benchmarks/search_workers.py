"""Scaling of a whole search with the number of workers: default LINAS with evaluations that sleep, 1 to 8 Ray workers.

All searches have the lag of several workers. A search that is begun with one worker has a lag of 1 else, and then the
studies would differ.

An efficiency (`scaling.py`) includes proposals, fits and storage. The studies must be identical for all numbers of
workers.
"""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from harness import Figures
from scaling import Last, Sleep, efficiencies

import nas
from nas.searching.pace import Pace
from search_spaces import Candidate, Choice, Space

WORKERS = (1, 2, 4, 8)
EVALUATIONS = 320
SECONDS = 1.0

SPACE = Space(
    (
        Choice("depth", (4, 6, 8)),
        *(Choice(f"heads.{i}", (2, 4, 6, 8)) for i in range(4)),
        *(Choice(f"heads.{i}", (2, 4, 6, 8), active_if=("depth", (6, 8))) for i in range(4, 6)),
        *(Choice(f"ffn.{i}", (128, 256, 512)) for i in range(16)),
    )
)
OBJECTIVES = (nas.Objective("accuracy", "maximize"), nas.Objective("latency_ms"))


class Sleeping:
    """An evaluation that sleeps and returns smooth values."""

    def __init__(self, sleep: Sleep) -> None:
        self._sleep = sleep

    def __call__(self, candidates: Sequence[Candidate]) -> np.ndarray:
        self._sleep(len(candidates))
        rows = SPACE.encode(candidates).astype(float)
        gain = np.sqrt(rows + 1) @ np.linspace(0.2, 1.0, rows.shape[1])
        return np.stack([1 - np.exp(-gain / 20), 5 + rows @ np.linspace(1.0, 0.3, rows.shape[1])], axis=1)


def run(workers: int, *, evaluations: int, seconds: float) -> tuple[float, list[tuple[float, ...]]]:
    """Run one search; returns its wall seconds from the first evaluation on, and its measurements in order."""
    with tempfile.TemporaryDirectory() as folder:
        sleep = Sleep(Path(folder) / "starts", seconds)
        study = nas.linas(
            SPACE,
            Sleeping(sleep),
            OBJECTIVES,
            budget=evaluations,
            seed=0,
            storage=Path(folder) / "study.journal",
            lag=Pace.lag,
            workers=nas.Workers(workers, ray=True),
            on_result=(last := Last()),
        )
        wall = last.at - sleep.began()
    return wall, [tuple(m.values.values()) for m in study.measurements]


def worker_efficiency(
    workers: Sequence[int] = WORKERS, *, evaluations: int = EVALUATIONS, seconds: float = SECONDS
) -> Figures:
    """`worker_efficiency_<n>` for each number of workers; ValueError where two studies differ."""
    return efficiencies(partial(run, evaluations=evaluations, seconds=seconds), workers, evaluations * seconds)
