"""One network in many policies: read and calibrated once, then written in each of them in a moment."""

import weakref
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hardware.inputs import Inputs, split
from hardware.openvino_layers import Graph, Int8
from hardware.policy import LayerPrecision
from hardware.quantized import Shape, quantized


class Network:
    """A network's float32 graph in OpenVINO, and how its layers compute in INT8.

    All layers are quantized together when the first policy needs one in INT8. What nncf found for a layer (factors,
    range of its input, rounded weight, corrected bias) is then grafted onto the float32 graph for each policy.

    Args:
        graph: of the network.
        inputs: shape by the name of each input.
    """

    def __init__(self, graph: Graph, inputs: Mapping[str, Shape]) -> None:
        self.graph = graph
        self._inputs = inputs
        self._rows: Sequence[Inputs] = ()
        self._int8: Mapping[str, Int8] = {}

    def written(
        self, layers: Mapping[str, LayerPrecision], calibration: Sequence[Inputs] | None, *, seven_bits: bool = False
    ) -> Any:
        """The OpenVINO model with these layers in these precisions.

        Args:
            layers: precision by path.
            calibration: inputs of one row each; None for made-up ranges, which suffice to measure latency.
            seven_bits: see `hardware.quantized.quantized`.

        Raises:
            ConversionError: nncf cannot quantize the network.
            ValueError: there are no rows, or they are not inputs of the network.
        """
        paths = [path for path, precision in layers.items() if precision == "int8"]
        if not paths:
            return self.graph.rewritten(layers, {})
        if calibration is None:
            return self.graph.rewritten(layers, self.graph.uncalibrated(paths))
        if not self._int8 or not _equal(calibration, self._rows):
            model = quantized(
                self.graph.model, self._inputs, calibration, left_out=self.graph.others(), seven_bits=seven_bits
            )
            self._rows, self._int8 = tuple(calibration), self.graph.read(model)
        return self.graph.rewritten(layers, self._int8)


class LastNetwork:
    """Keeps the last network, so that asking for it again costs nothing.

    It is the same network if the module is the same object, holds the same numbers in its parameters and buffers, and
    is called with inputs of the same names, types and sizes (the batch aside). Everything else about the module must
    not change. One network is kept at a time, in the memory of its float32 file and a quarter of that.
    """

    def __init__(self) -> None:
        self._module: Callable[[], nn.Module | None] = lambda: None
        self._key: object = None
        self._network: Network | None = None

    def of(self, module: nn.Module, example_inputs: Inputs, read: Callable[[], Network]) -> Network:
        """The network of `module`, by `read` where it is not the last one."""
        key = _numbers(module), _sizes(example_inputs)
        if self._network is None or self._module() is not module or self._key != key:
            # Let go of the last one first: two large networks may not fit into memory.
            self._network = None
            self._network = read()
            self._module, self._key = weakref.ref(module), key
        return self._network


def _numbers(module: nn.Module) -> int:
    """A checksum of all parameters and buffers; a network of 100 MB takes 0.02 s."""
    total = 0
    for value in [*module.parameters(), *module.buffers()]:
        numbers = value.detach().cpu().contiguous().view(-1)
        total = zlib.crc32(numbers.view(torch.uint8).numpy().data, total)
    return total


def _sizes(inputs: Inputs) -> object:
    args, kwargs = split(inputs)
    named = [*enumerate(args), *kwargs.items()]
    # The length of texts varies as the batch does, but which axes do is decided by the types.
    return [(name, value.dtype, value.shape[1:] if value.is_floating_point() else value.ndim) for name, value in named]


def _equal(some: Sequence[Inputs], others: Sequence[Inputs]) -> bool:
    return len(some) == len(others) and all(_equal_rows(*pair) for pair in zip(some, others, strict=True))


def _equal_rows(one: Inputs, other: Inputs) -> bool:
    pairs = [[*enumerate(args), *kwargs.items()] for args, kwargs in (split(one), split(other))]
    names = [[name for name, _ in pair] for pair in pairs]
    return names[0] == names[1] and all(torch.equal(value, same) for (_, value), (_, same) in zip(*pairs, strict=True))
