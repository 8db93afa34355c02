"""Choose the sub-networks to measure: those that are most informative about all others.

1. The smallest and the largest one.
2. For each dimension (a family of choices with the same options, or a single other choice) the two sub-networks in
   which it alone is at its smallest, or at its largest.
3. One after another the candidate that a linear model of the features is least certain of, given those chosen before.
   This is a greedy D-optimal design (Atkinson, Donev and Tobias 2007, *Optimum Experimental Designs, with SAS*,
   chapter 11). Once rows are measured, candidates are also weighted by the uncertainty of the predictor.
"""

from collections.abc import Callable

import numpy as np

from nas.searching.features import families
from search_spaces import Space
from search_spaces.arrays import FloatArray, IntArray

FeaturesOf = Callable[[IntArray], FloatArray]

_POOL = 600
# Precision of the prior of the linear model, without which few rows would give a singular matrix.
_PRIOR = 1e-2


def first_rows(space: Space) -> IntArray:
    """Steps 1 and 2 of the design as distinct encoded rows (n, k)."""
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
    """Random candidates (n, k) for the third step: half of them uniform, half of similar size in all choices.

    Uniform candidates are all of medium total size, because their choices average out.
    """
    uniform = space.random(_POOL // 2, rng)
    most = space.option_counts - 1
    level = rng.uniform(0, 1, size=(_POOL // 2, 1))
    near = np.clip(np.rint(most * np.clip(level + rng.normal(0, 0.35, size=(len(level), len(most))), 0, 1)), 0, most)
    return _distinct(np.concatenate([uniform, space.canonical(near.astype(np.int64))]))


def most_telling(
    candidates: IntArray, measured: IntArray, features: FeaturesOf, count: int, weights: FloatArray | None = None
) -> IntArray:
    """Step 3 of the design: the candidates that a linear model is least certain of.

    Args:
        candidates: encoded candidates to choose from (n, k).
        measured: encoded candidates that are measured already (m, k).
        features: computes features (n, f) of encoded candidates.
        count: number of candidates to choose.
        weights: uncertainty of a predictor about each candidate (n,); None weights all equally.

    Returns:
        Up to `count` rows of `candidates` that are not measured, in the order of choice.
    """
    known = {row.tobytes() for row in measured}
    new = np.array([row.tobytes() not in known for row in candidates], dtype=np.bool_)
    rows = candidates[new]
    weight = np.ones(len(rows)) if weights is None else weights[new] / max(float(weights.max(initial=0)), 1e-300)
    known_features, new_features = features(measured), features(rows) * weight[:, None]
    # The variance of the prediction for a candidate x is x' (X'X + prior)^-1 x. Each choice updates the inverse by the
    # formula of Sherman and Morrison, which is cheaper than another inversion.
    inverse = np.linalg.inv(known_features.T @ known_features + _PRIOR * np.eye(new_features.shape[1]))
    chosen: list[int] = []
    for _ in range(min(count, len(rows))):
        variance = np.einsum("nf,fg,ng->n", new_features, inverse, new_features)
        variance[chosen] = -1
        best = int(np.argmax(variance))
        chosen.append(best)
        step = inverse @ new_features[best]
        inverse -= np.outer(step, step) / (1 + new_features[best] @ step)
    return rows[chosen]


def _distinct(rows: IntArray) -> IntArray:
    """Rows without duplicates, in the order of their first occurrence."""
    _, first = np.unique(rows, axis=0, return_index=True)
    return rows[np.sort(first)]
