"""Finds the batch norms of a module whose running statistics must be measured for each sub-network."""

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def has_batch_norms(module: nn.Module) -> bool:
    """Whether any batch norm of the module keeps running statistics."""
    return next(batch_norms(module), None) is not None


def batch_norms(module: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    """Path and module of every batch norm that keeps running statistics."""
    for path, part in module.named_modules():
        if isinstance(part, _BatchNorm) and part.running_mean is not None:
            yield path, part
