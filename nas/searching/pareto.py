"""Pareto ranks, crowding distance and hypervolume of arrays of objective values; all objectives are minimised.

Source: Deb et al. 2002 (NSGA-II, doi:10.1109/4235.996017) for ranks, crowding distance and constrained dominance. The
non-dominated sorting and the hypervolume are computed by `moocore`.
"""

import moocore
import numpy as np
import numpy.typing as npt

from search_spaces.arrays import BoolArray, FloatArray, IntArray


def ranks(values: FloatArray, violations: FloatArray | None = None) -> IntArray:
    """Rank of each row by non-dominated sorting, with Deb's rule for limits.

    Rows that meet the limits come first, ranked by dominance. The others follow, ranked by their violation. Rows with a
    value that is not finite rank last.

    Args:
        values: objective values (n, m).
        violations: total violation of the limits (n,), 0 where all are met; None: there are no limits.

    Returns:
        Ranks (n,), 0 for the front.
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
        distinct, order = np.unique(broken[infeasible], return_inverse=True)
        result[infeasible] = next_rank + order
        next_rank += len(distinct)
    result[~finite] = next_rank
    return result


def crowding(values: FloatArray, ranks: IntArray) -> FloatArray:
    """Crowding distance of each row among the rows of its rank (Deb et al. 2002, section III-B).

    Args:
        values: objective values (n, m).
        ranks: rank of each row (n,).

    Returns:
        Distances (n,): infinite at the ends of a front in any objective, 0 for rows that are not finite.
    """
    rows = np.flatnonzero(np.isfinite(values).all(axis=1))
    distance = np.zeros(len(values))
    if not len(rows):
        return distance
    for column in values[rows].T:
        order = np.lexsort((column, ranks[rows]))
        value, rank = column[order], ranks[rows][order]
        # Sorted by rank and then by value, each front is a contiguous run, so all fronts are handled at once instead of
        # in a loop over ranks.
        new = rank[1:] != rank[:-1]
        first, last = np.concatenate([[True], new]), np.concatenate([new, [True]])
        # Gaps are divided by the range of their front. It is 0 where all values are equal; then all gaps are 0 too.
        span = (value[last] - value[first])[np.cumsum(first) - 1]
        inner = np.flatnonzero(~(first | last))
        gaps = np.full(len(rows), np.inf)
        gaps[inner] = (value[inner + 1] - value[inner - 1]) / np.where(span > 0, span, 1.0)[inner]
        distance[rows[order]] += gaps
    return distance


def best_first(values: FloatArray, violations: FloatArray | None = None) -> IntArray:
    """Row indices (n,) sorted by rank, then by decreasing crowding distance, then by index."""
    ranked = ranks(values, violations)
    return np.asarray(np.lexsort((-crowding(values, ranked), ranked)), dtype=np.int64)


def front(values: FloatArray, violations: FloatArray | None = None) -> BoolArray:
    """Which rows form the Pareto front.

    Args:
        values: objective values (n, m).
        violations: total violation of the limits (n,), 0 where all are met; None: there are no limits.

    Returns:
        True (n,) for rows that are finite, meet all limits and are dominated by no other such row.
    """
    feasible = np.isfinite(values).all(axis=1)
    if violations is not None:
        feasible &= np.asarray(violations) <= 0
    return np.asarray(feasible & (ranks(values, violations) == 0))


def hypervolume(values: FloatArray, reference: npt.ArrayLike) -> float:
    """Exact hypervolume: the volume between the rows of `values` and a reference point.

    Rows that are not finite, or not below the reference in each objective, add nothing.

    Args:
        values: objective values (n, m).
        reference: the reference point (m,).

    Raises:
        ValueError: `reference` does not consist of m finite numbers.
    """
    bound = np.asarray(reference, dtype=np.float64)
    if bound.shape != (values.shape[1],) or not np.isfinite(bound).all():
        raise ValueError(f"the reference must hold {values.shape[1]} finite numbers, got {reference!r}")
    inside = values[np.isfinite(values).all(axis=1) & (values < bound).all(axis=1)]
    return float(moocore.hypervolume(np.ascontiguousarray(inside), ref=bound)) if len(inside) else 0.0
