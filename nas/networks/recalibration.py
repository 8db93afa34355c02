"""Sub-networks as they are measured and exported: with batch-norm statistics of their own where the network has any."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from hardware.inputs import Inputs, device_of, map_inputs
from nas.data.split import Split
from nas.errors import UserError
from nas.seeds import generator
from search_spaces import Candidate, Supernet, has_batch_norms, recalibrate

ROWS, BATCH = 256, 64
"""Training rows that statistics are measured on, and how many at once."""


class SubNetworks:
    """The sub-networks of a super-network, each in evaluation mode.

    Without batch norms the weights are shared, and nothing is copied. With them, statistics are measured anew on the
    same training rows for every candidate, the largest one too, so that all are measured alike and a repeated
    measurement gives the same bits.

    Args:
        supernet: on any device.
        train: training rows; needed only where there are batch norms.
        seed: decides which rows.

    Raises:
        UserError: batch norms, and no training rows.
    """

    def __init__(self, supernet: Supernet, train: Split | None, seed: int = 0) -> None:
        self._supernet = supernet
        self._norms = has_batch_norms(supernet.model)
        if self._norms and (train is None or len(train) == 0):
            raise UserError("the batch norms of sub-networks need training rows for their statistics, got none")
        self._train, self._seed = train, seed
        self._inputs: list[Inputs] = []

    def forward(self, candidate: Candidate) -> Callable[..., Any]:
        """What a candidate computes, to be called as the model is."""
        return self.extract(candidate) if self._norms else partial(self._supernet, candidate)

    def extract(self, candidate: Candidate) -> nn.Module:
        """A candidate as a plain module with its own weights and statistics, in evaluation mode."""
        buffers = recalibrate(self._supernet, candidate, self._batches()) if self._norms else None
        return self._supernet.extract(candidate, buffers).eval()

    def _batches(self) -> list[Inputs]:
        if not self._inputs and self._train is not None:
            rows = generator(self._seed, "re-calibration").permutation(len(self._train))[:ROWS]
            # Of equal size, up to one row: a batch norm cannot work on a single one.
            parts = np.array_split(rows, -(-len(rows) // BATCH))
            self._inputs = [dict(self._train.batch(part)) for part in parts]
        device = device_of(self._supernet)
        return [map_inputs(inputs, partial(_to, device)) for inputs in self._inputs]


def _to(device: torch.device, value: torch.Tensor) -> torch.Tensor:
    return value.to(device)
