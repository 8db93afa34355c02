"""The chosen sub-network beside the full one, on test rows: what an export states of the files that it wrote.

Three networks are compared: `today`, the full network in eager PyTorch float32, which is what its user runs now;
`full`, the full network in the deployment; and `chosen`. Where precision goes by layer, `full` is in float32 there, and
`serving_int8` is a fourth: the full network with all layers in INT8. Each is loaded anew from its files.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hardware import measure_latency
from hardware.cost import Cost
from hardware.waiting import Waiting
from nas.bounded import finite
from nas.data.accuracy import Logits, PairedDifference, paired_difference, predict
from nas.data.split import Split
from nas.data.tasks import Labels, Regression
from nas.exporting.deployed import Deployed
from nas.seeds import generator
from nas.sentences import points
from search_spaces.inputs import Inputs

REPEATS, WARMUP = 30, 5
_RESAMPLES = 2000


@dataclass(frozen=True)
class Figures:
    """Figures of one network.

    Args:
        test_score: by the metric of the task, on the test rows.
        latency_ms: median of wall time in the conditions of the comparison.
        macs: for one row of the input.
        parameters: of the network, whatever their precision.
        size_mib: of the files that its runtime loads.
        predicted_latency_ms: by a device profile; None where none predicts it.
    """

    test_score: float
    latency_ms: float
    macs: int
    parameters: int
    size_mib: float
    predicted_latency_ms: float | None = None

    def named(self, metric: str) -> dict[str, float | None]:
        """The figures by name, None where one is no number; the score as `test_accuracy` or `test_r2`."""
        values = {name: finite(value) for name, value in asdict(self).items()}
        return {f"test_{metric}": values.pop("test_score"), **values}


@dataclass(frozen=True)
class Comparison:
    """Figures of the same rows and, interleaved in one process, of the same machine.

    Args:
        today, full, chosen: see the module.
        difference: chosen minus today: of accuracies in points (hundredths), of R squared in hundredths too.
        test_rows: how many there are.
        latency_noise: the largest spread of the latencies (quartiles / median).
        conditions: what the latencies depend on, see `Deployment.conditions`; today's are in PyTorch float32.
        others: further networks by name, see the module.
        metric: of the task.
        judged: how many rows, or words, the scores are of.
        unit: which of them.
        waiting: of the calls that the latencies are of, where those ran on the processor.
    """

    today: Figures
    full: Figures
    chosen: Figures
    difference: PairedDifference
    test_rows: int
    latency_noise: float
    conditions: Mapping[str, str | int] = field(default_factory=dict)
    others: Mapping[str, Figures] = field(default_factory=dict)
    metric: str = "accuracy"
    judged: int = 0
    unit: str = "rows"
    waiting: Waiting = field(default_factory=Waiting, compare=False)

    def predicted(self, full_ms: float | None, chosen_ms: float | None) -> "Comparison":
        """The same with the latencies that a device profile predicts for both, None where none does."""
        full = replace(self.full, predicted_latency_ms=full_ms)
        return replace(self, full=full, chosen=replace(self.chosen, predicted_latency_ms=chosen_ms))

    def networks(self) -> dict[str, Figures]:
        """All by name, the chosen one last."""
        return {"today": self.today, "full": self.full, **self.others, "chosen": self.chosen}

    def to_json(self) -> dict[str, Any]:
        """The comparison by the names that the command prints, None where a figure is no number."""
        difference = self.difference
        return {
            **{name: figures.named(self.metric) for name, figures in self.networks().items()},
            f"{self.metric}_difference_points": finite(difference.points),
            f"{self.metric}_difference_interval": [finite(difference.low), finite(difference.high)],
            "speedup": finite(self.full.latency_ms / self.chosen.latency_ms),
            "speed_up_over_today": finite(self.today.latency_ms / self.chosen.latency_ms),
            "test_rows": self.test_rows,
            "latency_noise": finite(self.latency_noise),
            "deployment": dict(self.conditions),
        }

    def what_the_data_can_tell(self) -> str:
        """One or two sentences on how far the figures can be trusted."""
        low, high = self.difference.low, self.difference.high
        if not all(map(math.isfinite, (self.chosen.test_score, self.difference.points, low, high))):
            return (
                f"The {self.judged:,} test {self.unit} do not tell the two networks apart: a score on them is no "
                "number, because an output is none or all labels are equal."
            )
        if low > 0 or high < 0:
            verdict = f"the chosen network is {'better' if low > 0 else 'worse'} than the full one"
        else:
            verdict = "the data does not tell the two networks apart"
        difference = f"{points(self.difference.points)} points, 95 % interval {points(low)} to {points(high)}"
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


@dataclass(frozen=True)
class Contender:
    """One network of a comparison: its files, loaded, and the exact costs of the network that they hold."""

    deployed: Deployed
    costs: Cost


def compare(
    today: Contender,
    full: Contender,
    chosen: Contender,
    rows: Split,
    one_input: Inputs,
    others: Mapping[str, Contender] | None = None,
) -> Comparison:
    """Measure the networks, all in turns; reads the labels of the test rows.

    Args:
        today: the full network in eager PyTorch float32.
        full: the full network in the deployment; the same object as `today` where that is the deployment.
        chosen: the sub-network in the deployment.
        rows: of the test split.
        one_input: of the deployment's batch, by name; for the latencies.
        others: further networks by name.
    """
    named = dict(others or {})
    # The same files are not measured twice: they would differ by noise alone.
    distinct = [*([today] if full is today else [today, full]), *named.values(), chosen]
    deployment = chosen.deployed.deployment
    runs = [each.deployed.run for each in distinct]
    latencies = measure_latency(runs, one_input, repeats=REPEATS, warmup=WARMUP, threads=deployment.threads)
    waiting = Waiting()
    if deployment.device == "cpu":
        for latency in latencies:
            waiting.add(latency)
    logits = [predict(run, rows) for run in runs]
    figures = [
        Figures(
            rows.task.score(outputs, rows),
            latency.median_ms,
            each.costs.macs,
            each.costs.parameters,
            each.deployed.size_mib,
        )
        for each, latency, outputs in zip(distinct, latencies, logits, strict=True)
    ]
    difference, judged = _difference(logits[-1], logits[0], rows)
    return Comparison(
        today=figures[0],
        full=figures[0 if full is today else 1],
        others=dict(zip(named, figures[-1 - len(named) : -1], strict=True)),
        chosen=figures[-1],
        difference=difference,
        test_rows=len(rows),
        latency_noise=max(latency.noise for latency in latencies),
        conditions=deployment.conditions(),
        metric=rows.task.metric,
        judged=judged,
        unit="rows" if judged == len(rows) else "words",
        waiting=waiting,
    )


def _difference(chosen: Logits, reference: Logits, rows: Split) -> tuple[PairedDifference, int]:
    """Chosen minus reference, and how many rows or words it is of."""
    task = rows.task
    if isinstance(task, Regression):
        return r2_difference(task, chosen, reference, rows.labels), len(rows)
    ours, theirs = task.correct(chosen, rows), task.correct(reference, rows)
    assert ours is not None and theirs is not None, "only numbers are neither right nor wrong"
    return paired_difference(ours, theirs), len(ours)


def r2_difference(
    task: Regression, outputs: npt.ArrayLike, reference: npt.ArrayLike, labels: Labels
) -> PairedDifference:
    """How much higher the R squared of the first is on the same rows, in hundredths, and its 95 % interval.

    All of them are NaN where the labels are equal, of which R squared is no number.

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

    found = np.array([hundredths(rng.integers(len(labels), size=len(labels))) for _ in range(_RESAMPLES)])
    known = found[np.isfinite(found)]
    low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (math.nan, math.nan)
    return PairedDifference(hundredths(np.arange(len(labels))), float(low), float(high))
