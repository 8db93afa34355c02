"""What a module costs without running it: parameters, MACs, size and memory, exact, on fake tensors.

MACs follow the convention of the papers (InstaTune, arXiv 2308.15609): linear layers, convolutions and both matrix
products of attention, one row of input; biases, norms, softmax and other element-wise work are not counted. BERT-base
at 128 tokens has 11.17 G, ViT-B/16 has 17.56 G.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from hardware.backend import PRECISIONS
from hardware.evaluating import evaluating
from hardware.inputs import Inputs, device_of, first_row, map_inputs, split
from hardware.memory import Memory

_MIB = 2**20
_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


@dataclass(frozen=True)
class Cost:
    """Exact costs of a module.

    Attributes:
        parameters: numbers in its parameters, tied ones once.
        macs: multiply-accumulates for one row of input, whatever the batch of the example.
        size_mib: MiB of its parameters at their own precision, tied ones once.
        layer_weights: those of the parameters that are weights of linear layers and convolutions.
        peak_activation_mib: largest sum of the tensors that are alive at one operator, for one row of input, in the
            order in which the operators run: inputs, results and views of them, each memory once, from the operator
            that makes it to the last that reads it. Parameters, and what a kernel needs inside, are not part of it.
    """

    parameters: int
    macs: int
    size_mib: float
    layer_weights: int
    peak_activation_mib: float

    def size_mib_at(self, precision: str) -> float:
        """MiB of the parameters: 4 bytes each in float32, 2 in bfloat16; in int8 1 for layer weights and 4 for others.

        Raises:
            ValueError: another precision.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"the precision must be one of {', '.join(PRECISIONS)}, got {precision}")
        layers = {"float32": 4, "bfloat16": 2, "int8": 1}[precision]
        rest = {"float32": 4, "bfloat16": 2, "int8": 4}[precision]
        return (layers * self.layer_weights + rest * (self.parameters - self.layer_weights)) / _MIB


def cost(module: nn.Module, example_inputs: Inputs) -> Cost:
    """Costs of `module` for one row of `example_inputs`; nothing is computed and the module is left as it is.

    Args:
        module: on any device, the meta device included.
        example_inputs: tuple (positional) or mapping (keyword) of tensors; the batch is the first axis of the first.

    Raises:
        ValueError: no example inputs, or something else than tensors.
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
    """MACs and the peak of live bytes of one row."""
    device = device_of(module)
    # A copy: a row that is a view would count as all the rows.
    row = map_inputs(first_row(example_inputs), lambda value: value.to(device).clone())
    # A constant tensor that is neither parameter nor buffer is met in the forward as it is.
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    own: dict[str, torch.Tensor] = {
        name: mode.from_tensor(value.detach()) for name, value in [*module.named_parameters(), *module.named_buffers()]
    }
    args, kwargs = split(map_inputs(row, mode.from_tensor))
    counter = FlopCounterMode(display=False, custom_mapping=_ATTENTION_ON_CPU)
    memory = Memory(inputs=[*args, *kwargs.values()])
    # Costs are those of inference, and a batch norm in train mode refuses a single row.
    with torch.no_grad(), evaluating(module), mode, memory, counter:
        output = functional_call(module, own, args, kwargs)
    return int(counter.get_total_flops()) // 2, memory.peak(output)


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Two per MAC of both products; heads of the keys may be shared, so those of the queries count."""
    batch, heads, queries, width = query
    return int(2 * batch * heads * queries * key[-2] * (width + value[-1]))


# The counter of torch knows the attention kernels of GPUs only.
_ATTENTION_ON_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
