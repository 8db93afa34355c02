"""Pareto ranks, crowding and hypervolume of arrays of objective values; everything is minimised.

Sources: Deb et al. 2002 (NSGA-II: ranks, crowding, constrained dominance). Ranks and hypervolume are moocore's.
"""

import moocore
import numpy as np
import numpy.typing as npt

from search_spaces.arrays import BoolArray, FloatArray, IntArray


def ranks(values: FloatArray, violations: FloatArray | None = None) -> IntArray:
    """Rank (n,) of each row of `values` (n, m), 0 for the front; rows that are not finite rank last.

    With `violations` (n,), 0 where every limit is met, by Deb's rule: all that meet the limits come first, by
    dominance; the others follow, the smaller violation first.
    """
    values = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(values).all(axis=1)
    broken = np.zeros(len(values)) if violations is None else np.asarray(violations, dtype=np.float64)
    feasible = finite & (broken <= 0)
    result = np.zeros(len(values), dtype=np.int64)
    next_rank = 0
    if feasible.any():
        result[feasible] = moocore.pareto_rank(np.ascontiguousarray(values[feasible]))
        next_rank = int(result[feasible].max()) + 1
    infeasible = finite & ~feasible
    if infeasible.any():
        steps, place = np.unique(broken[infeasible], return_inverse=True)
        result[infeasible] = next_rank + place
        next_rank += len(steps)
    result[~finite] = next_rank
    return result


def crowding(values: FloatArray, ranks: IntArray) -> FloatArray:
    """Crowding distance (n,) of each row of `values` (n, m) among the rows of its rank.

    The ends of a front in any objective are infinitely far; a row that is not finite has 0.
    """
    rows = np.flatnonzero(np.isfinite(values).all(axis=1))
    distance = np.zeros(len(values))
    if not len(rows):
        return distance
    for column in values[rows].T:
        order = np.lexsort((column, ranks[rows]))
        value, rank = column[order], ranks[rows][order]
        # All fronts at once: sorted by rank and then value, each front is a run of neighbours.
        new = rank[1:] != rank[:-1]
        first, last = np.concatenate([[True], new]), np.concatenate([new, [True]])
        span = (value[last] - value[first])[np.cumsum(first) - 1]
        inner = np.flatnonzero(~(first | last))
        gaps = np.full(len(rows), np.inf)
        gaps[inner] = (value[inner + 1] - value[inner - 1]) / np.where(span > 0, span, 1.0)[inner]
        distance[rows[order]] += gaps
    return distance


def best_first(values: FloatArray, violations: FloatArray | None = None) -> IntArray:
    """Row indices (n,) by rank, then the more distant, then the earlier row."""
    ranked = ranks(values, violations)
    return np.asarray(np.lexsort((-crowding(values, ranked), ranked)), dtype=np.int64)


def front(values: FloatArray, violations: FloatArray | None = None) -> BoolArray:
    """Which rows (n,) of `values` (n, m) are finite, meet every limit and are dominated by no other such row."""
    feasible = np.isfinite(values).all(axis=1)
    if violations is not None:
        feasible &= np.asarray(violations) <= 0
    return np.asarray(feasible & (ranks(values, violations) == 0))


def hypervolume(values: FloatArray, reference: npt.ArrayLike) -> float:
    """Volume that the rows of `values` (n, m) dominate up to `reference` (m,), exact.

    Rows that are not finite or not below the reference in every objective add nothing.

    Raises:
        ValueError: `reference` has not one finite number an objective.
    """
    bound = np.asarray(reference, dtype=np.float64)
    if bound.shape != (values.shape[1],) or not np.isfinite(bound).all():
        raise ValueError(f"the reference must hold {values.shape[1]} finite numbers, got {reference!r}")
    inside = values[np.isfinite(values).all(axis=1) & (values < bound).all(axis=1)]
    return float(moocore.hypervolume(np.ascontiguousarray(inside), ref=bound)) if len(inside) else 0.0
