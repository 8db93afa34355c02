"""The figures that a progress bar shows: what matters while fine-tuning and while searching."""

from collections.abc import Sequence

import numpy as np

from nas.learning.training import Step
from nas.runs.console import Bar
from nas.searching.evaluation import Measurement, Objective
from nas.searching.study import Study
from search_spaces import Space

_SMOOTHING = 0.95


class TrainingFigures:
    """Called with every step: shows the loss, smoothed, and the learning rate."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._loss: float | None = None

    def __call__(self, step: Step) -> None:
        """One more step is done."""
        before = step.loss if self._loss is None else self._loss
        self._loss = _SMOOTHING * before + (1 - _SMOOTHING) * step.loss
        self._bar.update(step.step, f"loss {self._loss:.3f}, learning rate {step.learning_rate:.1e}")


class SearchFigures:
    """Called with every result: shows the size of the front, its hypervolume, and the best within the limits.

    Known results, which are numbered 0, count for the figures and not for the progress.

    The hypervolume is a share of the box between the full network's costs (and zero of what is maximised) and the
    ideal, so that it can be compared from one moment of a search to the next; shown once the full network is measured.
    """

    def __init__(self, bar: Bar, space: Space, objectives: Sequence[Objective]) -> None:
        self._bar, self._study = bar, Study(space, objectives)
        self._largest = space.largest()
        self._reference: list[float] | None = None

    def __call__(self, measurement: Measurement, number: int) -> None:
        """One more candidate was measured, the `number`-th."""
        self._study.commit(measurement)
        if measurement.candidate == self._largest and measurement.state == "measured":
            self._reference = [
                0.0 if o.direction == "maximize" else 1.05 * measurement.values[o.name] for o in self._study.objectives
            ]
        front = self._study.front()
        figures = [f"front {len(front)}"]
        if self._reference is not None:
            figures.append(f"hypervolume {self._study.hypervolume(self._reference) / self._box():.3f}")
        if front:
            best = ", ".join(f"{name} {value:.4g}" for name, value in front[0].values.items())
            figures.append(f"best {best}")
        self._bar.update(number, ", ".join(figures))

    def _box(self) -> float:
        """Volume of the box: the length of a maximised objective is taken as 1, as for an accuracy."""
        return float(np.prod([value or 1.0 for value in self._reference or [1.0]]))
