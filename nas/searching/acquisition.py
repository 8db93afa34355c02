"""Which candidates to measure next: those that are expected to add most hypervolume, one after another.

The volume that points dominate is, up to a constant, the mean over directions of the positive orthant of the longest
reach to the power of the number of objectives (Zhang and Golovin 2020, arXiv 2006.04655, lemma 5). With a fixed set of
directions that serves any number of objectives, and samples of uncertain values.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from nas.searching.evolution import Population
from search_spaces.arrays import FloatArray, IntArray

_SURVIVAL_RAYS = 100


@lru_cache(maxsize=16)
def directions(objectives: int, count: int) -> FloatArray:
    """`count` unit vectors (count, m) spread over the positive orthant, always the same; one for one objective."""
    from scipy.special import ndtri
    from scipy.stats.qmc import Sobol

    if objectives == 1:
        return np.ones((1, 1))
    if objectives == 2:
        angle = (np.arange(count) + 0.5) / count * np.pi / 2
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)
    uniform = Sobol(objectives, rng=np.random.default_rng(0)).random(1 << (count - 1).bit_length())[:count]
    normal = np.maximum(ndtri(0.5 + 0.5 * uniform), 1e-6)
    return np.asarray(normal / np.linalg.norm(normal, axis=1, keepdims=True))


def reach(values: FloatArray, reference: FloatArray, rays: FloatArray) -> FloatArray:
    """How far `values` (..., m) dominate from `reference` (m,) along `rays` (d, m): (..., d), below 0 outside."""
    gap, inverse = reference - values, 1 / rays
    found = gap[..., 0, None] * inverse[:, 0]
    for column in range(1, values.shape[-1]):
        np.minimum(found, gap[..., column, None] * inverse[:, column], out=found)
    return np.asarray(found)


@dataclass(frozen=True)
class Frame:
    """The part of the objectives that matters.

    Args:
        reference: the worst corner (m,) of the box whose volume counts.
        scale: the unit of each objective (m,).
        bounds: the limits (m,), inf where there is none. What is beyond one reaches nothing; what is on it counts.
    """

    reference: FloatArray
    scale: FloatArray
    bounds: FloatArray

    @classmethod
    def around(cls, front: FloatArray, everything: FloatArray, bounds: FloatArray, margin: float) -> "Frame":
        """The box of the measured `front` (k, m) and `margin` of its size, within the limits `bounds` (m,), or inf.

        Where the front has no size in an objective, that of `everything` measured (n, m) stands for it.
        """
        span = np.ptp(front, axis=0)
        span = np.where(span > 0, span, np.ptp(everything, axis=0))
        scale = np.where(span > 0, span, 1.0)
        return cls(np.minimum(front.max(axis=0), bounds) + margin * scale, scale, bounds)

    def reach(self, values: FloatArray, rays: FloatArray) -> FloatArray:
        """`reach` of the scaled values; beyond a limit it is negative, the more so the further beyond."""
        found = reach(values / self.scale, self.reference / self.scale, rays)
        outside = (values > self.bounds).any(axis=-1)
        if outside.any():
            corner = np.minimum(self.reference, self.bounds)
            found[outside] = reach(values[outside] / self.scale, corner / self.scale, rays)
        return found

    def nearest(self, values: FloatArray, front: FloatArray, count: int) -> IntArray:
        """The `count` rows of `values` (n, m) that reach furthest beyond `front` (k, m), or least behind it."""
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
    """Up to `count` rows of `mean` and `spread` (n, m) that are expected to add most volume to `front` (k, m).

    Args:
        draws: standard normal numbers (s, n, m), one sample of all values each.
        chance: that a row can be measured at all, (n,); its gain counts that much.
    """
    objectives = mean.shape[1]
    rays = _rays(objectives)
    samples = np.maximum(frame.reach(mean + spread * draws, rays), 0) ** objectives
    have = np.maximum(frame.reach(front, rays).max(axis=0, initial=0), 0) ** objectives
    # A row's gain only shrinks as others join: it is computed again only while its last known one leads.
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
    """The `size` best of a population: the furthest along each direction, then the furthest of the others, and so on.

    Of the infeasible the nearer to the limits come first, and all after the feasible ones. Without a frame that of the
    population itself is taken.
    """
    values, broken = population.values, np.where(np.isnan(population.values).any(axis=1), np.inf, population.violations)
    left = np.flatnonzero(broken <= 0)
    outside = np.flatnonzero(broken > 0)
    kept = [outside[np.argsort(broken[outside], kind="stable")]]
    if len(left):
        if frame is None:
            frame = Frame.around(values[left], values[left], np.full(values.shape[1], np.inf), 0.1)
        # The ends of the front first: no direction reaches far towards them, and without them the front would shrink.
        ends = np.unique(values[left].argmin(axis=0))
        layers: list[IntArray] = [left[ends]]
        left = np.delete(left, ends)
        lengths = frame.reach(values[left], directions(values.shape[1], _SURVIVAL_RAYS))
        while len(left) and sum(map(len, layers)) < size:
            winners, won = np.unique(lengths.argmax(axis=0), return_counts=True)
            layers.append(left[winners[np.argsort(-won, kind="stable")]])
            left, lengths = np.delete(left, winners), np.delete(lengths, winners, axis=0)
        kept = [*layers, left, *kept]
    return np.asarray(np.concatenate(kept)[:size])
