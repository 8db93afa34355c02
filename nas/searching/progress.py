"""The figures that a progress bar shows during a search."""

from collections.abc import Sequence

import numpy as np

from nas.console import Bar
from nas.objectives import quantity
from nas.searching.measurement import Measurement
from nas.searching.study import Study


class SearchFigures:
    """A callback for every result: shows the size of the front, its hypervolume, the best candidate and the predictors.

    The hypervolume is relative to the box between the ideal and the costs of the full network (0 for maximised
    objectives), so that it compares between moments of a search; it appears once the full network is measured. The
    quality of the predictors is Kendall's tau on the candidates measured since the last round, for each objective.
    Known results, which are numbered 0, count in the figures but not in the progress.
    """

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._study: Study | None = None

    def begin(self, study: Study) -> None:
        """Start or continue a search, whose results are in `study`."""
        self._study = study

    def __call__(self, measurement: Measurement, number: int) -> None:
        """Show the figures after the `number`-th result."""
        assert self._study is not None, "a search begins before it has results"
        front = self._study.front()
        figures = [f"front {len(front)}"]
        reference = reference_point(self._study)
        if reference is not None:
            figures.append(f"hypervolume {self._study.hypervolume(reference) / box_of(reference):.3f}")
        if front:
            best = {quantity(name): value for name, value in front[0].values.items()}
            figures.append("best " + ", ".join(f"{known.label} {known.shown(value)}" for known, value in best.items()))
        figures += self._predictors(self._study)
        self._bar.update(number, ", ".join(figures))

    def _predictors(self, study: Study) -> list[str]:
        newest = study.quality[-1] if study.quality else {}
        taus = {name: quality.kendall_tau for name, quality in newest.items() if quality.kendall_tau is not None}
        said = ", ".join(f"{quantity(name).label} {tau:.2f}" for name, tau in taus.items())
        return [f"rank correlation of predictions: {said}"] if taus else []


def reference_point(study: Study) -> list[float] | None:
    """The reference of the hypervolumes of a search, raw values; None where the full network was not measured.

    It is a little beyond the full network's costs, and zero of what is maximised.
    """
    full = study.find(study.space.full())
    if full is None:
        return None
    costs = {o.name: full.values[o.name] for o in study.objectives if o.direction == "minimize"}
    worse = {name: value + 0.05 * abs(value) for name, value in costs.items()}
    return [worse.get(o.name, 0.0) for o in study.objectives]


def box_of(reference: Sequence[float]) -> float:
    """The volume between a reference and the ideal; the length of a maximised objective is 1, as for an accuracy."""
    return float(np.prod([abs(value) or 1.0 for value in reference]))
