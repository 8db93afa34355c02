"""The sizes of a network's axes for whole populations of encoded candidates, without building any of them.

Tracing gives the size of every axis as a formula of the dimensions (`AxisSize`). The formulas are evaluated with NumPy
for all candidates at once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from search_spaces.arrays import FloatArray, IntArray
from search_spaces.cuts import AxisCut
from search_spaces.inputs import Inputs, split_inputs
from search_spaces.supernets.blocks import Blocks, Droppable
from search_spaces.supernets.supernet import Supernet
from search_spaces.tracing.coupling import AxisSize, Coupling


def rows_of(example_inputs: Inputs) -> int:
    """The batch size of example inputs: the length of the first axis of the first tensor."""
    args, kwargs = split_inputs(example_inputs)
    return int(next(iter([*args, *kwargs.values()])).shape[0])


@dataclass(frozen=True)
class CandidateSizes:
    """The sizes of `count` candidates.

    Attributes:
        count: number of candidates.
        units: units kept of every dimension (count,), by the index of the dimension.
        runs: function from the path of a module to (count,): 1 for the candidates in which it runs, else 0.
    """

    count: int
    units: Mapping[int, FloatArray]
    runs: Callable[[str], FloatArray]
    _lengths: dict[AxisSize, FloatArray] = field(default_factory=dict, repr=False)

    def length(self, axis: AxisSize) -> FloatArray:
        """The length of an axis in every candidate (count,); not to be changed."""
        # Many axes of a network are of the same size in all candidates.
        if axis not in self._lengths:
            self._lengths[axis] = self._length(axis)
        return self._lengths[axis]

    def _length(self, axis: AxisSize) -> FloatArray:
        length = np.zeros(self.count)
        for factor, dimensions in axis:
            product = np.full_like(length, float(factor))
            for dimension in dimensions:
                product = product * self.units[dimension]
            length = length + product
        return length


class SizeTable:
    """The sizes of a network's axes for encoded candidates, and sums of products of them.

    Args:
        supernet: gives the space and the paths of its blocks.
        coupling: of the super-network's model.
    """

    def __init__(self, supernet: Supernet, coupling: Coupling) -> None:
        self.coupling = coupling
        self._space = supernet.space
        self._columns = {choice.name: column for column, choice in enumerate(self._space.choices)}
        by_cut = {
            cut: self._columns[choice.name]
            for choice in self._space.choices
            for cut in choice.cuts
            if isinstance(cut, AxisCut)
        }
        # One cut identifies a dimension. None: no choice of the space narrows it, so it keeps its full size.
        self._column = [by_cut.get(dimension.cuts[0]) for dimension in coupling.dimensions]
        self._blocks = Blocks(supernet.model, self._space)
        self._representative: dict[tuple[Droppable, ...], str] = {}

    def total(self, terms: list[tuple[str, tuple[AxisSize, ...], float]], encoded: IntArray) -> FloatArray:
        """The sum over `terms` (n,) for encoded candidates (n, k).

        Args:
            terms: (path of a module, axes, scale); each contributes scale times the product of the sizes of the axes,
                or 0 in the candidates that drop the module's block.
            encoded: the candidates.
        """
        return self.sum(terms, self.of(encoded))

    def sum(self, terms: list[tuple[str, tuple[AxisSize, ...], float]], sizes: CandidateSizes) -> FloatArray:
        """Like `total`, for candidates whose sizes are known."""
        total = np.zeros(sizes.count)
        for path, axes, scale in terms:
            value = sizes.runs(path) * scale
            for axis in axes:
                value = value * sizes.length(axis)
            total += value
        return total

    def block(self, path: str) -> str:
        """One path for all modules that run in the same candidates as the module at `path`."""
        return self._representative.setdefault(self._blocks.around(path), path)

    def of(self, encoded: IntArray) -> CandidateSizes:
        """The sizes of encoded candidates (n, k) of the super-network's space."""
        encoded = self._space.canonical(encoded)
        # All modules of one block share the answer.
        blocks: dict[tuple[Droppable, ...], FloatArray] = {}

        def runs(path: str) -> FloatArray:
            around = self._blocks.around(path)
            if around not in blocks:
                blocks[around] = self._runs(around, encoded)
            return blocks[around]

        return CandidateSizes(len(encoded), self._units(encoded), runs)

    def _units(self, encoded: IntArray) -> Mapping[int, FloatArray]:
        """The units kept of every dimension (n,), by the index of the dimension."""
        units = {}
        for index, (column, dimension) in enumerate(zip(self._column, self.coupling.dimensions, strict=True)):
            if column is None:
                units[index] = np.full(len(encoded), float(dimension.size))
            else:
                options = np.asarray(self._space.choices[column].options, dtype=np.float64)
                units[index] = options[encoded[:, column]]
        return units

    def _runs(self, around: tuple[Droppable, ...], encoded: IntArray) -> FloatArray:
        """1 for the candidates that keep all of these blocks, 0 for the others (n,)."""
        runs = np.ones(len(encoded))
        for block in around:
            table = [option in block.kept for option in self._space[block.choice].options]
            runs = runs * np.asarray(table, dtype=np.float64)[encoded[:, self._columns[block.choice]]]
        return runs
