"""The layers of a network as operators of an OpenVINO graph, and how each is rewritten into its precision.

Everything starts from the float32 graph: a layer that is not named keeps its operator, weight, bias and input, so a
policy without quantized layers computes what the float32 file computes, bit by bit.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardware.layers import Layers
from hardware.openvino_operators import (
    LEVELS,
    bias_port,
    drops_axes,
    inside_of,
    is_not_negative,
    keep_reduced_axes,
    keeping_axes,
    operators_of,
    opset,
    outputs_of,
    shapes,
    show_gates,
    simplify,
    source_of,
    weight_port,
)
from hardware.quantized import has_attention, quantized
from hardware.rounding import Array, eight_bits, four_bits, grouped, packed, symmetric
from search_spaces.inputs import Inputs
from search_spaces.quantization import LayerPrecision


@dataclass(frozen=True)
class Int8:
    """How one operator computes in INT8.

    Attributes:
        smoothing: factors of the input, broadcast to its shape, before it is rounded; None for none.
        low: where the range of the input begins, broadcast to its shape.
        high: where it ends.
        weight: an OpenVINO output that yields the weight, widened from INT8.
        bias: what is added to the product instead of the network's bias; None for that.
    """

    smoothing: Array | None
    low: Array
    high: Array
    weight: Any
    bias: Array | None

    @property
    def input_key(self) -> tuple[object, ...]:
        """Equal for operators that round their inputs in the same way."""
        smoothing = None if self.smoothing is None else self.smoothing.tobytes()
        return smoothing, self.low.tobytes(), self.high.tobytes()


class Graph:
    """A network in float32, from which it can be written in any precision of its layers.

    Args:
        model: an OpenVINO model read from an ONNX file; the graph keeps it and simplifies it.
        layers: of that file.
    """

    def __init__(self, model: Any, layers: Layers) -> None:
        self.model, self.layers = model, layers
        operators = operators_of(model, layers.weights)
        simplify(model)
        # A product of two constants, as of DeBERTa's table of distances, is gone.
        left = {each.get_friendly_name() for each in model.get_ops()}
        self.operators = {path: [name for name in names if name in left] for path, names in operators.items()}

    def rewritten(self, layers: Mapping[str, LayerPrecision], int8: Mapping[str, Int8]) -> Any:
        """A copy of the model with layers in other precisions, see `hardware.grafting.Graph`."""
        model = self.model.clone()
        found = {each.get_friendly_name(): each for each in model.get_ops()}
        inputs: dict[object, Any] = {}
        for path, precision in layers.items():
            weights: dict[str, Any] = {}
            for operator in (found[name] for name in self.operators.get(path, ())):
                if precision == "int8" and operator.get_friendly_name() in int8:
                    _compute_in_int8(operator, int8[operator.get_friendly_name()], inputs)
                elif precision in ("int8-weights", "int4-weights"):
                    port = operator.input(weight_port(operator))
                    held = port.get_source_output().get_node().get_friendly_name()
                    if held not in weights:
                        weights[held] = _small(operator, 4 if precision == "int4-weights" else 8)
                    port.replace_source_output(weights[held])
        model.validate_nodes_and_infer_types()
        return model

    def calibrated(self, rows: Sequence[Inputs], *, asymmetric: bool, seven_bits: bool) -> dict[str, Int8]:
        """How each operator that nncf can quantize computes in INT8, see `hardware.grafting.Graph`."""
        products = {name for names in self.operators.values() for name in names}
        whole = self.model.clone()
        keep_reduced_axes(whole)
        show_gates(whole)
        kinds = {each.get_friendly_name(): each.get_type_name() for each in whole.get_ops()}
        left_out = [name for name, kind in kinds.items() if name not in products or kind == "Gather"]
        model = quantized(whole, shapes(whole), rows, left_out=left_out, asymmetric=asymmetric, seven_bits=seven_bits)
        operators = [each for each in model.get_ops() if each.get_friendly_name() in products]
        rounded = [each for each in operators if source_of(each).get_type_name() == "FakeQuantize"]
        return {each.get_friendly_name(): _read(each) for each in rounded}

    def uncalibrated(self, paths: Collection[str], asymmetric: Collection[str] = ()) -> dict[str, Int8]:
        """How the operators of some layers would compute in INT8, with made-up ranges of their inputs."""
        kinds = [each.get_type_name() for each in self.model.get_ops()]
        made_up = _MadeUp(smooth=has_attention(kinds))
        names = {name for path in paths for name in self.operators.get(path, ())}
        found = {each.get_friendly_name(): each for each in self.model.get_ordered_ops()}
        return {name: made_up.of(each) for name, each in found.items() if name in names}


def _compute_in_int8(operator: Any, int8: Int8, inputs: dict[object, Any]) -> None:
    """Rewrite an operator in place; layers that round the same input in the same way share that."""
    ops, source = opset(), operator.input_value(0)
    key = source.get_node().get_friendly_name(), source.get_index(), int8.input_key
    if key not in inputs:
        if drops_axes(source.get_node()):
            # See `keep_reduced_axes`.
            source = keeping_axes(source.get_node())
        value = source if int8.smoothing is None else ops.multiply(source, ops.constant(int8.smoothing)).output(0)
        low, high = ops.constant(int8.low), ops.constant(int8.high)
        inputs[key] = ops.fake_quantize(value, low, high, low, high, LEVELS).output(0)
    operator.input(0).replace_source_output(inputs[key])
    operator.input(1).replace_source_output(int8.weight)
    if int8.bias is not None:
        bias_port(operator).replace_source_output(ops.constant(int8.bias).output(0))


def _read(operator: Any) -> Int8:
    rounding = source_of(operator)
    before, low, high = (value.get_node() for value in rounding.input_values()[:3])
    smooth = before.get_type_name() == "Multiply" and "nncf_smooth_quant" in before.get_friendly_name()
    bias = bias_port(operator)
    return Int8(
        smoothing=np.array(before.input_value(1).get_node().data) if smooth else None,
        low=np.array(low.data),
        high=np.array(high.data),
        weight=operator.input_value(1),
        bias=None if bias is None else np.array(bias.get_source_output().get_node().data),
    )


class _MadeUp:
    """How operators would compute in INT8, without any input: weights are rounded, the rest is plausible."""

    def __init__(self, smooth: bool) -> None:
        self._smooth = smooth
        self._weights: dict[str, Any] = {}
        self._smoothing: dict[object, Array] = {}

    def of(self, operator: Any) -> Int8:
        # As nncf does: matrix products of transformers are smoothed where their weight is theirs alone, and their input
        # has a zero point; each channel that is convolved by itself has its own range.
        product, rank = operator.get_type_name() == "MatMul", len(operator.input_value(0).get_partial_shape())
        zero = 128
        if is_not_negative(source_of(operator)):
            zero = 0
        elif self._smooth and product:
            zero = 96
        value = operator.input_value(1).get_node().data
        alone = operator.get_type_name() == "GroupConvolution" and value.shape[1] == value.shape[2] == 1
        shape = [1, len(value), *[1] * (rank - 2)] if alone else []
        low, high = (np.full(shape, 8 / 255 * level, np.float32) for level in (-zero, 255 - zero))
        smoothing = self._factors(operator, rank) if self._smooth and product else None
        return Int8(smoothing, low, high, self._weight(operator), bias=None)

    def _factors(self, operator: Any, rank: int) -> Array | None:
        weight, source = operator.input_value(1).get_node(), operator.input_value(0)
        if len(weight.output(0).get_target_inputs()) > 1:
            return None
        key = source.get_node().get_friendly_name(), source.get_index()
        if key not in self._smoothing:
            # Those of the first product with this input serve for all of them.
            largest = np.abs(weight.data).max(outputs_of(operator)) + 0.1
            self._smoothing[key] = largest.reshape([1] * (rank - 1) + [largest.size]).astype(np.float32)
        return self._smoothing[key]

    def _weight(self, operator: Any) -> Any:
        ops, weight = opset(), operator.input_value(1).get_node()
        if weight.get_friendly_name() not in self._weights:
            levels, scale = symmetric(weight.data, inside_of(operator))
            wide = ops.convert(ops.constant(levels), "f32")
            self._weights[weight.get_friendly_name()] = ops.multiply(wide, ops.constant(scale)).output(0)
        return self._weights[weight.get_friendly_name()]


def _small(operator: Any, bits: int) -> Any:
    """An operator's weight in 8 or 4 bits, widened again: what `nncf.compress_weights` writes, but for any layer.

    8 bits have a scale and a zero point for each output, 4 bits a scale for each group of weights of an output.
    """
    ops = opset()
    value, inside = operator.input_value(weight_port(operator)).get_node().data, inside_of(operator)
    shape = value.shape
    if bits == 8:
        levels, scale, zero = eight_bits(value, inside)
        wide = ops.subtract(ops.convert(ops.constant(levels), "f16"), ops.convert(ops.constant(zero), "f16"))
    else:
        if len(inside) == 1:
            value, inside = grouped(value, *inside)
        levels, scale = four_bits(value, inside)
        wide = ops.convert(_int4(levels), "f16")
    widened = ops.multiply(wide, ops.constant(scale.astype(np.float16)))
    if value.shape != shape:
        widened = ops.reshape(widened, ops.constant(np.array(shape, np.int64)), special_zero=False)
    return ops.convert(widened, "f32").output(0)


def _int4(levels: Array) -> Any:
    import openvino

    tensor = openvino.Tensor(packed(levels), openvino.Shape(levels.shape), openvino.Type.i4)
    # By default the constant would use the memory of the packed array, which is freed on return.
    return openvino.op.Constant(tensor, shared_memory=False)
