"""What hidden states as a second teacher are worth: fixed random sub-networks after trainings with and without them."""

from dataclasses import replace

import numpy as np
from harness import Figures
from instatune_common import Bench, Result, hits

from nas.seeds import generator
from search_spaces import Candidate, Supernet, exact_costs
from search_spaces.arrays import FloatArray

COUNT, SAVED = 16, (0.4, 0.6)
"""Number of sub-networks, and the range of what they save."""
_Z = 1.96


def hidden_states(bench: Bench) -> Result:
    """Train a super-network without hidden states too, and score the same sub-networks of both.

    Returns:
        `gain` by row: share of the sub-networks that have it right with hidden states, less that without, over
        validation and test rows; `ratio`: of the seconds of both trainings.
    """
    drop_order, problem = bench.ordered()["drop_order"], bench.problem
    alone = replace(problem.config, hidden_weight=None)
    ways = {"ours": bench.tuned("ours", drop_order), "outputs": bench.tuned("outputs", drop_order, alone)}

    def compute() -> Result:
        supernet = bench.supernet("ours", drop_order)
        candidates, right = _compared(bench, supernet), {}
        for way in ways:
            bench.restore(way, supernet.model)
            supernet.eval()
            right[way] = np.mean([_hits(bench, supernet, candidate) for candidate in candidates], axis=0)
        seconds = [float(ways[way]["second_seconds"]) for way in ("ours", "outputs")]
        return {"gain": (right["ours"] - right["outputs"]).tolist(), "ratio": seconds[0] / seconds[1]}

    return bench.stage("hidden_states", compute, config=repr(problem.config))


def hidden_figures(results: list[Result]) -> Figures:
    """Gain in points, paired over the rows of all seeds, with its 95 % interval; and the cost of a training."""
    gain = 100 * np.concatenate([result["gain"] for result in results])
    half = _Z * float(gain.std(ddof=1)) / np.sqrt(len(gain))
    return {
        "hidden_gain_points": float(gain.mean()),
        "hidden_gain_low": float(gain.mean() - half),
        "hidden_gain_high": float(gain.mean() + half),
        "hidden_step_ratio": float(np.mean([result["ratio"] for result in results])),
    }


def _compared(bench: Bench, supernet: Supernet) -> list[Candidate]:
    """The same random sub-networks at each call."""
    rng = generator(0, "compared")
    macs = exact_costs(supernet, bench.problem.placed_example)["macs"]
    full = macs(supernet.space.encode([supernet.space.largest()]))[0]
    found: list[Candidate] = []
    while len(found) < COUNT:
        candidate = supernet.space.sample(rng)
        if SAVED[0] <= 1 - macs(supernet.space.encode([candidate]))[0] / full <= SAVED[1]:
            found.append(candidate)
    return found


def _hits(bench: Bench, supernet: Supernet, candidate: Candidate) -> FloatArray:
    splits = (bench.problem.splits["validation"], bench.problem.splits["test"])
    return np.concatenate([hits(bench.logits(supernet, candidate, rows), rows) for rows in splits]).astype(np.float64)
