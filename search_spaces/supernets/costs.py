"""Parameters, multiply-accumulates and size of encoded candidates, exactly and without building any of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from search_spaces.arrays import FloatArray, IntArray
from search_spaces.cuts import AxisCut, BlockCut
from search_spaces.inputs import Inputs, split_inputs
from search_spaces.space import Space
from search_spaces.supernets.slicing import cuts_of
from search_spaces.supernets.supernet import Supernet
from search_spaces.tracing.coupling import Coupling, Factors, analyse

CostFunction = Callable[[IntArray], FloatArray]


def exact_costs(supernet: Supernet, example_inputs: Inputs) -> dict[str, CostFunction]:
    """Functions of encoded candidates (n, k) of `supernet.space` that give their costs (n,), each exact.

    `macs`: multiply-accumulates of one row of `example_inputs` (linear layers, convolutions and attention products;
    arXiv 2308.15609 counts so). `parameters`: weights, shared ones once. `size_mib`: their bytes / 2**20. All equal
    `hardware.cost` of the extracted module.

    Raises:
        ValueError: the model cannot be traced with these inputs.
    """
    table = SizeTable(supernet, analyse(supernet.model, example_inputs))
    rows = rows_of(example_inputs)
    bytes_of = {name: tensor.element_size() for name, tensor in supernet.model.named_parameters()}
    contractions = [
        (each.module, each.axes, 1.0 / rows if each.per_row else 1.0) for each in table.coupling.contractions
    ]
    weights = [(name, axes, 1.0) for name, axes in table.coupling.parameters]
    sizes = [(name, axes, bytes_of[name] / 2**20) for name, axes in table.coupling.parameters]
    return {
        "macs": lambda encoded: table.total(contractions, encoded),
        "parameters": lambda encoded: table.total(weights, encoded),
        "size_mib": lambda encoded: table.total(sizes, encoded),
    }


def rows_of(example_inputs: Inputs) -> int:
    """The batch of example inputs."""
    args, kwargs = split_inputs(example_inputs)
    return int(next(iter([*args, *kwargs.values()])).shape[0])


@dataclass(frozen=True)
class Sizes:
    """Sizes in `count` candidates: units of every dimension by its index, and of a path whether it `runs`: 1 or 0."""

    count: int
    units: Mapping[int, FloatArray]
    runs: Callable[[str], FloatArray]

    def length(self, axis: tuple[tuple[int, tuple[int, ...]], ...]) -> FloatArray:
        """Length of an axis (count,)."""
        length = np.zeros(self.count)
        for factor, dimensions in axis:
            product = np.full_like(length, float(factor))
            for dimension in dimensions:
                product = product * self.units[dimension]
            length = length + product
        return length


class SizeTable:
    """Sizes of the axes of a network over encoded candidates, and sums of products of them."""

    def __init__(self, supernet: Supernet, coupling: Coupling) -> None:
        self.coupling = coupling
        self._space: Space = supernet.space
        columns = {choice.name: column for column, choice in enumerate(self._space.choices)}
        by_cut = {
            cut: columns[choice.name]
            for choice in self._space.choices
            for cut in choice.cuts
            if isinstance(cut, AxisCut)
        }
        self._positions = {
            cut.blocks: {name: index for index, name in enumerate(supernet.model.get_submodule(cut.blocks)._modules)}
            for _, cut in cuts_of(self._space, BlockCut)
        }
        self._column = [by_cut.get(dimension.cuts[0]) for dimension in coupling.dimensions]
        self._blocks = [(columns[choice.name], cut) for choice, cut in cuts_of(self._space, BlockCut)]

    def total(self, terms: list[tuple[str, Factors, float]], encoded: IntArray) -> FloatArray:
        """Sum over terms (path, axes, scale) of scale times the product of the axes' sizes, dropped blocks left out."""
        sizes = self.of(encoded)
        total = np.zeros(sizes.count)
        for path, axes, scale in terms:
            value = sizes.runs(path) * scale
            for axis in axes:
                value = value * sizes.length(axis)
            total += value
        return total

    def of(self, encoded: IntArray) -> "Sizes":
        """The sizes in encoded candidates (n, k)."""
        encoded = self._space.canonical(encoded)
        blocks: dict[str, FloatArray] = {}

        def runs(path: str) -> FloatArray:
            block = self._block(path)
            if block not in blocks:
                blocks[block] = self._runs(block, encoded)
            return blocks[block]

        return Sizes(len(encoded), self._units(encoded), runs)

    def _units(self, encoded: IntArray) -> Mapping[int, FloatArray]:
        """Units of every dimension (n,), by its index."""
        units = {}
        for index, (column, dimension) in enumerate(zip(self._column, self.coupling.dimensions, strict=True)):
            if column is None:
                units[index] = np.full(len(encoded), float(dimension.size))
            else:
                options = np.asarray(self._space.choices[column].options, dtype=np.float64)
                units[index] = options[encoded[:, column]]
        return units

    def _block(self, path: str) -> str:
        """The droppable block that a path lies in, '' for none."""
        for _, cut in self._blocks:
            prefix = f"{cut.blocks}." if cut.blocks else ""
            if path.startswith(prefix):
                name = path.removeprefix(prefix).partition(".")[0]
                index = self._positions[cut.blocks].get(name)
                return "" if index is None else f"{cut.blocks}.{index}"
        return ""

    def _runs(self, block: str, encoded: IntArray) -> FloatArray:
        """1 where a block runs (n,)."""
        path, _, index = block.rpartition(".")
        for column, cut in self._blocks:
            if cut.blocks == path and int(index) in cut.drop_order:
                table = [int(index) not in cut.dropped(int(option)) for option in self._space.choices[column].options]
                return np.asarray(table, dtype=np.float64)[encoded[:, column]]
        return np.ones(len(encoded))
