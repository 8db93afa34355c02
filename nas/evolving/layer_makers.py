"""What puts normalization-activation layers into a network: the layer where it activates, else its affine part alone.

Where a network normalizes without an activation (the last convolution of an inverted bottleneck), a searched layer
keeps only its scale and shift, as in EvoNorm (arXiv 2004.02967, and `nonlinearity=False` in the authors' code).
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from search_spaces.graphs import GraphLayer, LayerGraph

__all__ = ["Affine", "LayerMaker", "batch_norm_relu", "graph_maker"]


class LayerMaker(Protocol):
    """Makes one normalization-activation layer of a network."""

    def __call__(self, channels: int, activation: bool, /) -> nn.Module:
        """A module from (N, C, H, W) to the same shape.

        Args:
            channels: C.
            activation: whether the network has an activation behind the normalization here.
        """


class Affine(nn.Module):
    """A scale and a shift of each channel: y = x * weight + bias.

    Args:
        channels: the size of the axis of the channels.
        channel_axis: 1 for (N, C, H, W), -1 for (N, L, C).
    """

    def __init__(self, channels: int, channel_axis: int = 1) -> None:
        super().__init__()
        self.channel_axis = channel_axis
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """The input scaled and shifted, of its shape and type."""
        ones = [1] * x.ndim
        ones[self.channel_axis] = -1
        return (x * self.weight.view(ones) + self.bias.view(ones)).to(x.dtype)


def graph_maker(graph: LayerGraph, groups: int = 32) -> LayerMaker:
    """The maker of a layer graph: `GraphLayer` where the network activates, else `Affine`.

    Both begin with a scale of 1, also at the end of residual blocks, where the authors' code of ResNets begins with 0.
    At 0 a block is an identity at first, which would hide for many of the few steps of a test what its layers do.

    Args:
        graph: the layer.
        groups: as of `GraphLayer`. In slim networks fewer than the paper's 32, or groups are single channels.
    """

    def make(channels: int, activation: bool, /) -> nn.Module:
        return GraphLayer(graph, channels, groups) if activation else Affine(channels)

    return make


def batch_norm_relu(channels: int, activation: bool, /) -> nn.Module:
    """The layers that networks have of themselves: a batch norm, and a ReLU where there is an activation."""
    norm = nn.BatchNorm2d(channels)
    return nn.Sequential(norm, nn.ReLU()) if activation else norm
