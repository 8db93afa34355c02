"""The networks that a layer is tried in: slim ResNet-50, MobileNetV2 and EfficientNet-B0, or the user's own.

EvoNorm (arXiv 2004.02967, section 4) scores every layer by what three networks become with it, because a layer that
trains in one often fails in another.

Differs: the paper says of its slim networks only that they have fewer channels; `PAPER` is our reading of it, and
`SMALL` is a size at which 100 steps take seconds on one core.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Protocol

import torch
from torch import nn

from nas.errors import UserError
from nas.evolving.layer_makers import LayerMaker, graph_maker
from nas.evolving.mobile import efficientnet_b0, mobilenet_v2
from nas.evolving.resnet50 import resnet50
from nas.networks.own_code import RAISED, current_folder, own_function
from nas.seeds import torch_seed
from nas.sentences import one_of
from search_spaces.graphs import LayerGraph

__all__ = ["ANCHORS", "PAPER", "SMALL", "Anchor", "AnchorSize", "Network", "OwnNetwork", "networks", "with_layer"]

Network = Callable[[LayerMaker], nn.Module]
"""Builds a network, (N, 3, H, W) to logits (N, outputs), with the layers that a maker makes."""


class Anchor(Protocol):
    """Builds a network of any size."""

    def __call__(
        self, layer: LayerMaker, /, *, outputs: int = ..., image_size: int = ..., width: float = ...
    ) -> nn.Module:
        """A network from images (N, 3, H, W) to logits (N, outputs); weights are drawn from PyTorch's generator.

        Args:
            layer: makes its normalization-activation layers.
            outputs: number of classes.
            image_size: side of the images in pixels, at least 12; below 224 some of the first strides are left out.
            width: factor of all channels, above 0; they are rounded to multiples of 4.

        Raises:
            ValueError: a number is out of its range.
        """


ANCHORS: Mapping[str, Anchor] = MappingProxyType(
    {"mobilenet-v2": mobilenet_v2, "efficientnet-b0": efficientnet_b0, "resnet50": resnet50}
)
"""The builders of the paper's networks by name, the cheapest first."""


@dataclass(frozen=True)
class AnchorSize:
    """How large the networks are in which layers are tried.

    Args:
        image_size: side of the images in pixels.
        widths: factor of the channels, by the name of the network.
        groups: into how many groups layers divide channels: slim networks have too few channels for the paper's 32.
        batch_size: rows of a step.
    """

    image_size: int
    widths: Mapping[str, float] = field(hash=False)
    groups: int
    batch_size: int


SMALL = AnchorSize(16, dict.fromkeys(ANCHORS, 1 / 8), 4, 32)
"""An eighth of the channels, for a CPU: 100 steps with batch norms and ReLU take 5 to 7 seconds on one core."""
PAPER = AnchorSize(32, {"mobilenet-v2": 0.5, "efficientnet-b0": 0.5, "resnet50": 0.25}, 32, 128)
"""As far as the paper's setting is known: CIFAR-10, a quarter of the channels of ResNet-50 and half of the others'."""


def networks(size: AnchorSize, outputs: int, names: Iterable[str] = tuple(ANCHORS)) -> dict[str, Network]:
    """The anchors of one size.

    Args:
        size: `SMALL`, `PAPER` or another.
        outputs: number of classes.
        names: which of them, in the order in which they are to be tried.

    Raises:
        UserError: a name is unknown.
    """
    unknown = next((name for name in names if name not in ANCHORS), None)
    if unknown is not None:
        raise UserError(f"an anchor must be {one_of(ANCHORS, unknown)}")
    return {
        name: partial(ANCHORS[name], outputs=outputs, image_size=size.image_size, width=size.widths.get(name, 1.0))
        for name in names
    }


@dataclass(frozen=True)
class OwnNetwork:
    """A network from the user's own code in which layers are tried.

    The factory is called as `factory(layer, outputs)`, or as `factory(layer)` if it takes one argument, where
    `layer(channels, activation)` makes a normalization-activation layer (see `LayerMaker`). Importing it runs the
    user's code, so its name comes from the command line only, never from a file of a run.

    Args:
        spec: `module:factory`; the module is looked for in the current folder first.
        outputs: number of classes.
    """

    spec: str
    outputs: int

    def __call__(self, layer: LayerMaker, /) -> nn.Module:
        """The network with these layers; UserError if the factory cannot be imported, fails or makes no module."""
        factory = own_function(self.spec)
        try:
            with current_folder():
                made = factory(layer, self.outputs) if _takes_two(factory) else factory(layer)
        except RAISED as error:
            # --debug shows the traceback.
            line = (str(error).strip().splitlines() or [""])[0][:300]
            raise UserError(f"{self.spec} cannot make a network: {type(error).__name__}: {line}") from error
        if not isinstance(made, nn.Module):
            raise UserError(f"{self.spec} must make a torch.nn.Module, it made {type(made).__name__}")
        return made


def _takes_two(factory: Callable[..., object]) -> bool:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in kinds for each in inspect.signature(factory).parameters.values()) > 1


def with_layer(network: Network, graph: LayerGraph, seed: int, groups: int = 32) -> nn.Module:
    """A network with the layers of a graph.

    Layers draw no random numbers, so that networks of one seed have the same weights whatever their layers are.

    Args:
        network: its builder.
        graph: the layer.
        seed: of its weights.
        groups: as of `GraphLayer`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, "anchor"))
        return network(graph_maker(graph, groups))
