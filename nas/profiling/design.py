"""Which sub-networks to measure: those that tell most about all others.

First the smallest and the largest; then each dimension (the choices of one kind, and each choice with options of its
own) alone at its smallest and alone at its largest; then one after another what a linear model of the features knows
least about, given those before (a D-optimal design, chosen greedily: Atkinson, Donev and Tobias 2007, *Optimum
Experimental Designs, with SAS*, chapter 11). Once some are measured, that is weighted with how unsure the predictor is.
"""

from collections.abc import Callable

import numpy as np

from nas.searching.features import families
from search_spaces import Space
from search_spaces.arrays import FloatArray, IntArray

FeaturesOf = Callable[[IntArray], FloatArray]

_POOL = 600
_PRIOR = 1e-2


def first_rows(space: Space) -> IntArray:
    """Smallest, largest, and every dimension alone at its smallest and at its largest; distinct encoded rows (n, k)."""
    most = space.option_counts - 1
    together = families(space)
    alone = set(range(len(space.choices))) - {column for members in together for column in members}
    rows = [np.zeros_like(most), most]
    for members in [*together, *([column] for column in sorted(alone))]:
        lowered, raised = most.copy(), np.zeros_like(most)
        lowered[members], raised[members] = 0, most[members]
        rows += [lowered, raised]
    return _distinct(space.canonical(np.array(rows)))


def pool(space: Space, rng: np.random.Generator) -> IntArray:
    """Candidates to choose from (n, k): half of them uniform, half leaning to one size everywhere."""
    uniform = space.random(_POOL // 2, rng)
    most = space.option_counts - 1
    level = rng.uniform(0, 1, size=(_POOL // 2, 1))
    near = np.clip(np.rint(most * np.clip(level + rng.normal(0, 0.35, size=(len(level), len(most))), 0, 1)), 0, most)
    return _distinct(np.concatenate([uniform, space.canonical(near.astype(np.int64))]))


def most_telling(
    candidates: IntArray, measured: IntArray, features: FeaturesOf, count: int, weights: FloatArray | None = None
) -> IntArray:
    """`count` of the candidates (n, k), one after another what is known least, given those `measured` (m, k).

    Fewer where there are no more that are not measured.

    Args:
        candidates: to choose from.
        measured: what is known.
        features: of encoded rows.
        count: how many.
        weights: of each candidate (n,): how unsure a predictor is of it; None: all alike.
    """
    known = {row.tobytes() for row in measured}
    new = np.array([row.tobytes() not in known for row in candidates], dtype=np.bool_)
    rows = candidates[new]
    weight = np.ones(len(rows)) if weights is None else weights[new] / max(float(weights.max(initial=0)), 1e-300)
    told, left = features(measured), features(rows)
    left = left * weight[:, None]
    # What is not known of each candidate: x' (X'X + prior)^-1 x, brought up to date with every choice.
    inverse = np.linalg.inv(told.T @ told + _PRIOR * np.eye(left.shape[1]))
    chosen: list[int] = []
    for _ in range(min(count, len(rows))):
        unknown = np.einsum("nf,fg,ng->n", left, inverse, left)
        unknown[chosen] = -1
        best = int(np.argmax(unknown))
        chosen.append(best)
        step = inverse @ left[best]
        inverse -= np.outer(step, step) / (1 + left[best] @ step)
    return rows[chosen]


def _distinct(rows: IntArray) -> IntArray:
    _, first = np.unique(rows, axis=0, return_index=True)
    return rows[np.sort(first)]
