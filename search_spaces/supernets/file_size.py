"""The size of the files of candidates whose layers have precisions of their own.

What is kept of a layer is counted as it is found in the files that `hardware` writes for OpenVINO, which are those of
NNCF 3.4. A weight in float32 takes 4 bytes, and so do biases, norms and other constants in every file. Of a quantized
layer a file has:

| precision | for each weight | and |
|---|---|---|
| `int8` | 1 byte | 4 bytes for each output channel, 8 where asymmetric; of linear layers 4 for each input (smoothing) |
| `int8-weights` | 1 byte | 3 bytes for each output channel, or for each row of a table of embeddings |
| `int4-weights` | 1/2 byte | 2 bytes for each group of weights that share a scale |

A group is 64 weights of one output of a linear layer; it is the whole output where these are no multiple of 64, and in
convolutions.

The description of the graph (`model.xml`) counts too. In files of BERT, ViT and ResNet of several depths it takes about
4.5 KB for a linear layer with its share of norms and attention, 2.8 KB for a convolution, and 15 KB for the rest of a
network; a quantized layer takes 2 to 3 KB on top.

A smaller precision never takes more than a larger one. For this, the two precisions in 8 bits count alike, by their
mean, which either misses by 1 % at most; and a layer that is so small that its scales and its description take more
than its weights give counts as in float32.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from torch import nn

from search_spaces.arrays import FloatArray
from search_spaces.supernets.precisions import FLOAT, INT4, Precisions, PrecisionTable
from search_spaces.supernets.sizes import CandidateSizes, SizeTable

_NETWORK = 15_000
"""Bytes of the description that belong to no layer: inputs, positions, masks, poolings."""
_OPERATOR = {"linear": 4_500, "convolution": 2_800, "attention": 0}
"""Bytes of the description of an operator, with its share of those around it."""
_IN_8_BITS = {"linear": 2_800, "convolution": 2_900, "table": 2_900}
"""Bytes of it that an operator with a quantized weight has on top."""
_IN_4_BITS = {"linear": 2_600, "convolution": 1_800, "table": 0}
_ASYMMETRIC = 1_000
# By output channel: 4 in `int8` and 3 in `int8-weights`; by input of a linear layer: 4 and 0.
_BY_CHANNEL, _BY_ROW_OF_TABLE, _BY_INPUT = 3.5, 3.0, 2.0
_ZERO_POINT = 4.0
_GROUP = 64


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
        repeated = _column(max(1, calls[path]) for path in layers)
        self._in_8_bits = _column(_IN_8_BITS[kind] for kind in kinds) * repeated
        self._in_4_bits = _column(_IN_4_BITS[kind] for kind in kinds) * repeated

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
        saved -= self._in_8_bits
        if chosen.asymmetric.any():
            saved -= chosen.asymmetric * (_ZERO_POINT * channels + _ASYMMETRIC)
        np.maximum(saved, 0.0, out=saved)
        fours = chosen.codes == INT4
        if fours.any():
            # Bits are much quicker than the remainder of a division of floats; a group is a power of two.
            in_groups = (inner.astype(np.int32) & (_GROUP - 1)) == 0
            scales = np.where(in_groups & (self._linear > 0), weights / _GROUP, channels)
            least = (self._bytes - 0.5) * weights - 2 * scales - self._in_4_bits
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
