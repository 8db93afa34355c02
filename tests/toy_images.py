"""A tiny task that is made on the spot: bright and dark noise, a convolutional network with batch norms."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from nas.data.split import Split
from search_spaces import Supernet, space
from search_spaces.arrays import IntArray

SIDE = 8


@dataclass(frozen=True)
class Images:
    pixels: Tensor

    @property
    def lengths(self) -> IntArray:
        return np.ones(len(self.pixels), dtype=np.int64)

    def batch(self, indices: object) -> dict[str, Tensor]:
        return {"x": self.pixels[torch.as_tensor(np.asarray(indices))]}


def split(count: int = 40, seed: int = 0) -> Split:
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=count)
    pixels = rng.normal(labels[:, None, None, None] - 0.5, 1.0, (count, 3, SIDE, SIDE)).astype(np.float32)
    return Split(tuple(image.tobytes() for image in pixels), labels, Images(torch.from_numpy(pixels)))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(width, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.norm(self.first(x)).relu())


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.blocks = nn.Sequential(Block(6), Block(6))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network().eval()


def supernet(seed: int = 0) -> Supernet:
    model = network(seed)
    return Supernet(model, space(model, (torch.zeros(2, 3, SIDE, SIDE),)))
