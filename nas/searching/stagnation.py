"""When a search has stopped finding anything: the rule of `patience`."""

import numpy as np

from nas.searching import pareto
from search_spaces.arrays import FloatArray

LEAST_GAIN = 1e-3
"""A hypervolume that grew by a smaller share has not grown."""


def stagnant(values: FloatArray, violations: FloatArray, patience: int) -> bool:
    """Whether the last `patience` rows of minimised `values` (n, m) enlarged the hypervolume by less than 0.1 %.

    The volume is that of rows within the limits (`violations` (n,) 0), every objective scaled to its measured range, up
    to a tenth of the range beyond the worst. Never while nothing before those rows is within the limits.
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
