"""Train and evaluation mode of every part of a network, put back when it was borrowed."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def keeping_modes(module: nn.Module) -> Iterator[None]:
    """Every part of `module` is afterwards in the mode that it has now, whatever happens inside."""
    modes = {part: part.training for part in module.modules()}
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
