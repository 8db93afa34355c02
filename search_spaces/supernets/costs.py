"""Exact parameters, multiply-accumulates and bytes of encoded candidates, without building any of them.

Tracing gives the size of every axis as a formula of the dimensions (`AxisSize`). The formulas are evaluated with NumPy
for all candidates at once, so that a search can count the costs of whole populations.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from search_spaces.arrays import FloatArray, IntArray
from search_spaces.cuts import AxisCut, BlockCut
from search_spaces.inputs import Inputs, split_inputs
from search_spaces.space import Space
from search_spaces.supernets.slicing import cuts_of
from search_spaces.supernets.supernet import Supernet
from search_spaces.tracing.coupling import AxisSize, Coupling, analyse

CostFunction = Callable[[IntArray], FloatArray]


def exact_costs(supernet: Supernet, example_inputs: Inputs) -> dict[str, CostFunction]:
    """Functions from encoded candidates (n, k) of `supernet.space` to their exact costs (n,).

    The costs equal those of `hardware.cost` for the extracted module.

    Args:
        supernet: its model is traced once.
        example_inputs: a tuple of positional or a mapping of keyword tensors, batch above 1.

    Returns:
        `macs`: multiply-accumulates for one row of the batch, of linear layers, convolutions and attention products (as
        counted in InstaTune, arXiv 2308.15609); `parameters`: number of weights, tied ones once; `size_mib`: bytes of
        these weights / 2**20; `size_mib_int8`: the same where the weights of linear layers and convolutions take one
        byte each and the others keep theirs.

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
    layers = _layer_weights(supernet.model)
    small = [
        (name, axes, (1 if name in layers else bytes_of[name]) / 2**20) for name, axes in table.coupling.parameters
    ]
    return {
        "macs": lambda encoded: table.total(contractions, encoded),
        "parameters": lambda encoded: table.total(weights, encoded),
        "size_mib": lambda encoded: table.total(sizes, encoded),
        "size_mib_int8": lambda encoded: table.total(small, encoded),
    }


def _layer_weights(model: nn.Module) -> set[str]:
    """Names of the parameters that are weights of linear layers or convolutions, under every name that they have."""
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    ids = {id(part.weight) for part in model.modules() if isinstance(part, kinds)}
    return {name for name, value in model.named_parameters(remove_duplicate=False) if id(value) in ids}


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

    def length(self, axis: AxisSize) -> FloatArray:
        """The length of an axis in every candidate (count,)."""
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
        self._space: Space = supernet.space
        columns = {choice.name: column for column, choice in enumerate(self._space.choices)}
        by_cut = {
            cut: columns[choice.name]
            for choice in self._space.choices
            for cut in choice.cuts
            if isinstance(cut, AxisCut)
        }
        # Blocks are found by their names in a list, cuts count positions.
        self._positions = {
            cut.blocks: {name: index for index, name in enumerate(supernet.model.get_submodule(cut.blocks)._modules)}
            for _, cut in cuts_of(self._space, BlockCut)
        }
        # One cut identifies a dimension. None: no choice of the space narrows it, so it keeps its full size.
        self._column = [by_cut.get(dimension.cuts[0]) for dimension in coupling.dimensions]
        self._blocks = [(columns[choice.name], cut) for choice, cut in cuts_of(self._space, BlockCut)]

    def total(self, terms: list[tuple[str, tuple[AxisSize, ...], float]], encoded: IntArray) -> FloatArray:
        """The sum over `terms` (n,) for encoded candidates (n, k).

        Args:
            terms: (path of a module, axes, scale); each contributes scale times the product of the sizes of the axes,
                or 0 in the candidates that drop the module's block.
            encoded: the candidates.
        """
        sizes = self.of(encoded)
        total = np.zeros(sizes.count)
        for path, axes, scale in terms:
            value = sizes.runs(path) * scale
            for axis in axes:
                value = value * sizes.length(axis)
            total += value
        return total

    def of(self, encoded: IntArray) -> CandidateSizes:
        """The sizes of encoded candidates (n, k)."""
        encoded = self._space.canonical(encoded)
        # All modules of one block share the answer.
        blocks: dict[str, FloatArray] = {}

        def runs(path: str) -> FloatArray:
            block = self._block(path)
            if block not in blocks:
                blocks[block] = self._runs(block, encoded)
            return blocks[block]

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

    def _block(self, path: str) -> str:
        """`<path of the list>.<position>` of the block that contains a module; "" if no choice drops blocks there."""
        for _, cut in self._blocks:
            prefix = f"{cut.blocks}." if cut.blocks else ""
            if path.startswith(prefix):
                name = path.removeprefix(prefix).partition(".")[0]
                index = self._positions[cut.blocks].get(name)
                return "" if index is None else f"{cut.blocks}.{index}"
        return ""

    def _runs(self, block: str, encoded: IntArray) -> FloatArray:
        """1 for the candidates in which a block runs, 0 for the others (n,)."""
        path, _, index = block.rpartition(".")
        for column, cut in self._blocks:
            if cut.blocks == path and int(index) in cut.drop_order:
                table = [int(index) not in cut.dropped(int(option)) for option in self._space.choices[column].options]
                return np.asarray(table, dtype=np.float64)[encoded[:, column]]
        return np.ones(len(encoded))
