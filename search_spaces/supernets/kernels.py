"""Features for latency prediction: sums over the matrix products and convolutions that run in a candidate.

The latency of a network is roughly a sum over its operators, each with a latency that depends on its kind and sizes
only (nn-Meter, Zhang et al., MobiSys 2021, splits networks into kernels for this reason). The operators here are those
that multiply matrices, which take nearly all of the time: linear layers, convolutions and attention products, with M
rows, N channels and K numbers to sum over. Each kind contributes several quantities (`QUANTITIES`), which weigh few
large operators and many small ones differently. Models of these features transfer between networks of one family.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from search_spaces.arrays import FloatArray, IntArray
from search_spaces.inputs import Inputs
from search_spaces.quantization import FLOATING_PRECISIONS, FULL, PRECISIONS
from search_spaces.space import Space
from search_spaces.supernets.precisions import FLOAT, Precisions, PrecisionTable
from search_spaces.supernets.sizes import CandidateSizes, SizeTable, rows_of
from search_spaces.supernets.supernet import Supernet
from search_spaces.tracing.coupling import Contraction, analyse

QUANTITIES = ("operators", "macs", "tiled_macs", "inputs", "outputs", "weights")
# Kernels compute channels and inner sizes in multiples of about this; an AVX-512 register holds 16 float32 numbers.
_TILE = 16
_COMPUTED = (*PRECISIONS[:FLOAT], *FLOATING_PRECISIONS)


@dataclass(frozen=True)
class Kernels:
    """The sums over operators as features of candidates.

    The quantities that are summed for each kind of operator: `operators`, their number; `macs`, multiply-accumulates;
    `tiled_macs`, the same with channels and inner sizes rounded up to multiples of 16, as vector units and blocked
    kernels compute them; `inputs` and `outputs`, the numbers read and written for one row of the batch; `weights`, the
    numbers of the second operand.

    Attributes:
        names: of the f features, each `<quantity> <kind>`, or `<quantity> <kind> <precision>` where the space has
            precisions: operators of one kind that compute in different precisions are summed apart.
        of: function from encoded candidates (n, k) to their features (n, f).
    """

    names: tuple[str, ...]
    of: Callable[[IntArray], FloatArray]


def kernels(supernet: Supernet, example_inputs: Inputs, space: Space | None = None) -> Kernels:
    """The sums over operators of candidates, computed without building any of them.

    A quantized layer computes in its precision; layers in float32 and attention products compute in what the space
    chooses for all that is in floating point (`floating`, or float32 where it has no such choice).

    Args:
        supernet: its model is traced once.
        example_inputs: a tuple of positional or a mapping of keyword tensors, batch above 1.
        space: the space that candidates are encoded in: that of the super-network (None), with fewer options, or joined
            with `quantization.space`.

    Raises:
        ValueError: the model cannot be traced with these inputs, or the space has choices or options that are not of
            this super-network, or lacks some of its choices.
    """
    precisions = PrecisionTable(supernet, supernet.space if space is None else space)
    coupling = analyse(supernet.model, example_inputs)
    table, batch = SizeTable(supernet, coupling), rows_of(example_inputs)
    kinds = dict.fromkeys(map(_kind, coupling.contractions))
    sums = [_Sum(kind, [each for each in coupling.contractions if _kind(each) == kind], precisions) for kind in kinds]

    def of(encoded: IntArray) -> FloatArray:
        chosen = precisions.of(np.asarray(encoded, dtype=np.int64))
        sizes = table.of(chosen.architecture)
        found = [each.of(chosen, sizes, batch) for each in sums]
        return np.concatenate(found, axis=1) if found else np.zeros((sizes.count, 0))

    return Kernels(tuple(name for each in sums for name in each.names), of)


class _Sum:
    """The sums over the operators of one kind, apart for each precision that any of them may compute in.

    Args:
        kind: of the operators.
        members: the operators.
        precisions: of the layers that they belong to.
    """

    def __init__(self, kind: str, members: Sequence[Contraction], precisions: PrecisionTable) -> None:
        self._members = [(each, precisions.position(each.module)) for each in members]
        possible: set[str] = set()
        for each, position in self._members:
            options = (FULL,) if position is None else precisions.options(each.module)
            possible.update(option for option in options if option != FULL)
            if FULL in options:
                possible.update(precisions.floating)
        self._codes = [code for code, name in enumerate(_COMPUTED) if name in possible]
        self._columns = np.zeros(len(_COMPUTED), dtype=np.int64)
        self._columns[self._codes] = np.arange(len(self._codes))
        labels = [f" {_COMPUTED[code]}" if precisions.any else "" for code in self._codes]
        self.names = tuple(f"{quantity} {kind}{label}" for label in labels for quantity in QUANTITIES)

    def of(self, chosen: Precisions, sizes: CandidateSizes, batch: int) -> FloatArray:
        """The sums (n, 6 p) for n candidates, by precision."""
        total = np.zeros((sizes.count, len(self._codes), len(QUANTITIES)))
        rows, floating = np.arange(sizes.count), FLOAT + chosen.floating
        for product, position in self._members:
            if len(self._codes) == 1:
                total[:, 0] += _quantities(product, sizes, batch)
                continue
            codes = floating if position is None else chosen.codes[position]
            columns = self._columns[np.where(codes == FLOAT, floating, codes)]
            total[rows, columns] += _quantities(product, sizes, batch)
        return total.reshape(sizes.count, -1)


def _kind(product: Contraction) -> str:
    """The kind of an operator: two operators of one kind and equal sizes take equally long."""
    if product.kind != "convolution":
        return product.kind
    # 1x1, 3x3 and depthwise convolutions have kernels of their own, which differ in speed at equal sizes.
    channels, *window = product.axes[-product.inner :]
    side = "x".join(str(sum(factor for factor, _ in axis)) for axis in window)
    return f"convolution {side}{' by channel' if channels == ((1, ()),) else ''}"


def _quantities(product: Contraction, sizes: CandidateSizes, batch: int) -> FloatArray:
    """The quantities (n, 6) of one operator in n candidates, 0 in those that drop it."""
    lengths = [sizes.length(axis) for axis in product.axes]
    split = len(lengths) - product.inner
    rows = np.prod(lengths[: split - 1], axis=0) / (batch if product.per_row else 1)
    channel, inner = lengths[split - 1], np.prod(lengths[split:], axis=0)
    tiled = rows * _rounded(channel) * _rounded(inner)
    numbers = [np.ones_like(rows), rows * channel * inner, tiled, rows * inner, rows * channel, channel * inner]
    return np.stack(numbers, axis=1) * sizes.runs(product.module)[:, None]


def _rounded(sizes: FloatArray) -> FloatArray:
    return np.asarray(np.ceil(sizes / _TILE) * _TILE)
