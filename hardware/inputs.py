"""What is asked of example inputs, and how they are changed, whether they are passed by position or by name."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from search_spaces.inputs import Inputs, split_inputs

Result = TypeVar("Result")


def split(inputs: Inputs) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
    """Split inputs into positional and keyword tensors; raises ValueError if there are none or they are not tensors."""
    args, kwargs = split_inputs(inputs)
    tensors = [*args, *kwargs.values()]
    wrong = next((value for value in tensors if not isinstance(value, torch.Tensor)), None)
    if not tensors or wrong is not None:
        came = "nothing" if not tensors else type(wrong).__name__
        raise ValueError(
            f"example inputs must be a tuple or a mapping of tensors, got {came}; give at least one tensor"
        )
    return args, kwargs


def call(function: Callable[..., Result], inputs: Inputs) -> Result:
    """Call `function` with the inputs, by position or by name."""
    args, kwargs = split(inputs)
    return function(*args, **kwargs)


def map_inputs(inputs: Inputs, change: Callable[[torch.Tensor], torch.Tensor]) -> Inputs:
    """The same inputs with `change` applied to every tensor."""
    args, kwargs = split(inputs)
    if args:
        return tuple(change(value) for value in args)
    return {name: change(value) for name, value in kwargs.items()}


def batch_size(inputs: Inputs) -> int:
    """Length of the first axis of the first tensor; 1 for a scalar."""
    args, kwargs = split(inputs)
    first = next(iter([*args, *kwargs.values()]))
    return int(first.shape[0]) if first.ndim else 1


def is_tokens(value: torch.Tensor) -> bool:
    """Whether a tensor holds tokens: integers of shape (rows, length)."""
    return value.ndim == 2 and not value.is_floating_point()


def first_row(inputs: Inputs) -> Inputs:
    """The first row of the inputs; tensors whose first axis is not the batch stay as they are."""
    rows = batch_size(inputs)
    return map_inputs(inputs, lambda value: value[:1] if value.ndim and value.shape[0] == rows else value)


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's parameters; the CPU where it has none."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
