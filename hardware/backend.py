"""What every runtime has in common: a module is converted into a file, the file is loaded into a callable."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from hardware.inputs import Inputs, call

Runner = Callable[..., torch.Tensor]
OUTPUT_TOLERANCE = 1e-4
# The precisions that there are, by the names that profiles and commands use.
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


class ConversionError(RuntimeError):
    """A module could not be converted, or what came out computes something else; the message says by how much."""


class Backend(Protocol):
    """One runtime."""

    def convert(
        self,
        module: nn.Module,
        example_inputs: Inputs,
        folder: Path,
        *,
        precision: torch.dtype = torch.float32,
        calibration: Sequence[Inputs] | None = None,
    ) -> Path:
        """Write the module for this runtime into an existing folder and return the file's path.

        Batch size and, of token inputs, length stay free. Only int8 needs a file of its own.

        Args:
            module: the network, in evaluation mode.
            example_inputs: tensors by position or by name.
            folder: must exist.
            precision: what the file is for.
            calibration: inputs of one row each, from which int8 takes the ranges of activations; None: the rows of the
                example, which is enough for a latency and not for an accuracy.

        Raises:
            ConversionError: the module cannot be converted, or the outputs differ.
            ValueError: the runtime has no file in this precision.
        """

    def load(self, path: Path, *, threads: int = 1, precision: torch.dtype = torch.float32) -> Runner:
        """A callable that takes inputs named or placed as the example's, at any batch, and gives the first output.

        Raises:
            ValueError: the file is missing, or the runtime does not compute in this precision.
        """


class Writer(Protocol):
    """Writes an ONNX file and checks it with a loader of the runtime: `hardware.onnx.convert`, or a `Resizer`."""

    def __call__(
        self,
        module: nn.Module,
        example_inputs: Inputs,
        path: Path,
        *,
        load: Callable[[Path], Runner],
        opsets: Sequence[int] = ...,
    ) -> Path:
        """Write `module` to `path` and give it back; raises ConversionError."""


def precision_name(precision: torch.dtype) -> str:
    """The name of a precision in profiles; raises ValueError for one that no runtime here has."""
    name = next((name for name, each in PRECISIONS.items() if each is precision), None)
    if name is None:
        raise ValueError(f"the precision must be one of {', '.join(PRECISIONS)}, got {precision}")
    return name


def arrange(names: Sequence[str], args: Sequence[torch.Tensor], kwargs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Arrays by the names of a file's inputs; what the network does not read is left out."""
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return {name: given[name].detach().cpu().numpy() for name in names}


def check_outputs(module: nn.Module, run: Runner, inputs: Inputs, where: str) -> None:
    """Compare what a file computes with what the module does; raises ConversionError where they differ."""
    with torch.no_grad():
        expected = first_output(call(module, inputs)).cpu()
    try:
        got = call(run, inputs)
    except Exception as error:
        raise ConversionError(f"the ONNX file does not run {where}: {error}") from error
    difference = relative_difference(expected, got)
    if not difference <= OUTPUT_TOLERANCE:
        raise ConversionError(
            f"the ONNX file's outputs must equal the network's within {OUTPUT_TOLERANCE} of the largest logit, "
            f"they differ by {difference:.2g} {where}"
        )


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
