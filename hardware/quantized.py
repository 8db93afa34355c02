"""INT8 by calibration (the only home of nncf)."""

import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from hardware.backend import ConversionError, arrange
from hardware.inputs import Inputs, batch_size, map_inputs, split


def quantized(model: Any, names: Sequence[str], calibration: Sequence[Inputs]) -> Any:
    """A model whose linear layers and convolutions compute in INT8, weights and inputs; the given one is left.

    Args:
        model: an OpenVINO model or an ONNX one.
        names: of its inputs.
        calibration: inputs of one row each, from which the ranges of activations are taken; at least one.

    Raises:
        ConversionError: the model cannot be quantized.
        ValueError: nncf is not installed.
    """
    with silent():
        nncf = _nncf()
        samples = [arrange(names, *split(row)) for row in calibration]
        try:
            return nncf.quantize(
                model,
                nncf.Dataset(samples),
                subset_size=len(samples),
                model_type=nncf.ModelType.TRANSFORMER if _has_attention(model) else None,
            )
        except Exception as error:
            first_line = str(error).strip().partition("\n")[0]
            raise ConversionError(f"nncf cannot quantize this network: {first_line}") from error


def single_rows(inputs: Inputs) -> list[Inputs]:
    """The rows of a batch as inputs of one row each."""
    rows = batch_size(inputs)

    def one(row: int) -> Inputs:
        return map_inputs(inputs, lambda value: value[row : row + 1] if value.ndim and len(value) == rows else value)

    return [one(row) for row in range(rows)]


def _has_attention(model: Any) -> bool:
    """Whether there are products of two activations, which nncf takes for a transformer's: softmax is the sign."""
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
    """Import and use nncf inside: no progress bars, notices or warnings, and no reports of its use over the network."""
    log = logging.getLogger("nncf")
    level = log.level
    # It reports unless it takes itself to be tested when it is first imported.
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
