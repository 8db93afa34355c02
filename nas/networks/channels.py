"""How many channels a network reads from an image: three, or one of grey."""

import torch
from torch import nn

from nas.data.pixels import MODES
from nas.errors import UserError
from nas.networks.own_code import RAISED
from search_spaces.inputs import image_config


def configured_channels(module: nn.Module, name: str) -> int:
    """The channels that the configuration of a network of transformers names, 3 where it names none.

    Args:
        module: the network.
        name: of the model, for the message.

    Raises:
        UserError: pictures have neither three channels nor one of these.
    """
    channels = getattr(image_config(module), "num_channels", None)
    if channels is None:
        return 3
    if channels not in MODES:
        raise UserError(f"a network for images must read 3 channels, or 1 of grey, {name} reads {channels}")
    return int(channels)


def probed_channels(module: nn.Module, name: str, size: tuple[int, int]) -> int:
    """The channels that a network of the user's own takes: 3, or 1 where it takes these alone.

    Args:
        module: the network, in evaluation mode.
        name: keyword of its pixels.
        size: (height, width) of its images.
    """
    for channels in sorted(MODES, reverse=True):
        try:
            with torch.no_grad():
                module(**{name: torch.zeros(2, channels, *size)})
        except RAISED:  # a network that takes neither is refused later
            continue
        return channels
    return 3
