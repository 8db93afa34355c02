"""How much sooner more workers end a search whose evaluations sleep: for the benchmarks that time it.

Efficiency is the total sleeping time divided by the number of workers and by the wall time from the start of the first
evaluation to the last result. So it includes what the search does, but not the start of Ray. What is found must be the
same for all numbers of workers.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import Figures


class Sleep:
    """Sleeps for evaluations, and writes the time of each call to a folder; workers receive it.

    Args:
        folder: where times are written, made if it is not there.
        seconds: for each candidate.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._seconds = folder, seconds

    def __call__(self, candidates: int) -> None:
        """Sleep for so many candidates."""
        (self._folder / f"{time.time():.6f}-{time.perf_counter_ns()}").touch()
        time.sleep(self._seconds * candidates)

    def began(self) -> float:
        """The time of the first call."""
        return min(float(path.name.partition("-")[0]) for path in self._folder.iterdir())


class Last:
    """Records the time of the last result."""

    at = 0.0

    def __call__(self, measurement: object, number: int) -> None:
        """Called after each result."""
        self.at = time.time()


def efficiencies(run: Callable[[int], tuple[float, object]], workers: Sequence[int], slept_s: float) -> Figures:
    """`worker_efficiency_<n>` for each number of workers: ideal over measured wall time.

    Args:
        run: number of workers -> wall seconds, and what was found in order.
        workers: the numbers.
        slept_s: all sleeping of one run, in seconds.

    Raises:
        ValueError: two runs find something else.
    """
    figures, found = {}, []
    for count in workers:
        wall, history = run(count)
        figures[f"worker_efficiency_{count}"] = slept_s / count / wall
        found.append(history)
    if any(history != found[0] for history in found):
        raise ValueError(f"searches with {tuple(workers)} workers must find the same, they did not")
    return figures
