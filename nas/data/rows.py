"""Rows that a network can be trained on: what the training loop asks of them, whatever they are.

`nas.data.split.Split` holds texts or images with labels. Others may be cached features with the features that they are
to become: any inputs and targets by index.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from nas.data.tasks import IGNORED
from search_spaces.arrays import IntArray

__all__ = ["Rows", "terms"]


class Rows(Protocol):
    """Training rows by index, 0 .. n - 1; equal arguments always give equal results."""

    def __len__(self) -> int:
        """Number of rows n."""

    def batches(self, batch_size: int, rng: np.random.Generator, /) -> Sequence[IntArray]:
        """Divide all rows into the batches of an epoch.

        Args:
            batch_size: largest batch, at least 1.
            rng: a generator of this epoch, for the order of the rows.

        Returns:
            Row indices of each batch (rows,), n / batch_size batches rounded up; every row occurs once.
        """

    def batch(self, indices: IntArray, /) -> Mapping[str, Tensor]:
        """Keyword inputs of the network for the given rows, each (rows, ...), on any device."""

    def targets(self, indices: IntArray, /) -> Tensor:
        """Targets of the given rows in the form that the loss takes, (rows, ...), on any device.

        In integer targets with several axes, -100 stands for no target: it is no term of the mean that the loss is.
        """

    def augment(
        self, batch: Mapping[str, Tensor], rows: int, kept: IntArray, rng: np.random.Generator, /
    ) -> Mapping[str, Tensor]:
        """Change inputs at random so that their targets still hold; called only where augmentation is asked for.

        Args:
            batch: inputs of some rows of a step.
            rows: number of rows of the whole step.
            kept: indices, among the rows of the step, of the rows in the batch (k,).
            rng: a generator with the same state for all parts of a step. With draws for all rows of the step, of which
                those of `kept` are used, a row is changed alike however the step is divided.

        Returns:
            The inputs, changed.

        Raises:
            UserError: there is no change that keeps these targets.
        """

    def fingerprint(self) -> str:
        """A text, e.g. a SHA-256, that is equal only for rows that train a network alike; asked for by checkpoints."""


def terms(targets: Tensor) -> Tensor:
    """How many terms each row (rows,) has in the mean over the targets that a loss is: its tokens with a tag, or 1."""
    if targets.ndim < 2 or targets.is_floating_point():
        return torch.ones(len(targets), device=targets.device)
    return (targets != IGNORED).sum(1).float()
