"""Enumerate the candidates of a small space, and the neighbours of a candidate."""

import numpy as np

from search_spaces.arrays import IntArray
from search_spaces.space import Space


def every_row(space: Space) -> IntArray:
    """All encoded candidates (size, k) of a small space.

    They are found by changing one gene at a time. Unlike a product over all options, this never visits combinations
    that differ in inactive choices only, of which there can be far more than candidates.
    """
    reached = np.zeros((1, len(space.choices)), dtype=np.int64)
    frontier = reached
    while len(frontier):
        near = np.unique(one_gene_changes(space, frontier), axis=0)
        known = {row.tobytes() for row in reached}
        frontier = near[[row.tobytes() not in known for row in near]] if len(near) else near
        reached = np.concatenate([reached, frontier])
    return reached


def one_gene_changes(space: Space, rows: IntArray) -> IntArray:
    """Canonical candidates that differ from one of `rows` (n, k) in one choice; they may repeat, shape (p, k)."""
    changed = [np.zeros((0, len(space.choices)), dtype=np.int64)]
    for column, count in enumerate(space.option_counts.tolist()):
        for option in range(count):
            copy = rows.copy()
            copy[:, column] = option
            copy = space.canonical(copy)
            changed.append(copy[(copy != rows).any(axis=1)])
    return np.concatenate(changed)
