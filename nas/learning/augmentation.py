"""Images mirrored and shifted at random while training."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad

from nas.data.split import PreparedRows, Split
from nas.errors import UserError
from nas.seeds import generator
from search_spaces.arrays import IntArray

_SHARE = 8
"""An image moves by at most 1 / _SHARE of its side."""


def augment(batch: Mapping[str, Tensor], rows: int, kept: IntArray, rng: np.random.Generator) -> dict[str, Tensor]:
    """Mirror every other image left to right and shift each by up to 1/8 of its sides; zeros come in at the edges.

    What happens to a row follows from the generator and its place among all rows of the step, so it does not depend on
    how the rows are divided.

    Args:
        batch: inputs of the kept rows; every floating one with four axes (rows, channels, height, width) is images.
        rows: of the whole step.
        kept: which of them the batch holds, (n,), from 0.
        rng: the same for all parts of a step.

    Raises:
        UserError: there are no images in the batch.
    """
    mirrored = torch.from_numpy(rng.random(rows)[kept] < 0.5)
    moves = torch.from_numpy(rng.random((rows, 2))[kept])
    images = {name: t for name, t in batch.items() if t.ndim == 4 and t.is_floating_point()}
    if not images:
        raise UserError("augment is for images (rows, channels, height, width), but the inputs have none; leave it out")
    return dict(batch) | {name: _moved(tensor, mirrored, moves) for name, tensor in images.items()}


def augmented(split: Split) -> Split:
    """The rows mirrored and shifted, the same batch always alike.

    For the statistics of batch norms, which belong to what a network was trained on: a ResNet-20 that learned from
    shifted CIFAR images loses about four points with the statistics of images as they are.
    """
    return replace(split, inputs=_Augmented(split.inputs))


@dataclass(frozen=True)
class _Augmented:
    inputs: PreparedRows

    @property
    def lengths(self) -> IntArray:
        return self.inputs.lengths

    def batch(self, indices: npt.ArrayLike) -> dict[str, Tensor]:
        rows = np.asarray(indices)
        rng = generator(0, "augmented", int(rows.sum()))
        return augment(self.inputs.batch(rows), len(rows), np.arange(len(rows)), rng)


def _moved(images: Tensor, mirrored: Tensor, moves: Tensor) -> Tensor:
    count, _, height, width = images.shape
    down, right = height // _SHARE, width // _SHARE
    # Equally likely starts in the padded image: 0 .. 2 * down, 0 .. 2 * right.
    starts = (moves * torch.tensor([2 * down + 1, 2 * right + 1])).long()
    rows = torch.arange(height) + starts[:, :1]
    columns = torch.arange(width) + starts[:, 1:]
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    wide = pad(images, (right, right, down, down))
    number = torch.arange(count)[:, None, None]
    device = images.device
    picked = wide.movedim(1, 3)[number.to(device), rows[:, :, None].to(device), columns[:, None, :].to(device)]
    return picked.movedim(3, 1).contiguous()
