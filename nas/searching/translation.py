"""Translate encoded candidates between a super-network's space and a space derived from it.

The derived space may have fewer options, or further choices (for example of precision) that the network does not know.
"""

from collections.abc import Callable

import numpy as np

from nas.errors import UserError
from search_spaces.arrays import IntArray
from search_spaces.space import Space


def translation(source: Space, target: Space) -> Callable[[IntArray], IntArray]:
    """Make a function that encodes candidates of one space in another.

    Args:
        source: the space of the given candidates.
        target: the space to encode them in; it may lack choices of `source`.

    Returns:
        Encoded candidates of `source` (n, k) -> the same candidates encoded in `target` (n, j).

    Raises:
        UserError: `source` lacks a choice of `target`, or has an option that `target` lacks.
    """
    columns = {choice.name: column for column, choice in enumerate(source.choices)}
    tables = []
    for choice in target.choices:
        if choice.name not in columns:
            raise UserError(f"the space must hold every choice of the super-network, {choice.name} is missing")
        try:
            options = source[choice.name].options
            tables.append((columns[choice.name], np.array([choice.index(option) for option in options])))
        except ValueError as error:
            raise UserError(f"the space must hold options of the super-network only: {error}") from error

    def translated(encoded: IntArray) -> IntArray:
        rows = np.asarray(encoded, dtype=np.int64)
        found = [table[rows[:, column]] for column, table in tables]
        return np.stack(found, axis=1) if found else np.zeros((len(rows), 0), dtype=np.int64)

    return translated
