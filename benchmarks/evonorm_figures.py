"""What the EvoNorm benchmark concludes from networks trained with one layer or another, and its tables."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from evonorm_trainings import Outcome
from harness import Figures

from nas.data.accuracy import paired_difference

FOUND = "found"
"""The name of the best layer that the search found."""
GAINS = {"gain_batch4_points": "BN-ReLU", "gain_batch4_over_gn_points": "GN-ReLU"}
TARGETS = {
    "training_saved": "at least 5",
    "false_rejects": "at most 0.02",
    "gain_batch4_points": "at least 3, further 6",
    "gain_batch4_over_gn_points": "at least 0",
    "graph_cost_ratio": "at most 1.3",
    "worker_efficiency_4": "at least 0.9",
}


def gains(found: Mapping[str, Mapping[str, Any]]) -> Figures:
    """Points that the found layer has over another one at the small batch size, mean over seeds.

    The interval is over the test rows of all seeds, as if their networks were the only ones there could be. How far
    seeds differ is in the table.
    """
    made: Figures = {}
    for name, other in GAINS.items():
        rights = ([outcome.right for outcome in outcomes(found[layer])] for layer in (FOUND, other))
        gain = paired_difference(*map(np.concatenate, rights))
        made |= {name: gain.points, f"{name}_low": gain.low, f"{name}_high": gain.high}
    return made


def outcomes(of_layer: Mapping[str, Any]) -> list[Outcome]:
    """The outcomes of a layer's seeds at the small batch size."""
    return [Outcome.from_json(each) for each in of_layer["seeds"]]


def cost_figures(found: Mapping[str, Mapping[str, float]]) -> Figures:
    """The worst ratio of a graph's time to that of the module by hand, and that of each layer."""
    ratios = {name: each["graph_ms"] / each["module_ms"] for name, each in found.items()}
    return {"graph_cost_ratio": max(ratios.values())} | {f"graph_cost_ratio_{n}": value for n, value in ratios.items()}


def small_batch_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """By layer the accuracies of its seeds at the small batch size, and what chose its learning rate."""
    width = max(map(len, found))
    lines = [f"{'':{width}}   rate   mean (deviation) of test rows, %; each seed; validation rows of seed 0 by rate"]
    for name, each in found.items():
        seeds = outcomes(each)
        tests = [100 * outcome.test for outcome in seeds]
        deviation = statistics.stdev(tests) if len(tests) > 1 else 0.0
        rates = ", ".join(f"{rate:g}: {100 * value:.1f}" for rate, value in each["rates"])
        failed = sum(outcome.failed for outcome in seeds)
        listed = " ".join(f"{value:.1f}" for value in tests) + (f", {failed} broke off" if failed else "")
        mean = f"{statistics.mean(tests):5.1f} ({deviation:.1f})"
        lines.append(f"{name:{width}}  {each['rate']:5g}  {mean}; {listed}; {rates}")
    return "\n".join(lines)


def ordinary_table(found: Mapping[str, Mapping[str, Any]], unseen: str) -> str:
    """By layer the accuracy in each network at the ordinary batch size."""
    width = max(map(len, found))
    names: Sequence[str] = list(next(iter(found.values())))
    heads = [name + (", unseen" if name == unseen else "") for name in names]
    lines = [f"{'':{width}}  " + "  ".join(heads) + "  (test rows, %, one seed)"]
    for name, each in found.items():
        values = "  ".join(
            f"{100 * Outcome.from_json(each[of]).test:{len(head)}.1f}" for of, head in zip(names, heads, strict=True)
        )
        lines.append(f"{name:{width}}  {values}")
    return "\n".join(lines)
