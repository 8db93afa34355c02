"""The size of the files of candidates whose layers have precisions of their own.

What is kept of a layer is counted as it is found in OpenVINO files written by NNCF 3.4. A weight in float32 takes 4
bytes, and so do biases, norms and other constants in every file. Of a quantized layer a file has:

| precision | for each weight | and |
|---|---|---|
| `int8` | 1 byte | 4 bytes for each output channel, 8 where asymmetric; of linear layers 4 for each input (smoothing) |
| `int8-weights` | 1 byte | 3 bytes for each output channel, or for each row of a table of embeddings |
| `int4-weights` | 1/2 byte | 2 bytes for each group of 64 weights of a row; a convolution is kept as `int8-weights` |

A row that is no multiple of 64 has groups of 32 or 16; if it is no multiple of 16, the layer is kept as `int8-weights`.

The description of the graph (`model.xml`) counts too. Measured on BERT, ViT and ResNet of several depths it is about
4.9 KB for a linear layer with its share of norms and attention, 6.6 KB for a convolution, 20 KB for the rest of a
network, and 3 KB for each quantized layer.

A smaller precision never takes more than a larger one. For this, the two precisions in 8 bits count alike, by their
mean, which each of them misses by less than 1 %; and a layer that is so small that its scales and its description take
more than its weights give counts as in float32.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from torch import nn

from search_spaces.arrays import FloatArray
from search_spaces.supernets.precisions import FLOAT, INT4, Precisions, PrecisionTable
from search_spaces.supernets.sizes import CandidateSizes, SizeTable

_NETWORK = 20_000
"""Bytes of the description that belong to no layer: inputs, positions, masks, poolings."""
_OPERATOR = {"linear": 4_900, "convolution": 6_600, "attention": 0}
"""Bytes of the description of an operator, with its share of those around it."""
_QUANTIZED = {"linear": 3_100, "convolution": 3_700, "table": 2_900}
"""Bytes of it that an operator with a weight in 8 bits has on top."""
_IN_4_BITS = 2_600
_ASYMMETRIC = 1_000
# By output channel: 4 in `int8` and 3 in `int8-weights`; by input of a linear layer: 4 and 0.
_BY_CHANNEL, _BY_ROW_OF_TABLE, _BY_INPUT = 3.5, 3.0, 2.0
_ZERO_POINT = 4.0
_GROUPS = (16, 64)
"""The smallest and the largest groups of 4-bit weights that share a scale."""


class FileSize:
    """The bytes of the files of candidates that their weights as they are do not account for.

    Args:
        table: sizes of the network's axes.
        precisions: of its layers.
        model: the network.
    """

    def __init__(self, table: SizeTable, precisions: PrecisionTable, model: nn.Module) -> None:
        axes = dict(table.coupling.parameters)
        layers = {path: model.get_submodule(path) for path in precisions.paths}
        kinds = [_kind(layer) for layer in layers.values()]
        calls = Counter(each.module for each in table.coupling.contractions)
        # All operators of one block are left out together.
        self._graph: dict[str, float] = {}
        for each in table.coupling.contractions:
            block = table.block(each.module)
            self._graph[block] = self._graph.get(block, 0.0) + _OPERATOR[each.kind]
        self._axes = {path: axes[f"{path}.weight" if path else "weight"] for path in layers}
        self._channels = [int(getattr(layer, "transposed", False)) for layer in layers.values()]
        self._linear = _column(kind == "linear" for kind in kinds)
        self._bytes = _column(layer.get_parameter("weight").element_size() for layer in layers.values())
        self._by_channel = _column(_BY_ROW_OF_TABLE if kind == "table" else _BY_CHANNEL for kind in kinds)
        self._calls = _column(max(1, calls[path]) for path in layers)
        self._described = _column(_QUANTIZED[kind] for kind in kinds) * self._calls

    def of(self, chosen: Precisions, sizes: CandidateSizes) -> FloatArray:
        """Bytes (n,): the description of the graph, less what quantized layers save. They may be negative."""
        found = np.full(sizes.count, float(_NETWORK))
        for path, described in self._graph.items():
            found += described * sizes.runs(path)
        return found - self._saved(chosen, sizes) if self._axes else found

    def _saved(self, chosen: Precisions, sizes: CandidateSizes) -> FloatArray:
        """Bytes (n,) that quantized layers take less than in floating point, their description included."""
        weights, channels, inner = self._numbers(sizes)
        saved = (self._bytes - 1) * weights
        saved -= self._by_channel * channels
        saved -= _BY_INPUT * self._linear * inner
        saved -= self._described
        if chosen.asymmetric.any():
            saved -= chosen.asymmetric * (_ZERO_POINT * channels + _ASYMMETRIC)
        np.maximum(saved, 0.0, out=saved)
        fours = chosen.codes == INT4
        if fours.any():
            group = _groups(inner)
            least = (self._bytes - 0.5) * weights - _IN_4_BITS * self._calls
            least -= 2 * weights / group
            fours &= (group >= _GROUPS[0]) & (self._linear > 0)
            np.maximum(saved, least, out=saved, where=fours)
        saved *= chosen.codes != FLOAT
        saved *= np.stack([sizes.runs(path) for path in self._axes])
        total: FloatArray = saved.sum(0)
        return total

    def _numbers(self, sizes: CandidateSizes) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Weights, output channels and weights of a channel of every layer (p, n)."""
        lengths = [[sizes.length(axis) for axis in axes] for axes in self._axes.values()]
        weights = np.stack([_product(each) for each in lengths])
        channels = np.stack([each[channel] for each, channel in zip(lengths, self._channels, strict=True)])
        return weights, channels, weights / channels


def _kind(layer: nn.Module) -> str:
    if isinstance(layer, nn.Embedding):
        return "table"
    return "linear" if isinstance(layer, nn.Linear) else "convolution"


def _column(values: Iterable[float]) -> FloatArray:
    return np.array(list(values), dtype=np.float64)[:, None]


def _product(lengths: Sequence[FloatArray]) -> FloatArray:
    total = lengths[0]
    for length in lengths[1:]:
        total = total * length
    return total


def _groups(lengths: FloatArray) -> FloatArray:
    """The largest power of two, up to that of the largest groups, by which rows of these lengths can be divided."""
    numbers = lengths.astype(np.int64)
    # A number and its negative have their lowest set bit in common, and nothing else.
    groups: FloatArray = np.minimum(numbers & -numbers, _GROUPS[1]).astype(np.float64)
    return groups
