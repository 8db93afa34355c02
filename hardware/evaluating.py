"""Temporarily put a module into evaluation mode, without the key-value caches of text generation."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the context, restored afterwards.

    Key-value caches are switched off as well, because an exported file cannot return them as outputs.
    """
    training = [part for part in module.modules() if part.training]
    configs: list[Any] = [part.config for part in module.modules() if hasattr(part, "config")]
    caching = {id(config): config for config in configs if getattr(config, "use_cache", False) is True}.values()
    module.eval()
    for config in caching:
        config.use_cache = False
    try:
        yield
    finally:
        for config in caching:
            config.use_cache = True
        for part in training:
            part.training = True
