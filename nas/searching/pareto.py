"""Pareto ranks, crowding and hypervolume of arrays of objective values; everything is minimised.

Sources: Deb et al. 2002 (NSGA-II: ranks, crowding, constrained dominance). Ranks and hypervolume are moocore's.
"""

import moocore
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


def dominance(values: FloatArray) -> BoolArray:
    """Whether row i of `values` (n, m) dominates row j, (n, n); a row with NaN neither dominates nor is dominated."""
    no_worse = (values[:, None, :] <= values[None, :, :]).all(axis=2)
    better = (values[:, None, :] < values[None, :, :]).any(axis=2)
    return np.asarray(no_worse & better)


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
    distance = np.zeros(len(values))
    for rank in np.unique(ranks):
        rows = np.flatnonzero((ranks == rank) & np.isfinite(values).all(axis=1))
        if len(rows):
            distance[rows] = _crowding_of_front(values[rows])
    return distance


def _crowding_of_front(front: FloatArray) -> FloatArray:
    if len(front) <= 2:
        return np.full(len(front), np.inf)
    order = np.argsort(front, axis=0, kind="stable")
    sorted_values = np.take_along_axis(front, order, axis=0)
    span = sorted_values[-1] - sorted_values[0]
    gaps = np.full(front.shape, np.inf)
    gaps[1:-1] = (sorted_values[2:] - sorted_values[:-2]) / np.where(span > 0, span, 1.0)
    distance = np.zeros(front.shape)
    np.put_along_axis(distance, order, gaps, axis=0)
    return np.asarray(distance.sum(axis=1))


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


def most_volume(values: FloatArray, front: FloatArray, reference: npt.ArrayLike, count: int) -> IntArray:
    """Rows of `values` (n, m), at most `count`, that add most hypervolume to `front` (k, m), picked one after another.

    Fewer where nothing more is added. The volume that a row adds only shrinks as others join, so a row is computed
    again only while its last known gain leads.
    """
    have, volume = front, hypervolume(front, reference)
    gains = np.array([hypervolume(np.vstack([have, row]), reference) for row in values]) - volume
    known = np.zeros(len(values), dtype=np.int64)
    picked: list[int] = []
    while len(picked) < min(count, len(values)):
        best = int(np.argmax(gains))
        if gains[best] <= 0:
            break
        if known[best] == len(picked):
            picked.append(best)
            have, volume = np.vstack([have, values[best]]), volume + gains[best]
            gains[best] = -np.inf
        else:
            gains[best] = hypervolume(np.vstack([have, values[best]]), reference) - volume
            known[best] = len(picked)
    return np.array(picked, dtype=np.int64)
