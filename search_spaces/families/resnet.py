"""Convolutional networks: ResNet and its relatives, recognised by having more convolutions than linear layers."""

from torch import nn
from torch.nn.modules.conv import _ConvNd

from search_spaces.families.family import Family
from search_spaces.families.structure import Ranges


def _mostly_convolutions(model: nn.Module) -> bool:
    parts = list(model.modules())
    convolutions = sum(isinstance(part, _ConvNd) for part in parts)
    return convolutions > max(1, sum(isinstance(part, nn.Linear) for part in parts))


# OFA (arXiv 1908.09791) for ResNet-50: up to two blocks of a stage less, bottlenecks .2, .25, .35 (shares .57, .71, 1),
# stage widths .65, .8, 1. Differs: shares of the depth, and smaller bottlenecks, since plain networks have them too.
FAMILY = Family(
    recognises=_mostly_convolutions,
    ranges=Ranges(depth=(0.5, 0.75, 1.0), width=(0.65, 0.8, 1.0), channels=(0.35, 0.5, 0.65, 0.8, 1.0)),
)
space = FAMILY.space
