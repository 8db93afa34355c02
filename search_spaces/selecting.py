"""A context in which a network can be traced that selects tokens by a mask: how many these are is not asked."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class LastSelected(TorchFunctionMode):
    """While active, `x[mask, :]` of (rows, tokens, features) is one token a row: the last that the mask selects.

    The encoder-decoders of transformers select the end-of-text tokens, check that all rows have equally many, and
    classify a row by its last one. Their number is a value of the inputs, so that the shapes behind it are not known
    while a graph is made. Of the last token alone, the same forward gives the same outputs.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.__getitem__ and _selects_tokens(*args):
            x, (mask, _) = args
            tokens = torch.arange(mask.shape[1], device=mask.device)
            return x[torch.arange(mask.shape[0], device=mask.device), (mask * tokens).argmax(1)]
        if func is torch.unique_consecutive:
            # The check, of which only the number of different values is used.
            return args[0][:1]
        return func(*args, **(kwargs or {}))


def _selects_tokens(x: torch.Tensor, index: Any) -> bool:
    if not (isinstance(index, tuple) and len(index) == 2 and isinstance(index[0], torch.Tensor)):
        return False
    mask = index[0]
    return index[1] == slice(None) and mask.dtype == torch.bool and (mask.dim(), x.dim()) == (2, 3)
