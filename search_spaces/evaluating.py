"""A context in which a network is traced or measured: evaluation mode, and no key-value cache among its outputs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put `model` into evaluation mode and turn key-value caches off; on exit, both are as they were before.

    Decoders of transformers return a cache object unless their configuration says otherwise. `torch.export` and ONNX
    cannot represent that object, and the logits do not depend on it.
    """
    parts = list(model.modules())
    # Modes are remembered for each module, since a user may have frozen some of them in evaluation mode on purpose.
    training = [part for part in parts if part.training]
    configs: list[Any] = [config for part in parts if (config := getattr(part, "config", None)) is not None]
    # Several modules usually share one configuration object, which must be restored once.
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
