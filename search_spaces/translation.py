"""Translate encoded candidates of a derived space into the space that it was derived from.

A derived space may have fewer options. It may have further choices only where the caller says that they do not matter
to what it computes, so that nothing of a candidate is dropped in silence.
"""

from collections.abc import Callable

import numpy as np

from search_spaces.arrays import IntArray
from search_spaces.space import Space


def _none(name: str) -> bool:
    return False


def translation(
    source: Space, target: Space, *, without: Callable[[str], bool] = _none
) -> Callable[[IntArray], IntArray]:
    """Make a function that encodes candidates of one space in another.

    Args:
        source: the space of the given candidates.
        target: the space to encode them in.
        without: whether a choice of `source` of this name may be left out where `target` lacks it, for example
            `quantization.is_precision` for what does not depend on precisions.

    Returns:
        Encoded candidates of `source` (n, k) -> the same candidates encoded in `target` (n, j).

    Raises:
        ValueError: `source` lacks a choice of `target` or has an option that `target` lacks, or `target` lacks a choice
            of `source` that may not be left out.
    """
    known = {choice.name for choice in target.choices}
    further = [choice.name for choice in source.choices if choice.name not in known and not without(choice.name)]
    if further:
        raise ValueError(f"the space must hold choices of the super-network only, got {further[0]}")
    columns = {choice.name: column for column, choice in enumerate(source.choices)}
    tables = []
    for choice in target.choices:
        if choice.name not in columns:
            raise ValueError(f"the space must hold every choice of the super-network, {choice.name} is missing")
        try:
            options = source[choice.name].options
            tables.append((columns[choice.name], np.array([choice.index(option) for option in options])))
        except ValueError as error:
            raise ValueError(f"the space must hold options of the super-network only: {error}") from error

    def translated(encoded: IntArray) -> IntArray:
        rows = np.asarray(encoded, dtype=np.int64)
        found = [table[rows[:, column]] for column, table in tables]
        return np.stack(found, axis=1) if found else np.zeros((len(rows), 0), dtype=np.int64)

    return translated
