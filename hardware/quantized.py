"""Post-training quantisation to INT8 (the only home of nncf)."""

import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from hardware.backend import ConversionError, arrange
from hardware.inputs import Inputs, batch_size, map_inputs, split


def quantized(model: Any, names: Sequence[str], calibration: Sequence[Inputs], *, left_out: Sequence[str] = ()) -> Any:
    """Quantise weights and inputs of linear layers and convolutions to INT8.

    Args:
        model: an OpenVINO or ONNX model; it is not changed.
        names: names of its inputs.
        calibration: at least one input of one row, from which the ranges of activations are determined.
        left_out: names of operators that stay in floating point.

    Returns:
        The quantised model, of the same type.

    Raises:
        ConversionError: the model cannot be quantised.
        ValueError: nncf is not installed.
    """
    with silent():
        nncf = _nncf()
        samples = [arrange(names, *split(row)) for row in calibration]
        try:
            return nncf.quantize(
                model,
                nncf.Dataset(samples),
                # All given rows; nncf would use at most 300 by default.
                subset_size=len(samples),
                model_type=nncf.ModelType.TRANSFORMER if _has_attention(model) else None,
                ignored_scope=nncf.IgnoredScope(names=list(left_out)),
            )
        except Exception as error:
            first_line = str(error).strip().partition("\n")[0]
            raise ConversionError(f"nncf cannot quantize this network: {first_line}") from error


def compressed(model: Any, bits: int, *, left_out: Sequence[str] = ()) -> Any:
    """Store the weights of linear layers, convolutions and embeddings in 8 or 4 bits; they compute in floating point.

    Args:
        model: an OpenVINO or ONNX model; it may be changed.
        bits: 8 or 4.
        left_out: names of operators that keep their weights.

    Returns:
        The model with small weights, of the same type.

    Raises:
        ConversionError: the weights cannot be stored so.
        ValueError: nncf is not installed.
    """
    with silent():
        nncf = _nncf()
        modes, ignored = nncf.CompressWeightsMode, nncf.IgnoredScope(names=list(left_out))
        try:
            if bits == 8:
                return nncf.compress_weights(model, mode=modes.INT8_ASYM, ignored_scope=ignored)
            return nncf.compress_weights(
                model, mode=modes.INT4_SYM, group_size=-1, ratio=1.0, all_layers=True, ignored_scope=ignored
            )
        except Exception as error:
            first_line = str(error).strip().partition("\n")[0]
            raise ConversionError(f"nncf cannot compress the weights of this network: {first_line}") from error


def single_rows(inputs: Inputs) -> list[Inputs]:
    """Split a batch into inputs of one row each."""
    rows = batch_size(inputs)

    def one(row: int) -> Inputs:
        return map_inputs(inputs, lambda value: value[row : row + 1] if value.ndim and len(value) == rows else value)

    return [one(row) for row in range(rows)]


def _has_attention(model: Any) -> bool:
    """Whether the model contains attention, recognised by its softmax.

    For transformers nncf also quantises the matrix products of two activations.
    """
    nodes = model.graph.node if hasattr(model, "graph") else []
    kinds = {node.op_type for node in nodes} or {each.get_type_name() for each in model.get_ops()}
    return bool(kinds & {"Softmax", "Attention", "ScaledDotProductAttention"})


def _nncf() -> Any:
    try:
        import nncf
    except ImportError as error:
        raise ValueError("int8 needs nncf, which is not installed: pip install nncf") from error
    return nncf


@contextmanager
def silent() -> Iterator[None]:
    """Import and use nncf inside this context, without progress bars, notices, warnings or telemetry."""
    log = logging.getLogger("nncf")
    level = log.level
    # nncf sends usage data unless this variable, set in its own tests, is present at the first import.
    before = os.environ.get("NNCF_CI")
    os.environ["NNCF_CI"] = "1"
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            log.setLevel(logging.CRITICAL)
            yield
    finally:
        log.setLevel(level)
        if before is None:
            del os.environ["NNCF_CI"]
        else:
            os.environ["NNCF_CI"] = before
