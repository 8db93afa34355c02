"""Post-training quantisation to INT8 (the only home of nncf)."""

import io
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import numpy as np

from hardware.backend import ConversionError, arrange
from hardware.inputs import batch_size, map_inputs, split
from search_spaces.inputs import Inputs

# The sizes of the axes of an input; None for one that varies.
Shape = tuple[int | None, ...]
SEVEN_BITS = "sums of INT8 products are cut off on this processor, so weights are rounded to 7 bits"
_ATTENTION = frozenset({"Softmax", "Attention", "ScaledDotProductAttention"})


def quantized(
    model: Any,
    inputs: Mapping[str, Shape],
    calibration: Sequence[Inputs],
    *,
    left_out: Sequence[str] = (),
    asymmetric: bool = False,
    seven_bits: bool = False,
) -> Any:
    """Quantise weights and inputs of linear layers and convolutions to INT8.

    Args:
        model: an OpenVINO or ONNX model; it is not changed.
        inputs: shape by the name of each of its inputs.
        calibration: at least one input of one row, from which the ranges of activations are determined.
        left_out: names of operators that stay in floating point.
        asymmetric: whether weights have a zero point.
        seven_bits: whether weights use half of the range, for processors on which sums of products of whole ranges
            saturate.

    Returns:
        The quantised model, of the same type.

    Raises:
        ConversionError: the model cannot be quantised.
        ValueError: nncf is not installed, there are no rows, or they are not inputs of the model.
    """
    with silent():
        nncf = _nncf()
        samples = _samples(inputs, calibration)
        try:
            return nncf.quantize(
                model,
                nncf.Dataset(samples),
                # All given rows; nncf would use at most 300 by default.
                subset_size=len(samples),
                model_type=nncf.ModelType.TRANSFORMER if has_attention(_kinds(model)) else None,
                ignored_scope=nncf.IgnoredScope(names=list(left_out)),
                advanced_parameters=_advanced(nncf, asymmetric, seven_bits),
            )
        except Exception as error:
            first_line = str(error).strip().partition("\n")[0]
            raise ConversionError(f"nncf cannot quantize this network: {first_line}") from error


def _advanced(nncf: Any, asymmetric: bool, seven_bits: bool) -> Any:
    from nncf.common.quantization.structs import QuantizationScheme
    from nncf.quantization.advanced_parameters import OverflowFix, QuantizationParameters

    if asymmetric:
        weights = QuantizationParameters(mode=QuantizationScheme.ASYMMETRIC)
        # nncf halves the ranges of symmetric weights only.
        return nncf.AdvancedQuantizationParameters(
            overflow_fix=OverflowFix.DISABLE, weights_quantization_params=weights
        )
    # None: the first layer alone.
    return nncf.AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE if seven_bits else None)


def _samples(inputs: Mapping[str, Shape], calibration: Sequence[Inputs]) -> list[dict[str, Any]]:
    if not calibration:
        raise ValueError("INT8 must be calibrated on at least one row, got none; give some rows of the training data")
    samples = []
    for number, row in enumerate(calibration):
        try:
            sample = arrange(list(inputs), *split(row))
        except KeyError as error:
            raise ValueError(
                f"rows for calibration must have the inputs {', '.join(inputs)}, row {number} has no {error.args[0]}"
            ) from error
        for name, shape in inputs.items():
            came = sample[name].shape
            fits = all(size is None or size == got for size, got in zip(shape, came, strict=False))
            if len(shape) != len(came) or not fits:
                wanted = ", ".join("any" if size is None else str(size) for size in shape)
                raise ValueError(
                    f"{name} must have the shape ({wanted}) in rows for calibration, "
                    f"row {number} has ({', '.join(map(str, came))})"
                )
            if not np.isfinite(sample[name]).all():
                raise ValueError(f"rows for calibration must hold numbers, row {number} has others in {name}")
        samples.append(sample)
    return samples


def single_rows(inputs: Inputs) -> list[Inputs]:
    """Split a batch into inputs of one row each."""
    rows = batch_size(inputs)

    def one(row: int) -> Inputs:
        return map_inputs(inputs, lambda value: value[row : row + 1] if value.ndim and len(value) == rows else value)

    return [one(row) for row in range(rows)]


def has_attention(kinds: Iterable[str]) -> bool:
    """Whether a model of such operators contains attention, recognised by its softmax.

    For transformers nncf smooths the inputs of layers, and gives them a zero point.
    """
    return bool(_ATTENTION & set(kinds))


def _kinds(model: Any) -> list[str]:
    if hasattr(model, "graph"):
        return [node.op_type for node in model.graph.node]
    return [each.get_type_name() for each in model.get_ops()]


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
