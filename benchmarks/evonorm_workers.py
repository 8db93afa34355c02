"""Scaling of an evolution of layers with the number of workers: trials of Ray Tune that sleep, on 1, 2 and 4 workers.

All evolutions have the lag of the most workers. They run as `nas.evonorm` runs its own, so an efficiency (`scaling.py`)
includes what Tune takes for each trial. A trial sleeps for as long as the training of a layer takes at least.
"""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from harness import Figures
from scaling import Last, Sleep, efficiencies

from nas.evolving.domain import LayerDomain
from nas.searching.ageing import AgeingConfig, ageing_evolution
from nas.searching.measurement import Measurement, Objective
from nas.tuned import tuned
from nas.workers import Workers
from search_spaces.graphs import LayerGraph

WORKERS = (1, 2, 4)
OBJECTIVES = (Objective("accuracy a", "maximize"), Objective("accuracy b", "maximize"))


class Sleeping:
    """A trial that sleeps and returns two numbers of a layer."""

    def __init__(self, sleep: Sleep) -> None:
        self._sleep = sleep

    def __call__(self, graphs: Sequence[LayerGraph]) -> np.ndarray:
        self._sleep(len(graphs))
        digits = [[int(graph.key[:8], 16), int(graph.key[8:16], 16)] for graph in graphs]
        return np.array(digits, dtype=np.float64) / 16**8


def shown(measured: Sequence[Measurement[LayerGraph]]) -> dict[str, float]:
    """What Tune's tables show of a trial."""
    return {name: value for each in measured for name, value in each.values.items()}


def run(workers: int, *, evaluations: int, seconds: float) -> tuple[float, object]:
    """One evolution; its wall seconds from the first trial on, and its layers with their values in order."""
    last = Last()
    with tempfile.TemporaryDirectory() as folder:
        sleep = Sleep(Path(folder) / "starts", seconds)
        with tuned(Workers(workers, ray=True), Path(folder) / "trials", shown) as pool:
            study = ageing_evolution(
                LayerDomain("batch"),
                Sleeping(sleep),
                OBJECTIVES,
                budget=evaluations,
                seed=0,
                config=AgeingConfig(population=max(2, evaluations // 4), tournament_share=0.25),
                storage=Path(folder) / "study.journal",
                lag=max(WORKERS),
                pool=pool,
                on_result=last,
            )
        wall = last.at - sleep.began()
    return wall, [(each.candidate.key, tuple(each.values.values())) for each in study.measurements]


def worker_efficiency(*, evaluations: int, seconds: float) -> Figures:
    """`worker_efficiency_<n>` for 1, 2 and 4 workers; ValueError where two evolutions differ."""
    return efficiencies(partial(run, evaluations=evaluations, seconds=seconds), WORKERS, evaluations * seconds)
