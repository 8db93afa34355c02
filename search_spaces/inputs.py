"""Example inputs of a module: their type, how they are passed, and defaults for models of transformers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

Inputs = tuple[torch.Tensor, ...] | Mapping[str, torch.Tensor]


def split_inputs(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The (positional, keyword) arguments with which a module is called: a tuple of inputs gives the former only."""
    return ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(inputs), {})


def deciding_end(config: Any) -> int | None:
    """The token of the end that a network decides by, as encoder-decoders do: every text must have it once.

    Args:
        config: of transformers; None where the network has none.

    Returns:
        Its id, or None where the network decides otherwise.
    """
    end = getattr(config, "eos_token_id", None)
    return end if getattr(config, "is_encoder_decoder", False) and isinstance(end, int) else None


def end_texts(ids: torch.Tensor, config: Any, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Token ids of which the last, and no other, is the token of the end where a network decides by it.

    Args:
        ids: (rows, tokens); left as they are.
        config: as of `deciding_end`.
        mask: 0 where a row is padding; None: nowhere.
    """
    end = deciding_end(config)
    if end is None:
        return ids
    ended = torch.where(ids == end, (end + 1) % config.vocab_size, ids)
    last = torch.full((len(ids),), ids.shape[1]) if mask is None else mask.sum(1)
    ended[torch.arange(len(ids)), last - 1] = end
    return ended


def image_config(model: nn.Module) -> Any:
    """The configuration of what reads images in a network of transformers; None where it has no configuration."""
    config: Any = getattr(model, "config", None)
    # Models of images and texts (CLIP, SigLIP) keep that of their image encoder in `vision_config`.
    return getattr(config, "vision_config", config)


def default_inputs(model: nn.Module) -> dict[str, torch.Tensor]:
    """Small example inputs of batch 2, with padding in the second text.

    They come from the model's own `example_inputs()` where it has one, else from its transformers configuration.

    Args:
        model: the model that will be called with them.

    Returns:
        Keyword arguments: `input_ids` and `attention_mask` (2, length), or `pixel_values` (2, channels, height, width).

    Raises:
        ValueError: the model has no configuration of transformers, or takes neither token ids nor pixels.
    """
    own = getattr(model, "example_inputs", None)
    if callable(own):
        return dict(own())
    config: Any = getattr(model, "config", None)
    name = getattr(model, "main_input_name", None)
    if name == "input_ids" and hasattr(config, "vocab_size"):
        most = getattr(config, "max_position_embeddings", None)
        # RoBERTa counts positions from its padding id + 1, so a text must be a few tokens shorter than the table.
        # A network without a limit says so by None, or XLNet by -1.
        tokens = min(16, most if isinstance(most, int) and most > 0 else 16) - 4
        # Ids begin at 3: the first few are often special tokens (padding, start, end), which models treat differently.
        ids = torch.arange(2 * tokens).reshape(2, tokens) % max(1, config.vocab_size - 4) + 3
        mask = torch.ones(2, tokens, dtype=torch.long)
        mask[1, tokens - tokens // 3 :] = 0
        return {"input_ids": end_texts(ids % config.vocab_size, config, mask), "attention_mask": mask}
    image = image_config(model)
    if name == "pixel_values" and hasattr(image, "num_channels"):
        # Convolutional networks accept any image size. 64 pixels are small, but more than their strides divide away.
        size = getattr(image, "image_size", None) or 64
        height, width = size if isinstance(size, Sequence) else (size, size)
        shape = (2, int(image.num_channels), int(height), int(width))
        return {"pixel_values": torch.randn(shape, generator=torch.Generator().manual_seed(0))}
    raise ValueError(
        f"example_inputs must be given for {type(model).__name__}: a tuple or a mapping of tensors with a batch above 1"
    )
