"""Scaling of an evolution of layers with the number of workers: trials that sleep, on 1, 2 and 4 Ray workers.

All evolutions have the lag of the most workers, and must be identical. Efficiency is the total sleeping time divided by
the number of workers and by the wall time from the first trial to the last result, so it includes proposals,
fingerprints and storage, but not the start of Ray.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from harness import Figures

from nas.evolving.domain import LayerDomain
from nas.searching.ageing import AgeingConfig, ageing_evolution
from nas.searching.measurement import Measurement, Objective
from nas.workers import Workers
from search_spaces.graphs import LayerGraph

WORKERS = (1, 2, 4)
OBJECTIVES = (Objective("accuracy a", "maximize"), Objective("accuracy b", "maximize"))


class Sleeping:
    """A trial that sleeps and returns two numbers of a layer; it writes the time of its first call to `folder`."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder, self._seconds = folder, seconds

    def __call__(self, graphs: Sequence[LayerGraph]) -> np.ndarray:
        (self._folder / f"{time.time():.6f}-{time.perf_counter_ns()}").touch()
        time.sleep(self._seconds * len(graphs))
        digits = [[int(graph.key[:8], 16), int(graph.key[8:16], 16)] for graph in graphs]
        return np.array(digits, dtype=np.float64) / 16**8


def run(workers: int, *, evaluations: int, seconds: float) -> tuple[float, list[tuple[str, tuple[float, ...]]]]:
    """One evolution; its wall seconds from the first trial on, and its layers with their values in order."""
    last = _Last()
    with tempfile.TemporaryDirectory() as folder:
        starts = Path(folder) / "starts"
        starts.mkdir()
        study = ageing_evolution(
            LayerDomain("batch"),
            Sleeping(starts, seconds),
            OBJECTIVES,
            budget=evaluations,
            seed=0,
            config=AgeingConfig(population=max(2, evaluations // 4), tournament_share=0.25),
            storage=Path(folder) / "study.journal",
            lag=max(WORKERS),
            workers=Workers(workers, ray=True),
            on_result=last,
        )
        began = min(float(path.name.partition("-")[0]) for path in starts.iterdir())
    return last.at - began, [(each.candidate.key, tuple(each.values.values())) for each in study.measurements]


class _Last:
    """Records the time of the last result."""

    at = 0.0

    def __call__(self, measurement: Measurement[LayerGraph], number: int) -> None:
        self.at = time.time()


def worker_efficiency(*, evaluations: int, seconds: float) -> Figures:
    """`worker_efficiency_<n>` for 1, 2 and 4 workers: ideal over measured wall time.

    Raises:
        ValueError: two evolutions differ.
    """
    figures, histories = {}, []
    for count in WORKERS:
        wall, history = run(count, evaluations=evaluations, seconds=seconds)
        figures[f"worker_efficiency_{count}"] = evaluations * seconds / count / wall
        histories.append(history)
    if any(history != histories[0] for history in histories):
        raise ValueError(f"evolutions with {WORKERS} workers must try the same layers, they did not")
    return figures
