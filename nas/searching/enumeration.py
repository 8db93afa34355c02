"""Spaces that are small enough to list, or to walk one gene at a time."""

import numpy as np

from search_spaces.arrays import IntArray
from search_spaces.space import Space


def every_row(space: Space) -> IntArray:
    """All encoded candidates (size, k) of a small space, found by changing one gene at a time."""
    reached = np.zeros((1, len(space.choices)), dtype=np.int64)
    frontier = reached
    while len(frontier):
        near = np.unique(one_gene_changes(space, frontier), axis=0)
        known = {row.tobytes() for row in reached}
        frontier = near[[row.tobytes() not in known for row in near]] if len(near) else near
        reached = np.concatenate([reached, frontier])
    return reached


def one_gene_changes(space: Space, rows: IntArray) -> IntArray:
    """Every canonical row that differs from one of `rows` (n, k) in the option of one choice."""
    changed = [np.zeros((0, len(space.choices)), dtype=np.int64)]
    for column, count in enumerate(space.option_counts.tolist()):
        for option in range(count):
            copy = rows.copy()
            copy[:, column] = option
            copy = space.canonical(copy)
            changed.append(copy[(copy != rows).any(axis=1)])
    return np.concatenate(changed)
