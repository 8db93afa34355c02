"""Exact costs of a module without running it: parameters, MACs, size and activation memory, from fake tensors.

MACs follow the convention of the InstaTune paper (arXiv 2308.15609): linear layers, convolutions and both matrix
products of attention count, for one row of input; biases, norms, softmax and other element-wise operations do not.
BERT-base at 128 tokens has 11.17 G MACs, ViT-B/16 has 17.56 G.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from hardware.backend import PRECISIONS
from hardware.inputs import device_of, first_row, map_inputs, split
from hardware.memory import Memory
from search_spaces.evaluating import evaluating
from search_spaces.inputs import Inputs
from search_spaces.selecting import LastSelected

_MIB = 2**20
_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


@dataclass(frozen=True)
class Cost:
    """Exact costs of a module.

    Attributes:
        parameters: number of scalars in the parameters; tied parameters count once.
        macs: multiply-accumulates for one row of input, whatever the batch of the example.
        size_mib: size of the parameters in MiB, in the precision they are stored in; tied parameters count once.
        layer_weights: number of scalars that are weights of linear layers and convolutions.
        peak_activation_mib: largest total size of the tensors that are alive at one operator, in MiB for one row of
            input. Inputs and results count from the operator that creates them to the last one that reads them; views
            share the memory of their base. Parameters and the workspace inside kernels are excluded.
    """

    parameters: int
    macs: int
    size_mib: float
    layer_weights: int
    peak_activation_mib: float

    def size_mib_at(self, precision: str) -> float:
        """Size of the parameters in MiB in another precision.

        A parameter takes 4 bytes in float32 and 2 in bfloat16. In int8 the weights of linear layers and convolutions
        take 1 byte; all other parameters stay float32.

        Raises:
            ValueError: an unknown precision.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"the precision must be one of {', '.join(PRECISIONS)}, got {precision}")
        layers = {"float32": 4, "bfloat16": 2, "int8": 1}[precision]
        rest = {"float32": 4, "bfloat16": 2, "int8": 4}[precision]
        return (layers * self.layer_weights + rest * (self.parameters - self.layer_weights)) / _MIB


def cost(module: nn.Module, example_inputs: Inputs) -> Cost:
    """Compute the costs of `module` for one row of `example_inputs`.

    The forward pass is traced with fake tensors, so nothing is calculated; the module is not changed.

    Args:
        module: on any device, including the meta device.
        example_inputs: tuple (positional) or mapping (keyword) of tensors; the first axis of the first is the batch.

    Raises:
        ValueError: there are no example inputs, or they are not tensors.
    """
    parameters = list(module.parameters())
    weights = {id(part.weight): part.weight.numel() for part in module.modules() if isinstance(part, _LAYERS)}
    macs, peak = _traced(module, example_inputs)
    return Cost(
        parameters=sum(parameter.numel() for parameter in parameters),
        macs=macs,
        size_mib=sum(parameter.numel() * parameter.element_size() for parameter in parameters) / _MIB,
        layer_weights=sum(weights.values()),
        peak_activation_mib=peak / _MIB,
    )


def _traced(module: nn.Module, example_inputs: Inputs) -> tuple[int, int]:
    """MACs, and the largest number of activation bytes alive at once, for one row."""
    device = device_of(module)
    # Clone, because the storage of a view is that of the whole batch, and memory is counted by storage.
    row = map_inputs(first_row(example_inputs), lambda value: value.to(device).clone())
    # The forward may use constant tensors that are neither parameters nor buffers; those are real tensors.
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fake_state: dict[str, torch.Tensor] = {
        name: mode.from_tensor(value.detach()) for name, value in [*module.named_parameters(), *module.named_buffers()]
    }
    args, kwargs = split(map_inputs(row, mode.from_tensor))
    counter = FlopCounterMode(display=False, custom_mapping=_ATTENTION_ON_CPU)
    memory = Memory(inputs=[*args, *kwargs.values()])
    # Costs describe inference; besides, a batch norm in training mode rejects a single row.
    with torch.no_grad(), evaluating(module), mode, memory, counter, LastSelected():
        output = functional_call(module, fake_state, args, kwargs)
    # FLOPs count the multiplication and the addition of a MAC separately.
    return int(counter.get_total_flops()) // 2, memory.peak(output)


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """FLOPs of attention, two per MAC of both matrix products.

    Grouped-query attention has fewer heads of keys than of queries, so the heads of the queries are counted.
    """
    batch, heads, queries, width = query
    return int(2 * batch * heads * queries * key[-2] * (width + value[-1]))


# The FLOP counter of torch covers the attention kernels of GPUs only.
_ATTENTION_ON_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
