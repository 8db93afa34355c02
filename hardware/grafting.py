"""One network in many policies: read and calibrated once, then written in each of them in a moment."""

import weakref
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from hardware.backend import ConversionError, Runner, check_quantized
from hardware.inputs import split
from hardware.layers import Layers, quantized_layers
from hardware.policy import Policy
from search_spaces.inputs import Inputs
from search_spaces.quantization import LayerPrecision


class Graph(Protocol):
    """A float32 network in the format of a runtime, from which it can be written in any precision of its layers.

    Attributes:
        layers: of the file that it was read from.
        operators: the names of the operators of each layer, by its path.
    """

    layers: Layers
    operators: dict[str, list[str]]

    def calibrated(self, rows: Sequence[Inputs], *, asymmetric: bool, seven_bits: bool) -> dict[str, Any]:
        """How each operator that nncf can quantize computes in INT8, by its name.

        Args:
            rows: inputs of one row each.
            asymmetric: whether weights have a zero point.
            seven_bits: see `hardware.quantized.quantized`.

        Raises:
            ConversionError: nncf cannot quantize the network.
            ValueError: there are no rows, or they are not inputs of the network.
        """

    def uncalibrated(self, paths: Collection[str], asymmetric: Collection[str]) -> dict[str, Any]:
        """How the operators of some layers would compute in INT8, with made-up ranges of their inputs.

        The model then has the operators of a calibrated one, and so its latency and size, but its outputs mean nothing.
        """

    def rewritten(self, layers: Mapping[str, LayerPrecision], int8: Mapping[str, Any]) -> Any:
        """The network in the runtime's format, with layers in other precisions.

        Args:
            layers: precision by path.
            int8: how the operators of the layers in int8 compute, by their names; of a layer that is called several
                times, some may be missing, whose input does not depend on the network's.

        Raises:
            ConversionError: a layer cannot be in its precision.
        """


class Network:
    """A network's graph, and how its layers compute in INT8.

    All layers are quantized together when the first policy needs one in INT8. What nncf found for a layer (factors,
    range of its input, rounded weight, corrected bias) is then grafted onto the float32 graph for each policy.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._rows: Sequence[Inputs] = ()
        # By whether weights have a zero point.
        self._int8: dict[bool, dict[str, Any]] = {}
        self._doubtful = False

    def written(
        self,
        policy: Policy,
        layers: Mapping[str, LayerPrecision],
        calibration: Sequence[Inputs] | None,
        check: Callable[[Any], None],
        *,
        seven_bits: bool = False,
    ) -> Any:
        """The model in a policy.

        Args:
            policy: tells which layers are asymmetric.
            layers: precision by path, of those that are not in float32.
            calibration: inputs of one row each; None for made-up ranges, which suffice to measure latency.
            check: raises ConversionError for a model whose outputs are useless. It is given the network with all layers
                in INT8 once and, only where that one is useless, every one that is returned.
            seven_bits: see `hardware.quantized.quantized`.

        Raises:
            ConversionError: nncf cannot quantize the network, or `check` fails.
            ValueError: there are no rows, they are not inputs of the network, or asymmetric layers would need 7 bits.
        """
        if seven_bits and policy.asymmetric:
            raise ValueError(
                "sums of INT8 products are cut off on this processor, and only symmetric weights can be rounded to "
                "7 bits, which avoids that; leave `asymmetric` empty"
            )
        paths = [path for path, precision in layers.items() if precision == "int8"]
        if not paths:
            return self.graph.rewritten(layers, {})
        if calibration is None:
            return self.graph.rewritten(layers, self.graph.uncalibrated(paths, policy.asymmetric))
        if not _equal(calibration, self._rows):
            self._rows, self._int8, self._doubtful = tuple(calibration), {}, False
        int8: dict[str, Any] = {}
        for asymmetric in (False, True):
            chosen = [path for path in paths if (path in policy.asymmetric) is asymmetric]
            if chosen and asymmetric not in self._int8:
                self._quantize(asymmetric, seven_bits, check)
            for path in chosen:
                operators = self.graph.operators.get(path, [])
                names = [name for name in operators if name in self._int8[asymmetric]]
                if operators and not names:
                    raise ConversionError(f"{path} must stay in float32, because nncf cannot quantize it")
                int8 |= {name: self._int8[asymmetric][name] for name in names}
        model = self.graph.rewritten(layers, int8)
        if self._doubtful:
            check(model)
        return model

    def _quantize(self, asymmetric: bool, seven_bits: bool, check: Callable[[Any], None]) -> None:
        found = self.graph.calibrated(self._rows, asymmetric=asymmetric, seven_bits=seven_bits)
        self._int8[asymmetric] = found
        everywhere: dict[str, LayerPrecision] = {
            path: "int8" for path, names in self.graph.operators.items() if set(names) & set(found)
        }
        try:
            check(self.graph.rewritten(everywhere, found))
        except ConversionError:
            self._doubtful = True


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

    def written(
        self,
        module: nn.Module,
        example_inputs: Inputs,
        policy: Policy,
        calibration: Sequence[Inputs] | None,
        *,
        read: Callable[[], Graph],
        run: Callable[[Any], Runner],
        seven_bits: bool,
    ) -> Any:
        """The model of a module in a policy, in the runtime's format.

        Args:
            module: the network.
            example_inputs: its outputs on them must not be useless.
            policy: checked by `check_layers`.
            calibration: see `Network.written`.
            read: the graph of the module, called where it is not the last one.
            run: loads a model.
            seven_bits: see `hardware.quantized.quantized`.

        Raises:
            ConversionError, ValueError: as `read`, `quantized_layers` and `Network.written`.
        """
        network = self._of(module, example_inputs, read)
        layers = quantized_layers(policy, module, network.graph.layers)

        def check(model: Any) -> None:
            check_quantized(module, run(model), example_inputs)

        return network.written(policy, layers, calibration, check, seven_bits=seven_bits)

    def _of(self, module: nn.Module, example_inputs: Inputs, read: Callable[[], Graph]) -> Network:
        key = _numbers(module), _sizes(example_inputs)
        if self._network is None or self._module() is not module or self._key != key:
            # Let go of the last one first: two large networks may not fit into memory.
            self._network = None
            self._network = Network(read())
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
