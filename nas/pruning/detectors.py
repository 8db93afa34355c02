"""Feature detectors: what classifies the features at a boundary, so that a pruned sub-network can be judged by itself.

A detector is a stack of residual blocks, each of which halves the resolution, then pooling and a linear layer as in the
original network; the nearer the boundary is to the output, the fewer blocks. It is trained once, on the features of the
frozen original, and is frozen afterwards (EMO-DIR, arXiv 2303.16212v2). Behind the last boundary what follows in the
original takes this part.

Differs: the paper does not give the channels of the blocks; here each block has those of the next boundary.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from nas.pruning.boundaries import OUTPUT


class _HalvingBlock(nn.Module):
    """A residual block of two convolutions whose first has stride 2: (N, C, H, W) to (N, D, H / 2, W / 2)."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(out)
        self.second = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(out)
        self.shortcut = nn.Conv2d(channels, out, 1, stride=2, bias=False)
        self.shortcut_norm = nn.BatchNorm2d(out)

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) to (N, D, H / 2, W / 2), rounded up."""
        inner = self.second_norm(self.second(relu(self.first_norm(self.first(features)))))
        return relu(inner + self.shortcut_norm(self.shortcut(features)))


class FeatureDetector(nn.Module):
    """Classifies the features at one boundary.

    Args:
        channels: of this boundary and of every one after it; each further one is a block.
        outputs: number of classes.
    """

    def __init__(self, channels: Sequence[int], outputs: int) -> None:
        super().__init__()
        pairs = itertools.pairwise(channels)
        self.blocks = nn.Sequential(*(_HalvingBlock(before, after) for before, after in pairs))
        self.classifier = nn.Linear(channels[-1], outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, outputs) of features (N, C, H, W)."""
        logits: Tensor = self.classifier(self.blocks(features).mean((2, 3)))
        return logits


def detector_loss(forward: Callable[..., Any], batch: Mapping[str, Tensor], targets: Tensor, step: int) -> Tensor:
    """Cross-entropy of a detector on the original's features behind the boundary, a scalar."""
    return nn.functional.cross_entropy(forward(batch[OUTPUT]), targets)


def untrained(channels: Sequence[int], outputs: int, seed: int) -> FeatureDetector:
    """A detector whose weights are drawn from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FeatureDetector(channels, outputs)
