"""Convolutional networks: ResNet and its relatives, recognised by having more convolutions than linear layers."""

from torch import nn
from torch.nn.modules.conv import _ConvNd

from search_spaces.families.family import Family
from search_spaces.families.structure import Ranges


def _mostly_convolutions(model: nn.Module) -> bool:
    """Whether a model has at least two convolutions and more of them than linear layers."""
    parts = list(model.modules())
    convolutions = sum(isinstance(part, _ConvNd) for part in parts)
    return convolutions > max(1, sum(isinstance(part, nn.Linear) for part in parts))


# OFA (arXiv 1908.09791), ResNet-50: up to two blocks fewer in each stage, bottlenecks of 0.2, 0.25, 0.35 of the width
# (0.57, 0.71, 1 of the largest), stage widths 0.65, 0.8, 1. Differs: depths are shares, since stages differ in length,
# and channels go down to a share of 0.35, since they are those of plain blocks (ResNet-18) as well as of bottlenecks.
FAMILY = Family(
    recognises=_mostly_convolutions,
    ranges=Ranges(depth=(0.5, 0.75, 1.0), width=(0.65, 0.8, 1.0), channels=(0.35, 0.5, 0.65, 0.8, 1.0)),
)
space = FAMILY.space
