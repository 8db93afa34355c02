"""Acquisition of LINAS: choose the candidates that are expected to add the most hypervolume.

The hypervolume of a set of points is, up to a constant, the mean over directions of the positive orthant of the m-th
power of the longest reach, for m objectives (Zhang and Golovin 2020, arXiv 2006.04655, lemma 5). The reach of a point
is the distance from the reference point along a direction that is dominated by it. Over a fixed set of directions, the
mean is cheap for any number of objectives and is easily averaged over samples of uncertain values.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from nas.searching.evolution import Population
from search_spaces.arrays import FloatArray, IntArray

_SURVIVAL_RAYS = 100
"""Directions for `direction_survival`, which runs in each generation and needs less accuracy than the hypervolume."""


@lru_cache(maxsize=16)
def directions(objectives: int, count: int) -> FloatArray:
    """Unit vectors spread over the positive orthant, always the same ones.

    Args:
        objectives: number of objectives m.
        count: number of directions; there is only one for a single objective.

    Returns:
        Directions (count, m).
    """
    from scipy.special import ndtri
    from scipy.stats.qmc import Sobol

    if objectives == 1:
        return np.ones((1, 1))
    if objectives == 2:
        angle = (np.arange(count) + 0.5) / count * np.pi / 2
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)
    # Normalised absolute values of normal variables are uniform on the sphere; a Sobol sequence spreads them evenly.
    # The lower bound keeps directions off the axes, as `reach` divides by their components.
    uniform = Sobol(objectives, rng=np.random.default_rng(0)).random(1 << (count - 1).bit_length())[:count]
    normal = np.maximum(ndtri(0.5 + 0.5 * uniform), 1e-6)
    return np.asarray(normal / np.linalg.norm(normal, axis=1, keepdims=True))


def reach(values: FloatArray, reference: FloatArray, rays: FloatArray) -> FloatArray:
    """Distance from the reference point along each ray that is dominated by each point.

    Args:
        values: points (..., m).
        reference: the reference point (m,).
        rays: unit vectors (d, m).

    Returns:
        Reach (..., d); negative for points that do not dominate the reference point.
    """
    # The minimum over objectives, one objective at a time: an array (..., d, m) would not fit into the cache.
    gap, inverse = reference - values, 1 / rays
    found = gap[..., 0, None] * inverse[:, 0]
    for column in range(1, values.shape[-1]):
        np.minimum(found, gap[..., column, None] * inverse[:, column], out=found)
    return np.asarray(found)


@dataclass(frozen=True)
class Frame:
    """The box of objective values in which hypervolume is measured, and the units of the objectives.

    Args:
        reference: the worst corner of the box (m,).
        scale: unit of each objective (m,); objectives are divided by it.
        bounds: limits of the objectives (m,), inf where there is none. Points on a limit add volume, points beyond it
            do not.
    """

    reference: FloatArray
    scale: FloatArray
    bounds: FloatArray

    @classmethod
    def around(cls, front: FloatArray, everything: FloatArray, bounds: FloatArray, margin: float) -> "Frame":
        """The box around a front, extended by a margin.

        It reaches up to the limits: whoever sets one asks for what is best just within it, and a front of noisy values
        may end far before it, because a lucky one hides all that cost more.

        Args:
            front: values of the front (k, m).
            everything: all measured values (n, m). Their range is used for an objective in which the front has none.
            bounds: limits of the objectives (m,), inf where there is none.
            margin: extension of the worst corner, as a share of the range of the box.
        """
        worst = np.where(np.isfinite(bounds), np.minimum(everything.max(axis=0), bounds), front.max(axis=0))
        span = worst - front.min(axis=0)
        span = np.where(span > 0, span, np.ptp(everything, axis=0))
        scale = np.where(span > 0, span, 1.0)
        # The margin is added to the limit too, so that points on the limit dominate some volume.
        return cls(worst + margin * scale, scale, bounds)

    def reach(self, values: FloatArray, rays: FloatArray) -> FloatArray:
        """Reach of the scaled values (..., m) along `rays` (d, m); it is negative beyond a limit."""
        found = reach(values / self.scale, self.reference / self.scale, rays)
        outside = (values > self.bounds).any(axis=-1)
        if outside.any():
            # Measured from the limit itself, so that it is negative and decreases with the distance from the limit;
            # then candidates beyond the limits can still be compared with each other.
            corner = np.minimum(self.reference, self.bounds)
            found[outside] = reach(values[outside] / self.scale, corner / self.scale, rays)
        return found

    def nearest(self, values: FloatArray, front: FloatArray, count: int) -> IntArray:
        """Indices of the `count` rows of `values` (n, m) that reach furthest beyond the front (k, m), best first."""
        rays = _rays(values.shape[1])
        ahead = (self.reach(values, rays) - self.reach(front, rays).max(axis=0)).max(axis=1)
        return np.asarray(np.argsort(-ahead, kind="stable")[:count])


def _rays(objectives: int) -> FloatArray:
    return directions(objectives, 200 if objectives < 3 else 400)


def most_expected(
    mean: FloatArray,
    spread: FloatArray,
    front: FloatArray,
    frame: Frame,
    count: int,
    draws: FloatArray,
    chance: FloatArray | float = 1.0,
) -> IntArray:
    """Greedily choose the candidates that together are expected to add the most hypervolume.

    Args:
        mean: predicted values (n, m).
        spread: standard deviations of the predictions (n, m).
        front: values of the current front (k, m).
        frame: the box in which hypervolume is measured.
        count: largest number of candidates.
        draws: standard normal numbers (s, n, m); each of the s samples gives values for all candidates.
        chance: probability (n,) that a candidate can be measured; its gain is multiplied by it.

    Returns:
        Indices of the chosen candidates in the order of choice; fewer than `count` when the others add nothing.
    """
    objectives = mean.shape[1]
    rays = _rays(objectives)
    samples = np.maximum(frame.reach(mean + spread * draws, rays), 0) ** objectives
    have = np.maximum(frame.reach(front, rays).max(axis=0, initial=0), 0) ** objectives
    # Lazy greedy: the gain of a candidate can only shrink as others are chosen, so an old gain is an upper bound. Only
    # the candidate with the largest bound is updated, and it is chosen once its gain is up to date and still largest.
    best = np.repeat(have[None], len(samples), axis=0)
    chances = np.broadcast_to(chance, len(mean))
    gains = np.maximum(samples - best[:, None], 0).sum(axis=(0, 2)) * chances
    known = np.zeros(len(gains), dtype=np.int64)
    picked: list[int] = []
    while len(picked) < min(count, len(mean)):
        row = int(gains.argmax())
        if gains[row] <= 0:
            break
        if known[row] == len(picked):
            picked.append(row)
            np.maximum(best, samples[:, row], out=best)
            gains[row] = -1
        else:
            gains[row] = np.maximum(samples[:, row] - best, 0).sum() * chances[row]
            known[row] = len(picked)
    return np.array(picked, dtype=np.int64)


def direction_survival(population: Population, size: int, frame: Frame | None = None) -> IntArray:
    """Survival by directions: keep the individuals with the longest reach along each direction.

    These form the first layer of survivors. The same is repeated for the remaining individuals until there are enough.
    Infeasible individuals follow, ordered by their violation.

    Args:
        population: the individuals.
        size: largest number of survivors.
        frame: the box that defines reach; None: a box around the feasible individuals.

    Returns:
        Indices of the survivors, best first.
    """
    values, broken = population.values, np.where(np.isnan(population.values).any(axis=1), np.inf, population.violations)
    left = np.flatnonzero(broken <= 0)
    outside = np.flatnonzero(broken > 0)
    kept = [outside[np.argsort(broken[outside], kind="stable")]]
    if len(left):
        if frame is None:
            frame = Frame.around(values[left], values[left], np.full(values.shape[1], np.inf), 0.1)
        # The best individual in each objective survives first. All directions lie inside the orthant, so these ends of
        # the front win along none of them, and without them the front would shrink from generation to generation.
        ends = np.unique(values[left].argmin(axis=0))
        layers: list[IntArray] = [left[ends]]
        left = np.delete(left, ends)
        lengths = frame.reach(values[left], directions(values.shape[1], _SURVIVAL_RAYS))
        while len(left) and sum(map(len, layers)) < size:
            winners, won = np.unique(lengths.argmax(axis=0), return_counts=True)
            # An individual that wins along more directions has fewer neighbours, so it comes first within the layer.
            layers.append(left[winners[np.argsort(-won, kind="stable")]])
            left, lengths = np.delete(left, winners), np.delete(lengths, winners, axis=0)
        kept = [*layers, left, *kept]
    return np.asarray(np.concatenate(kept)[:size])
