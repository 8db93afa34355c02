"""The chosen sub-network beside the full one: what a card states, from rows that neither training nor search saw."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from hardware import cost, measure_latency
from nas.accuracy import PairedDifference, accuracy, paired_difference, predict
from nas.opened_run import OpenedRun
from nas.relative_latency import measured_on

REPEATS, WARMUP = 30, 5


@dataclass(frozen=True)
class Figures:
    """Figures of one network: accuracy on the test rows (0..1), median latency, exact costs of one input.

    `predicted_latency_ms` is null as long as nothing predicts it.
    """

    test_accuracy: float
    latency_ms: float
    macs: int
    parameters: int
    size_mib: float
    predicted_latency_ms: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Full and chosen network on the same rows and, interleaved in one process, on the same machine.

    `difference` is chosen minus full, in points; `latency_noise` the larger spread of the two (quartiles / median).
    """

    full: Figures
    chosen: Figures
    difference: PairedDifference
    test_rows: int
    latency_noise: float
    measured_on: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The comparison by the names that the command prints."""
        return {
            "full": asdict(self.full),
            "chosen": asdict(self.chosen),
            "accuracy_difference_points": self.difference.points,
            "accuracy_difference_interval": [self.difference.low, self.difference.high],
            "test_rows": self.test_rows,
            "latency_noise": self.latency_noise,
            "measured_on": dict(self.measured_on),
        }

    def what_the_data_can_tell(self) -> str:
        """One or two sentences on how far the figures can be trusted."""
        p = self.chosen.test_accuracy
        error = 100 * math.sqrt(p * (1 - p) / self.test_rows)
        low, high = self.difference.low, self.difference.high
        if low > 0 or high < 0:
            verdict = f"the chosen network is {'better' if low > 0 else 'worse'} than the full one"
        else:
            verdict = "the data does not tell the two networks apart"
        difference = f"{self.difference.points:+.1f} points, 95 % interval {low:+.1f} to {high:+.1f}"
        return (
            f"With {self.test_rows:,} test rows an accuracy has a standard error of {error:.1f} points; "
            f"on the same rows the difference is {difference}: {verdict}."
        )


def compare(opened: OpenedRun, chosen: nn.Module, *, tokens: int, threads: int) -> Comparison:
    """Measure an extracted sub-network, on the device of the super-network, and the full one; reads the test rows."""
    device = next(opened.supernet.parameters()).device
    networks = [opened.supernet.model.eval(), chosen.eval()]
    example = opened.example(tokens)
    one = {name: value[:1].to(device) for name, value in example.items()}
    latencies = measure_latency(networks, one, repeats=REPEATS, warmup=WARMUP, threads=threads)
    rows = opened.split("test")
    logits = [predict(network, rows, device=device) for network in networks]
    right = [np.asarray(each).argmax(axis=1) == rows.labels for each in logits]
    costs = [cost(network, example) for network in networks]
    figures = [
        Figures(accuracy(each, rows.labels), latency.median_ms, exact.macs, exact.parameters, exact.size_mib)
        for each, latency, exact in zip(logits, latencies, costs, strict=True)
    ]
    how: dict[str, Any] = {**measured_on(torch.device(device)), "batch": 1, "threads": threads}
    if opened.record.kind == "text":
        how["tokens"] = next(iter(one.values())).shape[1]
    noise = max(latency.noise for latency in latencies)
    difference = paired_difference(right[1], right[0])
    full, small = figures
    return Comparison(full, small, difference, len(rows), noise, how)
