"""Candidates that a search is told to begin with."""

from collections.abc import Sequence

import numpy as np

from nas.errors import UserError
from search_spaces.arrays import IntArray
from search_spaces.space import Space


def encoded_starts(space: Space, starts: Sequence[Sequence[int]]) -> IntArray:
    """The candidates to begin with, encoded (n, k); raises UserError for one that is outside of the space."""
    try:
        return space.canonical(np.array(starts, dtype=np.int64).reshape(len(starts), -1) if starts else [])
    except ValueError as error:
        raise UserError(f"starts must be candidates of the space: {error}") from error
