"""Scaling of a whole search with the number of workers: default LINAS with evaluations that sleep, 1 to 8 Ray workers.

All searches have the lag of several workers. A search that is begun with one worker has a lag of 1 else, and then the
studies would differ.

Efficiency is the total sleeping time divided by the number of workers and by the wall time from the start of the first
evaluation to the end of the search. So it includes proposals, fits and storage, but not the start of Ray. The studies
must be identical for all numbers of workers.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from harness import Figures

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
    """An evaluation that sleeps and returns smooth values; it writes the time of its first call to `folder`."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder, self._seconds = folder, seconds

    def __call__(self, candidates: Sequence[Candidate]) -> np.ndarray:
        (self._folder / f"{time.time():.6f}-{time.perf_counter_ns()}").touch()
        time.sleep(self._seconds * len(candidates))
        rows = SPACE.encode(candidates).astype(float)
        gain = np.sqrt(rows + 1) @ np.linspace(0.2, 1.0, rows.shape[1])
        return np.stack([1 - np.exp(-gain / 20), 5 + rows @ np.linspace(1.0, 0.3, rows.shape[1])], axis=1)


def run(workers: int, *, evaluations: int, seconds: float) -> tuple[float, list[tuple[float, ...]]]:
    """Run one search; returns its wall seconds from the first evaluation on, and its measurements in order."""
    with tempfile.TemporaryDirectory() as folder:
        starts = Path(folder) / "starts"
        starts.mkdir()
        study = nas.linas(
            SPACE,
            Sleeping(starts, seconds),
            OBJECTIVES,
            budget=evaluations,
            seed=0,
            storage=Path(folder) / "study.journal",
            lag=Pace.lag,
            workers=nas.Workers(workers, ray=True),
            on_result=(ends := _Last()),
        )
        began = min(float(path.name.partition("-")[0]) for path in starts.iterdir())
    return ends.at - began, [tuple(m.values.values()) for m in study.measurements]


class _Last:
    """Records the time of the last result."""

    at = 0.0

    def __call__(self, measurement: nas.Measurement, number: int) -> None:
        self.at = time.time()


def worker_efficiency(
    workers: Sequence[int] = WORKERS, *, evaluations: int = EVALUATIONS, seconds: float = SECONDS
) -> Figures:
    """`worker_efficiency_<n>` for each number of workers: ideal over measured wall time.

    Raises:
        ValueError: two studies differ.
    """
    figures, studies = {}, []
    for count in workers:
        wall, study = run(count, evaluations=evaluations, seconds=seconds)
        figures[f"worker_efficiency_{count}"] = evaluations * seconds / count / wall
        studies.append(study)
    if any(study != studies[0] for study in studies):
        raise ValueError(f"searches with {tuple(workers)} workers must measure the same, they did not")
    return figures
