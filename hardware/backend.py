"""The interface of all runtimes: convert a module into a file, then load the file as a callable."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from hardware.inputs import call
from hardware.policy import Policy
from search_spaces.evaluating import evaluating
from search_spaces.inputs import Inputs

Runner = Callable[..., torch.Tensor]
OUTPUT_TOLERANCE = 1e-4
# Outputs that differ by less, relative to those of the network, are all the same but for rounding.
_LEAST_SPREAD, _NOTICEABLE = 1e-3, 0.05
# Names as profiles and commands write them.
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


class ConversionError(RuntimeError):
    """A module could not be converted, or the converted file computes other outputs; the message says how far off."""


class Backend(Protocol):
    """A runtime such as ONNX Runtime: it converts modules into files and loads these files."""

    def convert(
        self,
        module: nn.Module,
        example_inputs: Inputs,
        folder: Path,
        *,
        precision: torch.dtype | Policy = torch.float32,
        calibration: Sequence[Inputs] | None = None,
    ) -> Path:
        """Write the module in this runtime's format into `folder` and return the path of the file.

        The file accepts any batch size and, for token inputs, any length. float32 and bfloat16 share one file, because
        the runtime chooses between them when it loads it; int8 is a separate file, and so is every policy.

        Args:
            module: the network, in evaluation mode.
            example_inputs: tensors by position or by name.
            folder: an existing folder.
            precision: the precision that the file will be loaded in, or that of each layer.
            calibration: inputs of one row each, from which int8 quantisation derives the ranges of activations. For
                None, int8 takes them from the rows of the example, and a policy makes them up: its file then has the
                right latency and size, but useless outputs.

        Raises:
            ConversionError: the module cannot be converted, the outputs of the float32 file differ from the module's,
                or a policy with calibration makes them useless.
            ValueError: the runtime does not support this precision, the network has no such layer, or it does not fit
                its precision, or rows for calibration are missing or not inputs of the network.
        """

    def load(self, path: Path, *, threads: int = 1, precision: torch.dtype | Policy = torch.float32) -> Runner:
        """Load a converted file as a callable.

        Args:
            path: as `convert` returned it.
            threads: number of threads.
            precision: the one that it was converted in; of a policy, `floating` alone matters here.

        Returns:
            A function of the same inputs as the example (by position or by name), of any batch size; it returns the
            first output.

        Raises:
            ValueError: the file is missing or has another precision, or the runtime does not support this precision.
        """


class Writer(Protocol):
    """A function that writes an ONNX file and checks it in a runtime: `hardware.onnx.convert`, or a `Resizer`."""

    def __call__(
        self,
        module: nn.Module,
        example_inputs: Inputs,
        path: Path,
        *,
        load: Callable[[Path], Runner],
        opsets: Sequence[int] = ...,
    ) -> Path:
        """Write `module` to `path` and return the path; raises ConversionError."""


def precision_name(precision: torch.dtype) -> str:
    """The name of a precision in profiles and commands; raises ValueError for one that no runtime supports."""
    name = next((name for name, each in PRECISIONS.items() if each is precision), None)
    if name is None:
        raise ValueError(f"the precision must be one of {', '.join(PRECISIONS)}, got {precision}")
    return name


def arrange(names: Sequence[str], args: Sequence[torch.Tensor], kwargs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Match tensors to the inputs of a file.

    Args:
        names: the inputs of the file, in order.
        args: tensors by position.
        kwargs: tensors by name; those that the file does not have are dropped, because the exporter removes inputs
            that the network does not read.

    Returns:
        A NumPy array for each of `names`.
    """
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return {name: given[name].detach().cpu().numpy() for name in names}


def check_outputs(module: nn.Module, run: Runner, inputs: Inputs, where: str) -> None:
    """Compare the outputs of a converted file with those of its module.

    Args:
        module: the network that was converted, in evaluation mode.
        run: the loaded file.
        inputs: inputs for both.
        where: describes `inputs` in the error, e.g. "on its example".

    Raises:
        ConversionError: the file does not run, or an output differs by more than `OUTPUT_TOLERANCE`.
    """
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


def check_quantized(module: nn.Module, run: Runner, inputs: Inputs) -> None:
    """Check that a quantized file computes something: numbers that depend on its input as those of its module do.

    How close they come is not checked, since that is what a choice of precisions trades for speed.

    Raises:
        ConversionError: it does not run, or an output is not a number, or all rows of `inputs` have the same output.
    """
    with torch.no_grad(), evaluating(module):
        expected = first_output(call(module, inputs)).cpu()
    try:
        got = call(run, inputs)
    except Exception as error:
        raise ConversionError(f"the quantized network does not run on its example: {error}") from error
    if not got.isfinite().all():
        raise ConversionError("the quantized network computes values that are no numbers; keep more layers in float32")
    spread = _spread(expected)
    # Rows that the network itself hardly tells apart become equal by rounding alone.
    if spread > _NOTICEABLE * float(expected.abs().max()) and _spread(got) < _LEAST_SPREAD * spread:
        raise ConversionError("the quantized network computes the same for all inputs; keep more layers in float32")


def _spread(outputs: torch.Tensor) -> float:
    """The largest difference between rows; of a single row, between its numbers."""
    rows = outputs if len(outputs) > 1 else outputs.flatten()
    return float((rows.amax(0) - rows.amin(0)).max())


def first_output(output: object) -> torch.Tensor:
    """The logits in the output of a model: a tensor, the `logits` or first tensor of a mapping, or of a sequence.

    Raises:
        ValueError: the output holds no tensor.
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
    """Largest absolute difference, divided by the largest absolute expected value; infinity for NaN or other shapes."""
    if expected.shape != got.shape:
        return float("inf")
    scale = max(float(expected.abs().max()), 1e-12)
    difference = float((expected - got).abs().max()) / scale
    # NaN is the only value that differs from itself.
    return difference if difference == difference else float("inf")
