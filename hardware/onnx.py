"""The only conversion to ONNX, with the check of what comes out (the only home of onnx and onnxscript)."""

import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import torch
from torch import nn

from hardware.backend import PRECISIONS, ConversionError, Runner, check_outputs
from hardware.evaluating import evaluating
from hardware.inputs import Inputs, batch_size, is_tokens, map_inputs, split
from hardware.quantized import quantized

# From 23 on attention is one operator, which ONNX Runtime and OpenVINO compute 5 to 15 % faster than its parts; what
# they compute otherwise than the network (shared heads of keys, for one) is written in parts.
OPSETS = (23, 18)
# ONNX Runtime fails on attention as one operator with quantized inputs.
OPSETS_INT8 = (18,)
_PRECISION = "supersieve.precision"
_MOST_BYTES = 2 * 2**30 - 64 * 2**20
_NOISY = ("torch.onnx", "torch.onnx._internal.exporter._registration", "onnxscript", "onnx_ir")


def convert(
    module: nn.Module,
    example_inputs: Inputs,
    path: Path,
    *,
    load: Callable[[Path], Runner],
    opsets: Sequence[int] = OPSETS,
) -> Path:
    """Write `module` as one ONNX file with its weights inside, batch and token length free, and check it.

    The file's first output is called `logits`. It is compared with the module on the example and on inputs of another
    batch and length, at a tolerance of 1e-4 of the largest logit, before it takes its place at `path`.

    Args:
        module: evaluated in evaluation mode; its modes are left as they are.
        example_inputs: tuple or mapping of tensors; the batch is the first axis of the first one, the length is the
            second axis of integer tensors of two axes.
        path: the file to write; an old one is replaced only by a checked one.
        load: opens an ONNX file in a runtime.
        opsets: versions of ONNX's operators; the first in which the outputs are right is taken.

    Raises:
        ConversionError: torch cannot export the module, the file would pass ONNX's 2 GiB, or outputs differ.
    """
    if sum(parameter.numel() * parameter.element_size() for parameter in module.parameters()) > _MOST_BYTES:
        raise ConversionError("a network of more than 2 GiB does not fit into one ONNX file; choose a smaller one")
    inputs = two_rows(example_inputs)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with evaluating(module):
            _export_checked(module, inputs, beside, load, opsets)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def _export_checked(
    module: nn.Module, inputs: Inputs, path: Path, load: Callable[[Path], Runner], opsets: Sequence[int]
) -> None:
    for opset in opsets:
        try:
            export(module, inputs, path, opset)
            run = load(path)
            check_outputs(module, run, inputs, "on its example")
            check_outputs(module, run, other_size(inputs), "at another batch and length")
            return
        except ConversionError:
            if opset == opsets[-1]:
                raise


def two_rows(inputs: Inputs) -> Inputs:
    """At least two rows: the exporter would fix a batch of one."""
    rows = batch_size(inputs)
    if rows > 1:
        return inputs
    return map_inputs(inputs, lambda value: torch.cat([value, value]) if value.ndim and len(value) == rows else value)


def export(module: nn.Module, inputs: Inputs, path: Path, opset: int) -> None:
    """Write an evaluated module as ONNX, unchecked; `inputs` have two rows or more. Raises ConversionError."""
    args, kwargs = split(inputs)
    rows = batch_size(inputs)
    axes = [_free_axes(value, rows) for value in [*args, *kwargs.values()]]
    try:
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                module,
                args,
                str(path),
                kwargs=kwargs,
                dynamo=True,
                verbose=False,
                input_names=list(kwargs) or None,
                output_names=["logits"],
                dynamic_shapes=dict(zip(kwargs, axes, strict=True)) if kwargs else tuple(axes),
                external_data=False,
                opset_version=opset,
            )
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        raise ConversionError(f"torch cannot export this network to ONNX: {first_line}") from error


def _free_axes(value: torch.Tensor, rows: int) -> dict[int, str]:
    axes: dict[int, str] = {}
    if value.ndim and value.shape[0] == rows:
        axes[0] = "batch"
    if is_tokens(value):
        axes[1] = "length"
    return axes


def precision_of_file(metadata: Mapping[str, str]) -> torch.dtype:
    """The precision that the metadata of an ONNX file written here tells."""
    return PRECISIONS.get(metadata.get(_PRECISION, "float32"), torch.float32)


def quantize(path: Path, calibration: Sequence[Inputs], target: Path) -> Path:
    """Write to `target` what an ONNX file holds, its linear layers and convolutions in INT8; raises ConversionError.

    Args:
        path: the file in float32.
        calibration: inputs of one row each.
        target: the file to write; an old one is replaced as a whole.
    """
    import onnx

    model = onnx.load(path)
    names = [each.name for each in model.graph.input]
    model = quantized(model, names, calibration)
    entry = model.metadata_props.add()
    entry.key, entry.value = _PRECISION, "int8"
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        onnx.save(model, beside)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
    return target


def other_size(inputs: Inputs) -> Inputs:
    """The same inputs with one more row and, of token inputs, about half of the length."""
    rows = batch_size(inputs)

    def change(value: torch.Tensor) -> torch.Tensor:
        if value.ndim and value.shape[0] == rows:
            value = torch.cat([value, value[:1]])
        if is_tokens(value):
            value = value[:, : value.shape[1] // 2 + 1]
        return value.contiguous()

    return map_inputs(inputs, change)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's progress on stdout and its notices: of absent torchvision, folding, shared axis names."""
    levels = {name: logging.getLogger(name).level for name in _NOISY}
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            warnings.filterwarnings("ignore", message=".*axis name.*", category=UserWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
