"""What every runtime has in common: a module is converted into a file, the file is loaded into a callable."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from hardware.inputs import Inputs

Runner = Callable[..., torch.Tensor]


class ConversionError(RuntimeError):
    """A module could not be converted, or what came out computes something else; the message says by how much."""


class Backend(Protocol):
    """One runtime."""

    def convert(self, module: nn.Module, example_inputs: Inputs, folder: Path) -> Path:
        """Write the module for this runtime into an existing folder and give the file's path.

        Batch size and, of token inputs, length stay free.

        Raises:
            ConversionError: the module cannot be converted, or the outputs differ.
        """

    def load(self, path: Path, *, threads: int = 1, precision: torch.dtype = torch.float32) -> Runner:
        """A callable that takes inputs named or placed as the example's, at any batch, and gives the first output.

        Raises:
            ValueError: the file is missing, or the runtime does not compute in this precision.
        """


def first_output(output: object) -> torch.Tensor:
    """The logits of a model's output: a tensor, the `logits` or first tensor of a mapping, the first of a sequence.

    Raises:
        ValueError: there is no tensor.
    """
    if isinstance(output, torch.Tensor):
        return output
    values: Sequence[object] = ()
    if isinstance(output, Mapping):
        values = [output["logits"]] if "logits" in output else list(output.values())
    elif isinstance(output, Sequence):
        values = output
    first = next((value for value in values if isinstance(value, torch.Tensor)), None)
    if first is None:
        raise ValueError(f"the output of a model must be or hold a tensor, got {type(output).__name__}")
    return first


def relative_difference(expected: torch.Tensor, got: torch.Tensor) -> float:
    """Largest absolute difference over the largest absolute expected value; infinite for NaN or another shape."""
    if expected.shape != got.shape:
        return float("inf")
    scale = max(float(expected.abs().max()), 1e-12)
    difference = float((expected - got).abs().max()) / scale
    return difference if difference == difference else float("inf")
