"""Quality of latency predictors: the default one, sums of parts measured one at a time, DyNAS-T's, and MACs alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from harness import Figures

from nas.profiling.prediction import PREDICTOR_KINDS, LatencyPredictor
from nas.profiling.subject import Subject
from nas.searching.features import one_hot_features
from predictors import Additive, coverage, kendall_tau, mape, published_chooser
from search_spaces import Candidate, Space
from search_spaces.arrays import FloatArray, IntArray

Predict = Callable[[IntArray], tuple[FloatArray, FloatArray]]


@dataclass(frozen=True)
class Measured:
    """Encoded candidates (n, k) and their latencies relative to the full network's (n,)."""

    rows: IntArray
    ratios: FloatArray

    def first(self, count: int) -> "Measured":
        return Measured(self.rows[:count], self.ratios[:count])


def twice(first: Measured, second: Measured) -> tuple[Measured, Figures]:
    """Mean of two measurements of the same candidates, and figures on how far the two agree."""
    mean = (first.ratios + second.ratios) / 2
    noise = 100 * float(np.median(np.abs(first.ratios - second.ratios) / mean))
    return Measured(first.rows, mean), {"noise": noise, "tau_repeat": kendall_tau(first.ratios, second.ratios)}


def near_tau(truth: FloatArray, predicted: FloatArray, within: float = 0.1) -> float | None:
    """Kendall's tau over pairs whose true values differ by at most the share `within`; None without such pairs."""
    larger = np.maximum(truth[:, None], truth)
    near = np.abs(truth[:, None] - truth) <= within * larger
    signs, ours = (np.sign(values[:, None] - values) * near for values in (truth, predicted))
    scale = float(np.sqrt((signs**2).sum()) * np.sqrt((ours**2).sum()))
    return float((signs * ours).sum()) / scale if scale else None


def judged(predict: Predict, held: Measured) -> Figures:
    mean, spread = predict(held.rows)
    near = near_tau(held.ratios, mean)
    found = {"mape": mape(held.ratios, mean), "tau": kendall_tau(held.ratios, mean)}
    found |= {} if near is None else {"tau_near": near}
    return found | {"coverage": coverage(held.ratios, mean, spread)}


def alone(space: Space) -> list[Candidate]:
    """Candidates that differ from the full network in one choice at its smallest option, or in the number of blocks."""
    full = space.largest()
    found = [full]
    for choice in space.choices:
        options = choice.options if choice.name.startswith("depth") else choice.options[:1]
        found += [space.candidate({**full, choice.name: option}) for option in options[: len(choice.options) - 1]]
    return list(dict.fromkeys(found))


class TableSums:
    """Predicts the full network's latency minus the saving of each choice, in proportion to how far it is lowered.

    Like a lookup table of separately measured blocks, it is not fitted to whole sub-networks. Choices of dropped blocks
    save nothing further.
    """

    def __init__(self, space: Space, measured: Measured) -> None:
        self._space = space
        known = {row.tobytes(): ratio for row, ratio in zip(measured.rows, measured.ratios, strict=True)}
        most = space.option_counts - 1
        self._full = known[space.canonical(most[None])[0].tobytes()]
        self._saved: list[FloatArray] = []
        for column, choice in enumerate(space.choices):
            saved = np.zeros(len(choice.options))
            for option in range(len(saved) - 1):
                row = most.copy()
                row[column] = option
                ratio = known.get(space.canonical(row[None])[0].tobytes())
                saved[option] = np.nan if ratio is None else self._full - ratio
            if len(saved) > 1 and np.isnan(saved).any():
                sizes = np.array([float(size) for size in choice.options])
                saved = saved[0] * (sizes[-1] - sizes) / (sizes[-1] - sizes[0])
            self._saved.append(saved)

    def __call__(self, rows: IntArray) -> tuple[FloatArray, FloatArray]:
        active = self._space.active(rows)
        total = np.full(len(rows), self._full)
        for column, saved in enumerate(self._saved):
            total -= np.where(active[:, column], saved[rows[:, column]], 0.0)
        return np.maximum(total, 1e-3), np.zeros(len(rows))


def compared(
    subject: Subject,
    profiled: Measured,
    parts: Measured,
    held: Measured,
    macs: Callable[[IntArray], FloatArray],
) -> dict[str, Figures]:
    """Figures of `judged` on the held-out candidates for each predictor, by the name of the predictor."""
    space = subject.supernet.space
    hot = one_hot_features(space)
    ours = {kind: LatencyPredictor(space, subject.kernels, kind) for kind in PREDICTOR_KINDS}
    ways: dict[str, Predict] = {
        kind: predictor.fit(profiled.rows, profiled.ratios).predict for kind, predictor in ours.items()
    }
    line = Additive((1e-9,)).fit(macs(profiled.rows)[:, None], profiled.ratios)
    published = published_chooser().fit(hot.of(profiled.rows), profiled.ratios)
    ways |= {
        "macs": lambda rows: line.predict(macs(rows)[:, None]),
        "dynas": lambda rows: published.predict(hot.of(rows)),
        "sums": TableSums(space, parts),
    }
    return {name: judged(predict, held) for name, predict in ways.items()}


def named(model: str, runtime: str, found: dict[str, Figures], count: str) -> Figures:
    """Name all figures by model and runtime; those of other predictors than the default begin with their name."""
    figures: Figures = {}
    for way, values in found.items():
        label = "" if way == "combined" else f"{way}_"
        figures |= {f"{label}{name}{count}_{model}_{runtime}": value for name, value in values.items()}
    return figures


def targets(model: str, runtimes: Sequence[str]) -> dict[str, str]:
    found = {"profile_seconds": "at most 360 (minilm)"}
    for runtime in runtimes:
        found[f"mape_{model}_{runtime}"] = "at most the larger of 3 and 1.5 times the noise"
        found[f"tau_{model}_{runtime}"] = "at least 0.95"
        found[f"tau_near_{model}_{runtime}"] = "not below macs_ and sums_"
        found[f"noise_{model}_{runtime}"] = "at most 5, else not measured"
    return found
