"""Random mirroring and shifting of images in batches."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from nas.errors import UserError
from search_spaces.arrays import IntArray

_SHARE = 8
"""An image is shifted by at most 1 / _SHARE of its side, as usual for CIFAR (4 of 32 pixels)."""


def augment(batch: Mapping[str, Tensor], rows: int, kept: IntArray, rng: np.random.Generator) -> dict[str, Tensor]:
    """Mirror images with probability 1/2 and shift them by up to 1/8 of their sides; uncovered edges become zero.

    The change of a row depends on the generator and on its index among all rows of the step, not on how the rows are
    divided into processes and parts.

    Args:
        batch: inputs of some rows of a step; each floating-point input with four axes (rows, channels, height, width)
            counts as images.
        rows: number of rows of the whole step.
        kept: indices, among the rows of the step, of the rows in the batch (n,).
        rng: a generator with the same state for all parts of a step.

    Returns:
        The inputs with changed images.

    Raises:
        UserError: the batch has no images.
    """
    mirrored = torch.from_numpy(rng.random(rows)[kept] < 0.5)
    moves = torch.from_numpy(rng.random((rows, 2))[kept])
    images = {name: t for name, t in batch.items() if t.ndim == 4 and t.is_floating_point()}
    if not images:
        raise UserError("augment is for images (rows, channels, height, width), but the inputs have none; leave it out")
    return dict(batch) | {name: _moved(tensor, mirrored, moves) for name, tensor in images.items()}


def _moved(images: Tensor, mirrored: Tensor, moves: Tensor) -> Tensor:
    count, _, height, width = images.shape
    down, right = height // _SHARE, width // _SHARE
    # Top left corners in the padded image, uniform over 0 .. 2 * down and 0 .. 2 * right.
    starts = (moves * torch.tensor([2 * down + 1, 2 * right + 1])).long()
    rows = torch.arange(height) + starts[:, :1]
    columns = torch.arange(width) + starts[:, 1:]
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    wide = pad(images, (right, right, down, down))
    number = torch.arange(count)[:, None, None]
    device = images.device
    picked = wide.movedim(1, 3)[number.to(device), rows[:, :, None].to(device), columns[:, None, :].to(device)]
    return picked.movedim(3, 1).contiguous()
