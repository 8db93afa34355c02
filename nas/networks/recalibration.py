"""Prepare sub-networks for measurement and export, with re-calibrated batch norms where the network has any.

The running statistics of a batch norm describe one set of active layers. Those of the full network are wrong for its
sub-networks, so they are measured again for each (the post-statistics of Yu and Huang, arXiv 1903.05134).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from hardware.inputs import device_of, map_inputs
from hardware.policy import Policy
from nas.data.split import Split
from nas.errors import UserError
from nas.seeds import generator
from search_spaces import Candidate, Supernet, has_batch_norms, recalibrate
from search_spaces.inputs import Inputs

ROWS, BATCH = 256, 64
"""Number of training rows on which statistics are measured, and rows per batch."""


class SubNetworks:
    """Gives access to the sub-networks of a super-network in evaluation mode.

    Without batch norms, sub-networks share the weights of the super-network and nothing is copied. With batch norms,
    the statistics of each candidate, including the largest, are measured on the same training rows. So all candidates
    are treated alike, and repeating a measurement gives the same bits.

    Args:
        supernet: the super-network, on any device.
        train: training rows; needed only if the network has batch norms.
        seed: decides which training rows are used.

    Raises:
        UserError: the network has batch norms and there are no training rows.
    """

    def __init__(self, supernet: Supernet, train: Split | None, seed: int = 0) -> None:
        self._supernet = supernet
        self._norms = has_batch_norms(supernet.model)
        if self._norms and (train is None or len(train) == 0):
            raise UserError("the batch norms of sub-networks need training rows for their statistics, got none")
        self._train, self._seed = train, seed
        self._inputs: list[Inputs] = []

    def forward(self, candidate: Candidate) -> Callable[..., Any]:
        """A callable that computes the outputs of a candidate and takes the inputs of the model."""
        return self.extract(candidate) if self._norms else partial(self._supernet, candidate)

    def extract(self, candidate: Candidate) -> nn.Module:
        """Copy a candidate into a plain module with its own weights and statistics, in evaluation mode."""
        buffers = recalibrate(self._supernet, candidate, self._batches()) if self._norms else None
        return self._supernet.extract(candidate, buffers).eval()

    def policy(self, candidate: Candidate) -> Policy | None:
        """None: sub-networks compute in float32."""
        return None

    def _batches(self) -> list[Inputs]:
        if not self._inputs and self._train is not None:
            rows = generator(self._seed, "re-calibration").permutation(len(self._train))[:ROWS]
            # Batches of nearly equal size: a small remainder would count as much as a full batch in the averages, and
            # a batch norm fails on a single row.
            parts = np.array_split(rows, -(-len(rows) // BATCH))
            self._inputs = [dict(self._train.batch(part)) for part in parts]
        device = device_of(self._supernet)
        return [map_inputs(inputs, partial(_to, device)) for inputs in self._inputs]


def _to(device: torch.device, value: torch.Tensor) -> torch.Tensor:
    return value.to(device)
