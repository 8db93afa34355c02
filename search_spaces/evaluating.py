"""A network as it is looked at: evaluated, and without the caches that a generator of texts would keep."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every part of `model` in evaluation mode, no key-value caches among its outputs; all as it was afterwards.

    Decoders of transformers return a cache unless their configuration says otherwise. It is no tensor, so no exported
    graph can hold it, and the outputs asked for are the same without it.
    """
    parts = list(model.modules())
    training = [part for part in parts if part.training]
    configs: list[Any] = [config for part in parts if (config := getattr(part, "config", None)) is not None]
    caching = list({id(config): config for config in configs if getattr(config, "use_cache", False) is True}.values())
    model.eval()
    for config in caching:
        config.use_cache = False
    try:
        yield
    finally:
        for config in caching:
            config.use_cache = True
        for part in training:
            part.training = True
