"""The rule of `patience`: whether a search has stopped improving."""

import numpy as np

from nas.searching import pareto
from search_spaces.arrays import FloatArray

LEAST_GAIN = 1e-3
"""Relative growth of the hypervolume below which it counts as unchanged."""


def stagnant(values: FloatArray, violations: FloatArray, patience: int) -> bool:
    """Whether the last `patience` results increased the hypervolume by at most `LEAST_GAIN`.

    The hypervolume is that of the feasible candidates, with every objective scaled to its measured range. Its reference
    point lies a tenth of the range beyond the worst value, so that the ends of the front contribute as well.

    Args:
        values: minimised values (n, m), in the order of the results.
        violations: by how much each candidate breaks the limits (n,).
        patience: number of last results to consider.

    Returns:
        False as long as none of the earlier results is feasible.
    """
    good = np.isfinite(values).all(axis=1)
    feasible = good & (violations <= 0)
    if len(values) <= patience or not feasible[:-patience].any():
        return False
    low, high = values[good].min(axis=0), values[good].max(axis=0)
    scaled = (values - low) / np.where(high > low, high - low, 1.0)
    reference = np.full(values.shape[1], 1.1)
    now = pareto.hypervolume(scaled[feasible], reference)
    before = pareto.hypervolume(scaled[:-patience][feasible[:-patience]], reference)
    return bool(now <= before * (1 + LEAST_GAIN))
