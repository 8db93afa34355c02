"""The chosen sub-network beside the full one: what a card states, from rows that neither training nor search saw."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hardware import cost, measure_latency
from nas.data.accuracy import PairedDifference, paired_difference, predict
from nas.data.tasks import Labels, Regression
from nas.runs.loading import LoadedRun
from nas.searching.relative_latency import measured_on
from nas.seeds import generator

REPEATS, WARMUP = 30, 5
_RESAMPLES = 2000


@dataclass(frozen=True)
class Figures:
    """Figures of one network: the task's score on the test rows, median latency, exact costs of one input.

    `predicted_latency_ms` is null where no device profile predicts it.
    """

    test_score: float
    latency_ms: float
    macs: int
    parameters: int
    size_mib: float
    predicted_latency_ms: float | None = None

    def named(self, metric: str) -> dict[str, float | None]:
        """The figures by name; the score as `test_accuracy` or `test_r2`."""
        values = asdict(self)
        return {f"test_{metric}": values.pop("test_score"), **values}


@dataclass(frozen=True)
class Comparison:
    """Full and chosen network on the same rows and, interleaved in one process, on the same machine.

    `difference` is chosen minus full: of accuracies in points (hundredths), of R squared in hundredths too. `judged` is
    how many rows, or words, the scores are of, and `unit` which of them; `latency_noise` the larger spread of the two
    (quartiles / median).
    """

    full: Figures
    chosen: Figures
    difference: PairedDifference
    test_rows: int
    latency_noise: float
    measured_on: Mapping[str, Any] = field(default_factory=dict)
    metric: str = "accuracy"
    judged: int = 0
    unit: str = "rows"

    def predicted(self, full_ms: float | None, chosen_ms: float | None) -> "Comparison":
        """The same with the latencies that a device profile predicts for both, None where none does."""
        full = replace(self.full, predicted_latency_ms=full_ms)
        return replace(self, full=full, chosen=replace(self.chosen, predicted_latency_ms=chosen_ms))

    def to_json(self) -> dict[str, Any]:
        """The comparison by the names that the command prints."""
        return {
            "full": self.full.named(self.metric),
            "chosen": self.chosen.named(self.metric),
            f"{self.metric}_difference_points": self.difference.points,
            f"{self.metric}_difference_interval": [self.difference.low, self.difference.high],
            "test_rows": self.test_rows,
            "latency_noise": self.latency_noise,
            "measured_on": dict(self.measured_on),
        }

    def what_the_data_can_tell(self) -> str:
        """One or two sentences on how far the figures can be trusted."""
        low, high = self.difference.low, self.difference.high
        if low > 0 or high < 0:
            verdict = f"the chosen network is {'better' if low > 0 else 'worse'} than the full one"
        else:
            verdict = "the data does not tell the two networks apart"
        difference = f"{self.difference.points:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}"
        if self.metric != "accuracy":
            return (
                f"On the same {self.judged:,} test {self.unit} the difference in R squared is {difference} "
                f"(points are hundredths; paired bootstrap): {verdict}."
            )
        p = self.chosen.test_score
        error = 100 * math.sqrt(p * (1 - p) / self.judged)
        return (
            f"With {self.judged:,} test {self.unit} an accuracy has a standard error of {error:.1f} points; "
            f"on the same {self.unit} the difference is {difference}: {verdict}."
        )


def compare(opened: LoadedRun, chosen: nn.Module, *, tokens: int, threads: int) -> Comparison:
    """Measure an extracted sub-network, on the device of the super-network, and the full one; reads the test rows."""
    device = next(opened.supernet.parameters()).device
    networks = [opened.extract(opened.supernet.space.full()), chosen.eval()]
    example = opened.example(tokens)
    one = {name: value[:1].to(device) for name, value in example.items()}
    latencies = measure_latency(networks, one, repeats=REPEATS, warmup=WARMUP, threads=threads)
    rows = opened.split("test")
    logits = [predict(network, rows, device=device) for network in networks]
    task = rows.task
    costs = [cost(network, example) for network in networks]
    full, small = (
        Figures(task.score(each, rows), latency.median_ms, exact.macs, exact.parameters, exact.size_mib)
        for each, latency, exact in zip(logits, latencies, costs, strict=True)
    )
    how: dict[str, Any] = {**measured_on(torch.device(device)), "batch": 1, "threads": threads}
    if opened.record.kind == "text":
        how["tokens"] = next(iter(one.values())).shape[1]
    theirs, ours = (task.correct(each, rows) for each in logits)
    if isinstance(task, Regression):
        difference, judged = r2_difference(task, logits[1], logits[0], rows.labels), len(rows)
    else:
        assert ours is not None and theirs is not None, "only numbers are neither right nor wrong"
        difference, judged = paired_difference(ours, theirs), len(ours)
    return Comparison(
        full=full,
        chosen=small,
        difference=difference,
        test_rows=len(rows),
        latency_noise=max(latency.noise for latency in latencies),
        measured_on=how,
        metric=task.metric,
        judged=judged,
        unit="rows" if judged == len(rows) else "words",
    )


def r2_difference(
    task: Regression, outputs: npt.ArrayLike, reference: npt.ArrayLike, labels: Labels
) -> PairedDifference:
    """How much higher the R squared of the first is on the same rows, in hundredths, and its 95 % interval.

    The interval is that of the percentiles of a bootstrap over rows, both networks on the same draw (Efron and
    Tibshirani, 1993, chapter 13); the same numbers every time.

    Args:
        task: turns outputs back to the units of the labels.
        outputs: of the first network for all rows (n, 1).
        reference: of the other one (n, 1).
        labels: numbers (n,).
    """
    labels = labels.astype(np.float64)
    squared = [np.square(labels - task.values(each)) for each in (outputs, reference)]
    gain = squared[1] - squared[0]
    rng = generator(0, "bootstrap")

    def hundredths(drawn: npt.NDArray[np.int64]) -> float:
        spread = float(np.square(labels[drawn] - labels[drawn].mean()).sum())
        return 100 * float(gain[drawn].sum()) / spread if spread else math.nan

    found = [hundredths(rng.integers(len(labels), size=len(labels))) for _ in range(_RESAMPLES)]
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return PairedDifference(hundredths(np.arange(len(labels))), float(low), float(high))
