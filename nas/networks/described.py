"""What the files of a model hold, checked before a library goes by it: weights, tokenizer and image processor."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from nas.bounded import in_bounds
from nas.data.pixels import MOST_PIXELS
from nas.errors import UserError

_MOST_IDS, _LARGEST_WEIGHT = 2**31, 1e15
_SIZES = ("size", "crop_size", "pad_size", "image_size")


def check_tokenizer(tokenizer: Any, name: str, words: int | None = None) -> None:
    """UserError for a tokenizer whose numbers cannot be those of a network.

    Args:
        tokenizer: of transformers.
        name: of the model, for messages.
        words: how many tokens the network knows, where that is known.
    """
    longest = tokenizer.model_max_length
    if isinstance(longest, bool) or not isinstance(longest, (int, float)) or not longest >= 1:
        raise UserError(f"the tokenizer of {name} must have a model_max_length of at least 1, got {str(longest)[:40]}")
    tokens = max(len(tokenizer), 1 + max(tokenizer.get_vocab().values(), default=0))
    if words is not None and tokens > words:
        raise UserError(
            f"the tokenizer of {name} must be that of its network: the network knows {words} tokens, the tokenizer has "
            f"{tokens}; take the files of one model"
        )
    if tokens > _MOST_IDS:
        raise UserError(f"the tokenizer of {name} must have ids below {_MOST_IDS}, it has the id {tokens - 1}")


def check_weights(module: nn.Module, name: str) -> None:
    """UserError for weights that are no numbers, or so large that their products are none."""
    for path, parameter in module.named_parameters():
        if not (parameter.detach().abs().amax() <= _LARGEST_WEIGHT if parameter.numel() else True):
            raise UserError(
                f"the weights of {name} must be numbers of usual size, {path} has others; take another copy"
            )


def check_image_processor(processor: Any, name: str) -> None:
    """UserError for an image processor of transformers whose sizes or scales cannot be those of pictures."""
    for field in _SIZES:
        for number in _numbers(getattr(processor, field, None)):
            if not 1 <= number <= MOST_PIXELS:
                raise UserError(
                    f"the image processor of {name} must have a {field} from 1 to {MOST_PIXELS} pixels, got {number}"
                )
    for field in ("image_mean", "image_std", "rescale_factor"):
        for number in _numbers(getattr(processor, field, None)):
            if not in_bounds(number) or (field == "image_std" and number <= 0):
                raise UserError(f"the image processor of {name} must have a usable {field}, got {number}")


def _numbers(value: object) -> Iterator[float]:
    """The numbers of a value: of a size by its sides, of a list, or itself."""
    if isinstance(value, Mapping):
        value = list(value.values())
    elif hasattr(value, "__dict__"):
        value = list(vars(value).values())
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _numbers(each)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value
