"""Example inputs of a module: as arguments of its call, and derived from the configuration of a transformers model."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

Inputs = tuple[torch.Tensor, ...] | Mapping[str, torch.Tensor]


def split_inputs(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of example inputs given as a tuple or a mapping."""
    return ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(inputs), {})


def default_inputs(model: nn.Module) -> dict[str, torch.Tensor]:
    """Small example inputs, batch 2, one text padded: a model's own `example_inputs()`, else by its configuration.

    Raises:
        ValueError: the model is none of transformers, or takes neither token ids nor pixels.
    """
    own = getattr(model, "example_inputs", None)
    if callable(own):
        return dict(own())
    config: Any = getattr(model, "config", None)
    name = getattr(model, "main_input_name", None)
    if name == "input_ids" and hasattr(config, "vocab_size"):
        tokens = min(16, int(getattr(config, "max_position_embeddings", 16)) - 4)
        ids = torch.arange(2 * tokens).reshape(2, tokens) % max(1, config.vocab_size - 4) + 3
        mask = torch.ones(2, tokens, dtype=torch.long)
        mask[1, tokens - tokens // 3 :] = 0
        return {"input_ids": ids % config.vocab_size, "attention_mask": mask}
    # The image half of a network for images and texts (CLIP, SigLIP) has a configuration of its own.
    image = getattr(config, "vision_config", config)
    if name == "pixel_values" and hasattr(image, "num_channels"):
        # A convolutional network has no size of its own: any that its strides leave something of will do.
        size = getattr(image, "image_size", None) or 64
        height, width = size if isinstance(size, Sequence) else (size, size)
        shape = (2, int(image.num_channels), int(height), int(width))
        return {"pixel_values": torch.randn(shape, generator=torch.Generator().manual_seed(0))}
    raise ValueError(
        f"example_inputs must be given for {type(model).__name__}: a tuple or a mapping of tensors with a batch above 1"
    )
