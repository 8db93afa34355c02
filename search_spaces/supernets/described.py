"""Build a network from a configuration that may come from anybody, and is as large as it says.

A number too many in a file of a thousand bytes would take all memory or all time. So a configuration is bounded, and
its network is first built without memory for its weights, which are counted.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

_MOST_NUMBERS = 2**31
"""Weights of the largest network that is built without any to read."""
_LARGEST_SIZE, _MOST_LAYERS = 2**31, 4096
_LAYERS = ("layer", "depth", "stage")


def built(configuration: Any, make: Callable[[], nn.Module], most: int = _MOST_NUMBERS) -> nn.Module:
    """Build a network.

    Args:
        configuration: that of transformers.
        make: builds its network; called twice.
        most: weights that it may have at most.

    Raises:
        ValueError: a number of the configuration is out of bounds, it describes no network, or one that is larger or
            has weights of no numbers; the message is one sentence.
    """
    check_numbers(configuration.to_dict())
    check_size(make, most)
    try:
        return make()
    except Exception as error:  # of any type, as wrong numbers and names end the code of the network anywhere
        raise ValueError(f"it describes no network: {type(error).__name__}: {_line(error)}") from error


def check_numbers(values: object) -> None:
    """Raise ValueError for a number of a configuration that is the size of nothing."""
    for name, number in _whole_numbers(values, ""):
        most = _MOST_LAYERS if any(word in name.rpartition(".")[2] for word in _LAYERS) else _LARGEST_SIZE
        if abs(number) > most:
            raise ValueError(f"{name[:60]} must be at most {most}, got {str(number)[:40]}")


def check_size(make: Callable[[], nn.Module], most: int) -> None:
    """Raise ValueError where a network has more weights than `most`, or one of no numbers."""
    try:
        with torch.device("meta"):
            module = make()
    except Exception:
        # Not every network can be built so, and one that cannot be built at all says why when it is.
        return
    total = sum(each.numel() for each in module.parameters())
    if total > most:
        raise ValueError(f"it describes a network of {total:,} weights, and at most {most:,} can be expected")
    empty = next((name for name, each in module.named_parameters() if each.numel() == 0), None)
    if empty is not None:
        raise ValueError(f"it describes a network whose {empty} has no numbers")


def _whole_numbers(value: object, name: str) -> Iterator[tuple[str, int]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _whole_numbers(each, f"{name}.{key}".removeprefix("."))
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _whole_numbers(each, name)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield name, value


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]
