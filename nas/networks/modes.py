"""Restore the training or evaluation mode of each module of a network after changing it temporarily."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def keeping_modes(module: nn.Module) -> Iterator[None]:
    """Context in which modes may be changed; on leaving it, each sub-module of `module` has its old mode again."""
    # A user may have put single layers, for example frozen batch norms, in another mode than the rest, so the mode of
    # each sub-module is stored instead of calling `train` or `eval` on the whole network.
    modes = {part: part.training for part in module.modules()}
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
