"""The one form in which networks are fine-tuned, measured and opened again: attention in plain layers."""

from torch import nn

from nas.errors import UserError
from search_spaces import plain_attention


def in_plain_layers(module: nn.Module) -> nn.Module:
    """The network with every `nn.MultiheadAttention` in plain layers, or itself where it has none.

    Raises:
        UserError: an attention has no such form.
    """
    try:
        return plain_attention(module)
    except ValueError as error:
        raise UserError(str(error)) from error
