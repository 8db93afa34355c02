"""What runs in a candidate, operator by operator, summed: numbers that carry over between networks of one family.

The time of a network is about the sum over its operators of a time that depends on their kind and sizes alone
(nn-Meter, Zhang et al. 2021, splits a network into kernels for that reason). Here the operators are those of the traced
graph that multiply matrices, which take nearly all of the time: a linear layer, a convolution or a product of attention
with M rows, N channels and K numbers to sum over. The sums stand in a fixed proportion to each other within a kind only
where the sizes do, so that fewer, larger operators differ from many small ones.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from search_spaces.arrays import FloatArray, IntArray
from search_spaces.inputs import Inputs
from search_spaces.supernets.costs import Sizes, SizeTable, rows_of
from search_spaces.supernets.supernet import Supernet
from search_spaces.tracing.coupling import Contraction, analyse

QUANTITIES = ("operators", "macs", "tiled_macs", "inputs", "outputs", "weights")
_TILE = 16


@dataclass(frozen=True)
class Kernels:
    """Encoded candidates (n, k) to sums over their operators (n, f), and the names of the f sums: `<quantity> <kind>`.

    Quantities: `operators`, their number; `macs`; `tiled_macs`, with channels and inner sizes rounded up to 16, as
    vector units and blocked kernels do; `inputs`, `outputs`, numbers read and written for one row of the batch;
    `weights`, numbers of the second operand.
    """

    names: tuple[str, ...]
    of: Callable[[IntArray], FloatArray]


def kernels(supernet: Supernet, example_inputs: Inputs) -> Kernels:
    """The sums for candidates of `supernet.space`, without building any of them.

    Args:
        supernet: whose model is traced.
        example_inputs: positional or keyword tensors, batch above 1.

    Raises:
        ValueError: the model cannot be traced with these inputs.
    """
    coupling = analyse(supernet.model, example_inputs)
    table, batch = SizeTable(supernet, coupling), rows_of(example_inputs)
    kinds = dict.fromkeys(map(_kind, coupling.contractions))
    by_kind = [(kind, [each for each in coupling.contractions if _kind(each) == kind]) for kind in kinds]

    def of(encoded: IntArray) -> FloatArray:
        sizes = table.of(np.asarray(encoded, dtype=np.int64))
        sums = [sum(_numbers(each, sizes, batch) for each in members) for _, members in by_kind]
        return np.concatenate(sums, axis=1) if sums else np.zeros((sizes.count, 0))

    return Kernels(tuple(f"{quantity} {kind}" for kind in kinds for quantity in QUANTITIES), of)


def _kind(product: Contraction) -> str:
    """Operators of one kind take alike long where their sizes are equal."""
    if product.kind != "convolution":
        return product.kind
    channels, *window = product.axes[-product.inner :]
    side = "x".join(str(sum(factor for factor, _ in axis)) for axis in window)
    return f"convolution {side}{' by channel' if channels == ((1, ()),) else ''}"


def _numbers(product: Contraction, sizes: Sizes, batch: int) -> FloatArray:
    """The quantities (n, 6) of one operator, 0 where it does not run."""
    lengths = [sizes.length(axis) for axis in product.axes]
    split = len(lengths) - product.inner
    rows = np.prod(lengths[: split - 1], axis=0) / (batch if product.per_row else 1)
    channel, inner = lengths[split - 1], np.prod(lengths[split:], axis=0)
    tiled = rows * _rounded(channel) * _rounded(inner)
    numbers = [np.ones_like(rows), rows * channel * inner, tiled, rows * inner, rows * channel, channel * inner]
    return np.stack(numbers, axis=1) * sizes.runs(product.module)[:, None]


def _rounded(sizes: FloatArray) -> FloatArray:
    return np.asarray(np.ceil(sizes / _TILE) * _TILE)
