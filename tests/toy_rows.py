"""Rows that are no split: pairs of tensors by index, and a small network without randomness that learns them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from nas.errors import UserError
from search_spaces.arrays import IntArray


@dataclass(frozen=True)
class Pairs:
    inputs: Tensor
    outputs: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def batches(self, batch_size: int, rng: np.random.Generator) -> list[IntArray]:
        return np.array_split(rng.permutation(len(self)), -(-len(self) // batch_size))

    def batch(self, indices: IntArray) -> dict[str, Tensor]:
        return {"x": self.inputs[torch.from_numpy(indices)]}

    def targets(self, indices: IntArray) -> Tensor:
        return self.outputs[torch.from_numpy(indices)]

    def augment(
        self, batch: Mapping[str, Tensor], rows: int, kept: IntArray, rng: np.random.Generator
    ) -> Mapping[str, Tensor]:
        raise UserError("pairs cannot be augmented, because their outputs would not follow; leave augment out")

    def fingerprint(self) -> str:
        return hashlib.sha256(self.inputs.numpy().tobytes() + self.outputs.numpy().tobytes()).hexdigest()


def pairs(count: int = 50, seed: int = 0) -> Pairs:
    """Feature maps, and others that a convolution made of them."""
    rng = torch.Generator().manual_seed(seed)
    inputs, kernel = torch.randn(count, 3, 6, 6, generator=rng), torch.randn(4, 3, 3, 3, generator=rng)
    return Pairs(inputs, nn.functional.conv2d(inputs, kernel, padding=1))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.norm(self.first(x)).relu())


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network().eval()


def squared_error(forward, batch: Mapping[str, Tensor], targets: Tensor, step: int) -> Tensor:
    return nn.functional.mse_loss(forward(**batch), targets)
