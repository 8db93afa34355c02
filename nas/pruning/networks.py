"""Pruned networks as they are run: each with the weights that it was fine-tuned to, and no other sub-network."""

from collections.abc import Callable
from typing import Any

from torch import nn

from hardware.policy import Policy
from nas.errors import UserError
from nas.pruning.candidates import WEIGHTS
from nas.searching.kept import KeptFiles
from search_spaces import Candidate, Supernet
from search_spaces.weights import load_tensors


class PrunedNetworks:
    """The networks that a pruning has fine-tuned; the candidate of full size is the original.

    Args:
        supernet: the original with the channels that may be pruned.
        files: the weights of each fine-tuned network.
    """

    def __init__(self, supernet: Supernet, files: KeptFiles) -> None:
        self._supernet, self._files = supernet, files

    def forward(self, candidate: Candidate) -> Callable[..., Any]:
        """The network of a candidate; UserError as `extract`."""
        return self.extract(candidate)

    def extract(self, candidate: Candidate) -> nn.Module:
        """The network of a candidate as a plain module, in evaluation mode.

        Raises:
            UserError: no network with these channels was fine-tuned, or its weights are damaged.
        """
        module = self._supernet.extract(candidate).eval()
        if candidate == self._supernet.space.full():
            return module
        path = self._files.of(candidate) / WEIGHTS
        if not path.is_file():
            raise UserError(
                "a network of these channels must have been fine-tuned, it was not; front.csv lists those that were, "
                "and `nas prune` with another rate makes one more"
            )
        try:
            module.load_state_dict(load_tensors(path))
        except Exception as error:  # safetensors and torch raise several kinds for damaged files
            raise UserError(
                f"the weights in {path} cannot be read ({type(error).__name__}); remove its folder"
            ) from None
        return module

    def policy(self, candidate: Candidate) -> Policy | None:
        """None: they compute in float32."""
        return None
