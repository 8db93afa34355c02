"""Exact parameters, multiply-accumulates and bytes of encoded candidates, without building any of them.

The sizes of axes are evaluated with NumPy for all candidates at once (`SizeTable`), so that a search can count the
costs of whole populations.
"""

from collections.abc import Callable

from torch import nn

from search_spaces.arrays import FloatArray, IntArray
from search_spaces.inputs import Inputs
from search_spaces.space import Space
from search_spaces.supernets.file_size import FileSize
from search_spaces.supernets.precisions import PrecisionTable
from search_spaces.supernets.sizes import SizeTable, rows_of
from search_spaces.supernets.supernet import Supernet
from search_spaces.tracing.coupling import analyse

CostFunction = Callable[[IntArray], FloatArray]
_MIB = 2**20


def exact_costs(supernet: Supernet, example_inputs: Inputs, space: Space | None = None) -> dict[str, CostFunction]:
    """Functions from encoded candidates (n, k) to their exact costs (n,).

    The costs equal those of `hardware.cost` for the extracted module.

    Args:
        supernet: its model is traced once.
        example_inputs: a tuple of positional or a mapping of keyword tensors, batch above 1.
        space: the space that candidates are encoded in: that of the super-network (None), with fewer options, or joined
            with `quantization.space`.

    Returns:
        `macs`: multiply-accumulates for one row of the batch, of linear layers, convolutions and attention products (as
        counted in InstaTune, arXiv 2308.15609); `parameters`: number of weights, tied ones once; `size_mib`: bytes of
        these weights / 2**20, and where the space has precisions, bytes of the whole file that OpenVINO reads, within
        2 % for networks of some MiB (see `file_size`); `size_mib_int8`: bytes of the weights where those of linear
        layers and convolutions take one byte each and the others keep theirs, whatever the precisions of a candidate.

    Raises:
        ValueError: the model cannot be traced with these inputs, or the space has choices or options that are not of
            this super-network, or lacks some of its choices.
    """
    space = supernet.space if space is None else space
    precisions = PrecisionTable(supernet, space)
    table = SizeTable(supernet, analyse(supernet.model, example_inputs))
    rows = rows_of(example_inputs)
    bytes_of = {name: tensor.element_size() for name, tensor in supernet.model.named_parameters()}
    contractions = [
        (each.module, each.axes, 1.0 / rows if each.per_row else 1.0) for each in table.coupling.contractions
    ]
    weights = [(name, axes, 1.0) for name, axes in table.coupling.parameters]
    sizes = [(name, axes, bytes_of[name] / _MIB) for name, axes in table.coupling.parameters]
    layers = _layer_weights(supernet.model)
    small = [(name, axes, (1 if name in layers else bytes_of[name]) / _MIB) for name, axes in table.coupling.parameters]
    file = FileSize(table, precisions, supernet.model) if precisions.any else None

    def size_mib(encoded: IntArray) -> FloatArray:
        if file is None:
            return table.total(sizes, precisions.architecture(encoded))
        chosen = precisions.of(encoded)
        found = table.of(chosen.architecture)
        return table.sum(sizes, found) + file.of(chosen, found) / _MIB

    return {
        "macs": lambda encoded: table.total(contractions, precisions.architecture(encoded)),
        "parameters": lambda encoded: table.total(weights, precisions.architecture(encoded)),
        "size_mib": size_mib,
        "size_mib_int8": lambda encoded: table.total(small, precisions.architecture(encoded)),
    }


def _layer_weights(model: nn.Module) -> set[str]:
    """Names of the parameters that are weights of linear layers or convolutions, under every name that they have."""
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    ids = {id(part.weight) for part in model.modules() if isinstance(part, kinds)}
    return {name for name, value in model.named_parameters(remove_duplicate=False) if id(value) in ids}
