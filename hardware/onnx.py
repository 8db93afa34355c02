"""Conversion to ONNX and the check of the converted file (the only home of onnxscript)."""

import inspect
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hardware.backend import ConversionError, Runner, check_outputs
from hardware.files import replacing_file
from hardware.inputs import batch_size, is_tokens, map_inputs, split
from hardware.onnx_operators import input_shapes
from hardware.quantized import quantized
from search_spaces.evaluating import evaluating
from search_spaces.inputs import Inputs
from search_spaces.selecting import LastSelected

# Since opset 23 attention is a single operator, which ONNX Runtime and OpenVINO execute 5 to 15 % faster than separate
# matrix products and softmax. Some of its forms (such as keys shared by several heads) give wrong outputs there; the
# check of the file finds these, and opset 18 then writes attention as separate operators.
OPSETS = (23, 18)
# ONNX Runtime fails on the attention operator when its inputs are quantised.
OPSETS_INT8 = (18,)
_PRECISION = "supersieve.precision"
# What the exporter says where it cannot promote the types of a number minus a tensor of integers.
_RSUB_FAILS = "compatible OpOverload for aten.sub"
# A protobuf message holds at most 2 GiB; 64 MiB are left for the graph.
_MOST_BYTES = 2 * 2**30 - 64 * 2**20
EXTREME_INPUTS = 256
"""Number of inputs of `extreme_product`."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST_REASON = 300
_NOISY = ("torch.onnx", "torch.onnx._internal.exporter._registration", "onnxscript", "onnx_ir")


def convert(
    module: nn.Module,
    example_inputs: Inputs,
    path: Path,
    *,
    load: Callable[[Path], Runner],
    opsets: Sequence[int] = OPSETS,
) -> Path:
    """Write `module` as one ONNX file that contains its weights, with variable batch and token length, and check it.

    The first output is named `logits`. The file is run on the example and on inputs of another batch and length; it is
    renamed to `path` only if all outputs equal the module's within 1e-4 of the largest logit.

    Args:
        module: run in evaluation mode; its modes are restored afterwards.
        example_inputs: tuple or mapping of tensors; the first axis of the first tensor is the batch, the second axis
            of two-dimensional integer tensors is the length.
        path: the file to write; an existing file is replaced only after the check.
        load: opens an ONNX file in a runtime.
        opsets: versions of ONNX's operators to try in order; the first with correct outputs is used.

    Returns:
        `path`.

    Raises:
        ConversionError: torch cannot export the module, the file would exceed ONNX's 2 GiB, or outputs differ.
    """
    if sum(parameter.numel() * parameter.element_size() for parameter in module.parameters()) > _MOST_BYTES:
        raise ConversionError("a network of more than 2 GiB does not fit into one ONNX file; choose a smaller one")
    inputs = two_rows(example_inputs)
    with replacing_file(path) as part, evaluating(module):
        _export_checked(module, inputs, part, load, opsets)
    return path


def _export_checked(
    module: nn.Module, inputs: Inputs, path: Path, load: Callable[[Path], Runner], opsets: Sequence[int]
) -> None:
    for opset in opsets:
        try:
            export(module, inputs, path, opset)
            run = load(path)
            check_outputs(module, run, inputs, "on its example")
            # A size that the exporter mistook for a constant shows only with inputs of another size.
            check_outputs(module, run, other_size(inputs), "at another batch and length")
            return
        except ConversionError:
            if opset == opsets[-1]:
                raise


def two_rows(inputs: Inputs) -> Inputs:
    """Inputs of at least two rows: the exporter would treat a batch of one as a constant."""
    rows = batch_size(inputs)
    if rows > 1:
        return inputs
    return map_inputs(inputs, lambda value: torch.cat([value, value]) if value.ndim and len(value) == rows else value)


def export(module: nn.Module, inputs: Inputs, path: Path, opset: int) -> None:
    """Write a module in evaluation mode as ONNX, without checking the file.

    Args:
        module: the network.
        inputs: of at least two rows.
        path: the file to write.
        opset: version of ONNX's operators.

    Raises:
        ConversionError: torch cannot export the module.
    """
    _check_named(module, inputs)
    try:
        try:
            _export(module, inputs, path, opset)
        except Exception as error:
            if _RSUB_FAILS not in str(error):
                raise
            _export(_without_rsub(module, inputs), inputs, path, opset)
    except Exception as error:
        cause: BaseException = error
        # The exporter wraps the reason in an error of its own, whose first line is advice in colours.
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ConversionError(f"torch cannot export this network to ONNX: {_reason(cause)}") from error


def _reason(error: BaseException) -> str:
    """What went wrong, in a line: without colours, and without advice to those who develop the exporter."""
    plain = _COLOURS.sub("", str(error)).strip() or type(error).__name__
    return plain.partition("\n")[0].partition(" Next steps:")[0][:_LONGEST_REASON]


def _export(network: nn.Module | torch.export.ExportedProgram, inputs: Inputs, path: Path, opset: int) -> None:
    args, kwargs = split(inputs)
    rows = batch_size(inputs)
    axes = [_free_axes(value, rows) for value in [*args, *kwargs.values()]]
    with _quiet(), torch.no_grad(), LastSelected():
        torch.onnx.export(
            network,
            args,
            str(path),
            kwargs=kwargs,
            dynamo=True,
            verbose=False,
            # Inputs keep the names of the keywords, so that a loaded file is called like the module.
            input_names=list(kwargs) or None,
            output_names=["logits"],
            dynamic_shapes=dict(zip(kwargs, axes, strict=True)) if kwargs else tuple(axes),
            external_data=False,
            opset_version=opset,
        )


def _without_rsub(module: nn.Module, inputs: Inputs) -> torch.export.ExportedProgram:
    """The graph of a module in which a number minus a tensor, as in XLNet's `1.0 - mask`, became a sum."""
    args, kwargs = split(inputs)
    rows = batch_size(inputs)
    free = [dict.fromkeys(_free_axes(value, rows), torch.export.Dim.DYNAMIC) for value in [*args, *kwargs.values()]]
    shapes: Any = dict(zip(kwargs, free, strict=True)) if kwargs else tuple(free)
    with _quiet(), torch.no_grad(), LastSelected():
        program = torch.export.export(module, args, kwargs=kwargs, dynamic_shapes=shapes, strict=False)
        sums: torch.export.ExportedProgram = program.run_decompositions({torch.ops.aten.rsub.Scalar: _taken_from})
        return sums


def _taken_from(tensor: torch.Tensor, number: float, alpha: float = 1) -> torch.Tensor:
    return torch.neg(tensor) * alpha + number


def _check_named(module: nn.Module, inputs: Inputs) -> None:
    """Raise ConversionError for an input that the forward does not name: the exporter cannot free its axes."""
    named = inspect.signature(module.forward).parameters
    unnamed = next((name for name in split(inputs)[1] if name not in named), None)
    if unnamed is not None:
        raise ConversionError(
            f"the forward of {type(module).__name__} must name its inputs for an ONNX file, it does not name {unnamed}"
        )


def _free_axes(value: torch.Tensor, rows: int) -> dict[int, str]:
    axes: dict[int, str] = {}
    if value.ndim and value.shape[0] == rows:
        axes[0] = "batch"
    if is_tokens(value):
        axes[1] = "length"
    return axes


def precision_of_file(metadata: Mapping[str, str]) -> str:
    """The precision of an ONNX file written here, from its metadata; files without an entry are float32."""
    return metadata.get(_PRECISION, "float32")


def quantize(path: Path, calibration: Sequence[Inputs], target: Path, *, seven_bits: bool = False) -> Path:
    """Quantise the linear layers and convolutions of an ONNX file to INT8.

    Args:
        path: the float32 file.
        calibration: inputs of one row each.
        target: the file to write; an existing file is replaced only by a complete one.
        seven_bits: see `hardware.quantized.quantized`.

    Returns:
        `target`.

    Raises:
        ConversionError: the network cannot be quantised.
        ValueError: there are no rows, or they are not inputs of the network.
    """
    import onnx

    model = onnx.load(path)
    return save(quantized(model, input_shapes(model), calibration, seven_bits=seven_bits), target, "int8")


def save(model: Any, target: Path, precision: str) -> Path:
    """Write an ONNX model, which then knows its precision, to `target`; an existing file is replaced by a whole one."""
    import onnx

    entry = model.metadata_props.add()
    entry.key, entry.value = _PRECISION, precision
    with replacing_file(target) as part:
        onnx.save(model, part)
    return target


def extreme_product() -> bytes:
    """A model of inputs from 0 to 255 times weights of 127 in INT8, whose sums leave 16 bits at once."""
    from onnx import TensorProto, helper, numpy_helper

    constants = {
        "one": np.float32(1),
        "zero": np.uint8(0),
        "weight": np.full((EXTREME_INPUTS, 64), 127, np.int8),
        "none": np.int8(0),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["numbers", "one", "zero"], ["levels"]),
        helper.make_node("DequantizeLinear", ["levels", "one", "zero"], ["rounded"]),
        helper.make_node("DequantizeLinear", ["weight", "one", "none"], ["widened"]),
        helper.make_node("MatMul", ["rounded", "widened"], ["sums"]),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("numbers", TensorProto.FLOAT, [None, EXTREME_INPUTS])],
        [helper.make_tensor_value_info("sums", TensorProto.FLOAT, [None, 64])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    written: bytes = model.SerializeToString()
    return written


def other_size(inputs: Inputs) -> Inputs:
    """The inputs with one more row and, for token inputs, about half of the length: the end, by which some decide."""
    rows = batch_size(inputs)

    def change(value: torch.Tensor) -> torch.Tensor:
        if value.ndim and value.shape[0] == rows:
            value = torch.cat([value, value[:1]])
        if is_tokens(value):
            value = value[:, -(value.shape[1] // 2 + 1) :]
        return value.contiguous()

    return map_inputs(inputs, change)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's progress on stdout and its notices (missing torchvision, folding, shared axis names)."""
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
