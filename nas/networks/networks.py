"""The interface to the networks of candidates: how they are run, extracted and quantized."""

from collections.abc import Callable
from typing import Any, Protocol

from torch import nn

from hardware.policy import Policy
from search_spaces import Candidate


class Networks(Protocol):
    """The networks of the candidates of a search, in evaluation mode."""

    def forward(self, candidate: Candidate) -> Callable[..., Any]:
        """A callable that computes the outputs of a candidate and takes the inputs of the model."""

    def extract(self, candidate: Candidate) -> nn.Module:
        """The architecture of a candidate as a plain module in float32, with its own weights."""

    def policy(self, candidate: Candidate) -> Policy | None:
        """The precisions of a candidate by the paths of its layers in `extract`; None where all is in float32."""
