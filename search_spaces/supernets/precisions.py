"""What every layer of encoded candidates computes in, as arrays of codes for whole populations."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search_spaces import quantization
from search_spaces.arrays import BoolArray, IntArray
from search_spaces.space import Space
from search_spaces.supernets.supernet import Supernet
from search_spaces.translation import translation

INT4, INT8, INT8_WEIGHTS, FLOAT = range(len(quantization.PRECISIONS))
"""The codes: positions in `quantization.PRECISIONS`."""


@dataclass(frozen=True)
class Precisions:
    """The precisions of n candidates for the p layers and tables of a `PrecisionTable`.

    Attributes:
        architecture: the candidates encoded in the super-network's own space (n, k).
        codes: of every layer (p, n); meaningless where its block is dropped.
        asymmetric: whether its weights in INT8 have a zero point (p, n).
        floating: of what all else computes in, as positions in `quantization.FLOATING_PRECISIONS` (n,).
    """

    architecture: IntArray
    codes: IntArray
    asymmetric: BoolArray
    floating: IntArray


class PrecisionTable:
    """The precisions of candidates that are encoded in a space joined with `quantization.space`.

    Args:
        supernet: of the candidates.
        space: its space, joined or as it is, or one with fewer options.

    Attributes:
        architecture: function from encoded candidates (n, k) to the same ones in the super-network's own space.
        any: whether the space has choices of precision.
        paths: of all layers and tables that could have one, in the full model.
        floating: what may be chosen for all else.

    Raises:
        ValueError: the space has a choice that the super-network knows nothing of, lacks one of the super-network's, or
            has an option that does not exist.
    """

    def __init__(self, supernet: Supernet, space: Space) -> None:
        names = quantization.choices_of(supernet.model)
        symmetries = [quantization.WEIGHTS + path for path in names]
        self._space = space
        self.architecture = translation(space, supernet.space, without=quantization.is_precision)
        chosen = [choice.name for choice in space.choices if quantization.is_precision(choice.name)]
        unknown = sorted(set(chosen) - {quantization.FLOATING, *names.values(), *symmetries})
        if unknown:
            raise ValueError(f"the space must hold precisions of layers of the super-network, got {unknown[0]}")
        self.any = bool(chosen)
        self.paths = tuple(names)
        self._positions = {path: position for position, path in enumerate(names)}
        self._codes = _Lookup(space, list(names.values()), quantization.PRECISIONS, FLOAT)
        self._symmetries = _Lookup(space, symmetries, quantization.SYMMETRIES, 0)
        self._floating = _Lookup(space, [quantization.FLOATING], quantization.FLOATING_PRECISIONS, 1)
        self.floating = self._floating.options[0]

    def position(self, path: str) -> int | None:
        """Where a layer stands among `paths`; None for a module that has no precision of its own."""
        return self._positions.get(path)

    def options(self, path: str) -> tuple[str, ...]:
        """The precisions that a layer among `paths` may have."""
        return self._codes.options[self._positions[path]]

    def of(self, encoded: IntArray) -> Precisions:
        """The precisions of encoded candidates (n, k)."""
        rows = self._space.canonical(encoded)
        # One more column of zeros serves the layers without a choice.
        columns = np.concatenate([rows.T, np.zeros((1, len(rows)), dtype=np.int64)])
        codes = self._codes.of(columns)
        asymmetric = (self._symmetries.of(columns) == 1) & (codes == INT8)
        return Precisions(self.architecture(rows), codes, asymmetric, self._floating.of(columns)[0])


class _Lookup:
    """The options of several choices as positions in one list of words.

    Args:
        space: may have the choices.
        names: of the choices.
        known: the words.
        default: position of the word that stands where a choice is missing.

    Raises:
        ValueError: a choice has another option.
    """

    def __init__(self, space: Space, names: Sequence[str], known: Sequence[str], default: int) -> None:
        columns = {choice.name: column for column, choice in enumerate(space.choices)}
        self._any = any(name in columns for name in names)
        self._columns = np.array([columns.get(name, len(columns)) for name in names], dtype=np.int64)
        self._table = np.full((len(names), len(known)), default, dtype=np.int64)
        self.options: list[tuple[str, ...]] = []
        for row, name in zip(self._table, names, strict=True):
            options = space[name].options if name in columns else (known[default],)
            unknown = [option for option in options if option not in known]
            if unknown:
                raise ValueError(f"{name} must be some of {', '.join(known)}, got {unknown[0]!r}")
            self.options.append(tuple(str(option) for option in options))
            row[: len(options)] = [known.index(str(option)) for option in options]

    def of(self, columns: IntArray) -> IntArray:
        """The positions (m, n) of m choices for the columns (k + 1, n) of n encoded candidates, the last one zeros."""
        if not self._any:
            return np.broadcast_to(self._table[:, :1], (len(self._table), columns.shape[1]))
        # One flat index is several times as quick as two.
        first = np.arange(len(self._table))[:, None] * self._table.shape[1]
        return self._table.reshape(-1).take(columns.take(self._columns, axis=0) + first)
