"""What a search found, and how its fine-tuning went, as pictures; the only home of matplotlib."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nas.learning.finetuned import ProbeRecord
from nas.objectives import is_latency, quantity
from nas.reporting.table import Marks
from nas.searching.measurement import Measurement, Objective
from nas.searching.study import Study

_INK, _GREY, _PALE, _FRONT, _CHOSEN = "#222222", "#9aa3ad", "#d3d8dd", "#1f6fb4", "#d9480f"


def draw_front(study: Study, marks: Marks, path: Path, *, title: str, latency_of: str = "") -> None:
    """Draw all measured candidates over the first two objectives as a PNG, the front and the marks set off.

    Args:
        study: with one objective it is drawn over the order of measurement.
        marks: the full network and the chosen candidate.
        path: of the PNG; replaced as a whole.
        title: above the picture.
        latency_of: what a latency was measured with, shown on its axis, e.g. "batch 1, 128 tokens, 1 thread".
    """
    with _picture(path, title) as axes:
        _draw(axes, study, marks, latency_of)
        _finish(axes)


def draw_training(probes: Sequence[ProbeRecord], path: Path, *, epoch_steps: int, metric: str, title: str) -> None:
    """Draw the scores of the largest, the smallest and some random sub-networks over the epochs, as a PNG.

    Args:
        probes: at least one; a score that is no number leaves a gap.
        path: of the PNG; replaced as a whole.
        epoch_steps: steps of one pass over the training rows.
        metric: of the scores: accuracy (drawn in %) or r2.
        title: above the picture.
    """
    scale = 100.0 if metric == "accuracy" else 1.0
    epochs = [probe.step / epoch_steps for probe in probes]

    def scaled(values: Sequence[float | None]) -> list[float]:
        return [math.nan if value is None else scale * value for value in values]

    with _picture(path, title) as axes:
        for number in range(len(probes[0].random)):
            label = {} if number else {"label": "random sub-networks"}
            values = scaled([probe.random[number] if number < len(probe.random) else None for probe in probes])
            axes.plot(epochs, values, color=_GREY, linewidth=1.0, marker="o", markersize=2.5, zorder=2, **label)
        for name, values, color in (
            ("largest", scaled([probe.largest for probe in probes]), _INK),
            ("smallest", scaled([probe.smallest for probe in probes]), _CHOSEN),
        ):
            axes.plot(epochs, values, color=color, linewidth=1.8, marker="o", markersize=4, label=name, zorder=3)
        axes.set_xlabel("epochs", color=_INK)
        axes.set_ylabel(f"{_axis(metric)} while training", color=_INK)
        axes.set_xlim(left=0)
        _finish(axes)


@contextmanager
def _picture(path: Path, title: str) -> Iterator[Any]:
    """Axes to draw on; the PNG is written when all was drawn."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), dpi=150, layout="constrained")
    try:
        yield axes
        axes.set_title(title, loc="left", fontsize=12, color=_INK, pad=12)
        _as_written(figure)
        beside = path.with_name(f".{path.name}.part.png")
        figure.savefig(beside, facecolor="white")
        beside.replace(path)
    finally:
        pyplot.close(figure)


def _as_written(figure: Any) -> None:
    """Names of models and devices are shown as they are: a dollar sign begins no mathematics."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)


def _finish(axes: Any) -> None:
    axes.grid(color="#eceff2", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(0.08)
    axes.legend(frameon=False, fontsize=9, loc="best")


def _draw(axes: Any, study: Study, marks: Marks, latency_of: str) -> None:
    vertical, horizontal = study.objectives[0], study.objectives[1] if len(study.objectives) > 1 else None
    measured = [m for m in study.measurements if m.state == "measured"]
    number = {measurement.candidate: index for index, measurement in enumerate(study.measurements, 1)}

    def at(members: Sequence[Measurement]) -> tuple[list[float], list[float]]:
        across = [_scaled(m, horizontal) if horizontal else float(number.get(m.candidate, 0)) for m in members]
        return across, [_scaled(m, vertical) for m in members]

    front = study.front()
    on_front = {m.candidate for m in front}
    meets = [m for m in measured if _meets(m, study.objectives)]
    beyond = [m for m in measured if not _meets(m, study.objectives)]
    rest = [m for m in meets if m.candidate not in on_front]
    if beyond:
        axes.scatter(*at(beyond), s=22, facecolors="none", edgecolors=_PALE, label=f"beyond a limit ({len(beyond)})")
    axes.scatter(*at(rest), s=22, color=_GREY, alpha=0.7, linewidths=0, label=f"measured ({len(rest)})", zorder=2)
    line = sorted(zip(*at(front), strict=True))
    if horizontal is not None and line:
        axes.step(*zip(*line, strict=True), where=_step(vertical, horizontal), color=_FRONT, linewidth=1.2, zorder=3)
    axes.scatter(*at(front), s=40, color=_FRONT, label=f"Pareto front ({len(front)})", zorder=4)
    _mark(axes, at, marks, study.objectives[:2])
    _limits(axes, vertical, horizontal)
    axes.set_ylabel(_label(vertical, latency_of), color=_INK)
    axes.set_xlabel(_label(horizontal, latency_of) if horizontal else "order of measurement", color=_INK)


def _mark(axes: Any, at: Any, marks: Marks, shown: Sequence[Objective]) -> None:
    if marks.full is not None:
        label = f"full network: {_figures(marks.full, shown)}"
        axes.scatter(*at([marks.full]), s=150, marker="*", color=_INK, label=label, zorder=6)
    if marks.chosen is not None:
        ring = {"facecolors": "none", "edgecolors": _CHOSEN, "linewidths": 2.2, "zorder": 5}
        axes.scatter(*at([marks.chosen]), s=150, label=f"chosen: {_figures(marks.chosen, shown)}", **ring)


def _figures(measurement: Measurement, shown: Sequence[Objective]) -> str:
    return ", ".join(_figure(o.name, measurement.values[o.name]) for o in shown)


def _limits(axes: Any, vertical: Objective, horizontal: Objective | None) -> None:
    style = {"color": _CHOSEN, "linewidth": 1.0, "linestyle": (0, (4, 3)), "alpha": 0.7, "zorder": 1}
    if vertical.limit is not None:
        axes.axhline(vertical.limit * quantity(vertical.name).scale, **style)
    if horizontal is not None and horizontal.limit is not None:
        axes.axvline(horizontal.limit * quantity(horizontal.name).scale, **style)


def _step(vertical: Objective, horizontal: Objective) -> str:
    """How a staircase over rising x stays on the dominated side of the front."""
    return "post" if horizontal.direction == "minimize" else "pre"


def _scaled(measurement: Measurement, objective: Objective) -> float:
    return measurement.values[objective.name] * quantity(objective.name).scale


def _meets(measurement: Measurement, objectives: Sequence[Objective]) -> bool:
    return all(o.limit is None or o.sign * measurement.values[o.name] <= o.sign * o.limit for o in objectives)


def _label(objective: Objective, latency_of: str) -> str:
    label = _axis(objective.name)
    return f"{label}: {latency_of}" if is_latency(objective.name) and latency_of else label


def _axis(name: str) -> str:
    """Label and unit; a score says of which rows it is."""
    known = quantity(name)
    if known.source != "score":
        return known.axis
    return f"{known.label} on the validation rows" + (f" ({known.unit})" if known.unit else "")


def _figure(name: str, value: float) -> str:
    """A value in a legend: short, with its unit, or with its name where it has none."""
    known = quantity(name)
    return known.shown(value) if known.unit else f"{known.shown(value)} {known.label}"
