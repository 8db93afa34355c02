"""A tiny tagging task that is made on the spot: every word is a token, its tag is its number modulo three."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from nas.data.split import Split
from nas.data.tasks import IGNORED, TokenClassification
from search_spaces.arrays import IntArray


@dataclass(frozen=True)
class Words:
    numbers: tuple[tuple[int, ...], ...]

    @property
    def lengths(self) -> IntArray:
        return np.array([len(row) for row in self.numbers])

    def _padded(self, indices: object, filler: int) -> IntArray:
        rows = [self.numbers[index] for index in np.asarray(indices)]
        longest = max(map(len, rows))
        return np.array([[*row, *[filler] * (longest - len(row))] for row in rows])

    def batch(self, indices: object) -> dict[str, Tensor]:
        return {"numbers": torch.from_numpy(self._padded(indices, 0))}

    def first_words(self, indices: object) -> IntArray:
        padded = self._padded(indices, -1)
        return np.where(padded < 0, -1, np.arange(padded.shape[1]))


def split(lengths: Sequence[int]) -> Split:
    rng = np.random.default_rng(0)
    rows = tuple(tuple(int(number) for number in rng.integers(9, size=length)) for length in lengths)
    labels = np.full((len(rows), max(lengths)), IGNORED)
    for row, numbers in enumerate(rows):
        labels[row, : len(numbers)] = np.array(numbers) % 3
    return Split(tuple(map(str, rows)), labels, Words(rows), TokenClassification())


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(9, 6), nn.Linear(6, 3)

    def forward(self, numbers: Tensor) -> Tensor:
        return self.head(self.table(numbers))


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Tagger()
