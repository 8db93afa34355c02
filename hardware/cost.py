"""What a module costs without running it: parameters, MACs and size, exact, on fake tensors.

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

from hardware.evaluating import evaluating
from hardware.inputs import Inputs, device_of, first_row, map_inputs, split

_MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """Exact costs of a module.

    Attributes:
        parameters: numbers in its parameters, tied ones once.
        macs: multiply-accumulates for one row of input, whatever the batch of the example.
        size_mib: MiB of its parameters at their own precision, tied ones once.
    """

    parameters: int
    macs: int
    size_mib: float


def cost(module: nn.Module, example_inputs: Inputs) -> Cost:
    """Costs of `module` for one row of `example_inputs`; nothing is computed and the module is left as it is.

    Args:
        module: on any device, the meta device included.
        example_inputs: tuple (positional) or mapping (keyword) of tensors; the batch is the first axis of the first.

    Raises:
        ValueError: no example inputs, or something else than tensors.
    """
    parameters = list(module.parameters())
    return Cost(
        parameters=sum(parameter.numel() for parameter in parameters),
        macs=_macs(module, example_inputs),
        size_mib=sum(parameter.numel() * parameter.element_size() for parameter in parameters) / _MIB,
    )


def _macs(module: nn.Module, example_inputs: Inputs) -> int:
    device = device_of(module)
    row = map_inputs(first_row(example_inputs), lambda value: value.to(device))
    # A constant tensor that is neither parameter nor buffer is met in the forward as it is.
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    own: dict[str, torch.Tensor] = {
        name: mode.from_tensor(value.detach()) for name, value in [*module.named_parameters(), *module.named_buffers()]
    }
    args, kwargs = split(map_inputs(row, mode.from_tensor))
    counter = FlopCounterMode(display=False, custom_mapping=_ATTENTION_ON_CPU)
    # Costs are those of inference, and a batch norm in train mode refuses a single row.
    with torch.no_grad(), evaluating(module), mode, counter:
        functional_call(module, own, args, kwargs)
    return int(counter.get_total_flops()) // 2


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Two per MAC of both products; heads of the keys may be shared, so those of the queries count."""
    batch, heads, queries, width = query
    return int(2 * batch * heads * queries * key[-2] * (width + value[-1]))


# The counter of torch knows the attention kernels of GPUs only.
_ATTENTION_ON_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
