"""The images that the user's own networks read in an evolution, found by asking the networks."""

from collections.abc import Mapping

import torch

from nas.errors import UserError
from nas.evolving.anchors import Network
from nas.evolving.layer_makers import batch_norm_relu
from nas.evolving.propagation import first_convolution
from nas.networks.channels import probed_channels
from nas.networks.own_model import check_outputs, pixels_name

__all__ = ["channels_read"]


def channels_read(networks: Mapping[str, Network], side: int, outputs: int) -> int:
    """The channels of the images that all networks read: 3, or 1 where they take grey alone.

    Args:
        networks: by name, at least one; each is built once, so that a factory that fails is told at once.
        side: of the images, in pixels.
        outputs: number of classes.

    Raises:
        UserError: a network cannot be built, has no convolution, does not read such images or gives another number of
            outputs, or one reads colours and another grey.
    """
    found = {name: _channels(network, side, outputs) for name, network in networks.items()}
    first = next(iter(found))
    other = next((name for name in found if found[name] != found[first]), None)
    if other is not None:
        raise UserError(
            "the networks that layers are tried in must read the same images, 3 channels or 1 of grey: "
            f"{first} reads {found[first]}, {other} reads {found[other]}"
        )
    return found[first]


def _channels(network: Network, side: int, outputs: int) -> int:
    module = network(batch_norm_relu).eval()
    first_convolution(module)
    name = pixels_name(module)
    channels = probed_channels(module, name, (side, side))
    check_outputs(module, {name: torch.zeros(2, channels, side, side)}, outputs)
    return channels
