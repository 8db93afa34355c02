"""The layers of a network as operators of an OpenVINO graph, and how each is rewritten into its precision.

Everything starts from the float32 graph: a layer that is not named keeps its operator, weight, bias and input, so a
policy without quantized layers computes what the float32 file computes, bit by bit.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from hardware.layers import Layers
from hardware.policy import LayerPrecision
from hardware.quantized import has_attention

Array = npt.NDArray[Any]

# The axes of an operator's weight that tell its outputs apart; a matrix product may have its weight transposed.
_OUTPUTS: Mapping[str, tuple[int, ...]] = {
    "Convolution": (0,),
    "GroupConvolution": (0, 1),
    "ConvolutionBackpropData": (1,),
    "GroupConvolutionBackpropData": (0, 2),
    "Gather": (0,),
}
_OPERATORS = frozenset({"MatMul", *_OUTPUTS})
# What stands between the weight in an ONNX file and its operator in OpenVINO, as for the groups of a convolution.
_PASSING = frozenset({"Reshape", "Transpose", "Convert"})
_NOT_NEGATIVE = frozenset({"Relu", "Sigmoid", "Softmax", "Abs", "Exp"})
_KEEPS_SIGN = frozenset({"MaxPool", "AvgPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "ReduceMean"})
_GROUP = 64
_LEVELS = 256
EXTREME_INPUTS = 256
"""Number of inputs of `extreme_product`."""


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

    Attributes:
        model: it is not to be changed.
        layers: as given.
        operators: the names of the operators of each layer, by its path.
    """

    def __init__(self, model: Any, layers: Layers) -> None:
        self.model, self.layers = model, layers
        operators = _operators(model, layers.weights)
        simplify(model)
        # A product of two constants, as of DeBERTa's table of distances, is gone.
        left = {each.get_friendly_name() for each in model.get_ops()}
        self.operators = {path: [name for name in names if name in left] for path, names in operators.items()}

    @property
    def products(self) -> tuple[str, ...]:
        """The names of all operators that can compute in INT8."""
        kinds = {each.get_friendly_name(): each.get_type_name() for each in self.model.get_ops()}
        return tuple(name for names in self.operators.values() for name in names if kinds[name] != "Gather")

    def others(self) -> list[str]:
        """The names of all operators that must not compute in INT8."""
        products = set(self.products)
        return [each.get_friendly_name() for each in self.model.get_ops() if each.get_friendly_name() not in products]

    def rewritten(self, layers: Mapping[str, LayerPrecision], int8: Mapping[str, Int8]) -> Any:
        """A copy of the model with layers in other precisions.

        Args:
            layers: precision by path.
            int8: how the operators of the layers in int8 compute, by their names.
        """
        model = self.model.clone()
        found = {each.get_friendly_name(): each for each in model.get_ops()}
        inputs: dict[object, Any] = {}
        for path, precision in layers.items():
            weights: dict[str, Any] = {}
            for operator in (found[name] for name in self.operators[path]):
                if precision == "int8":
                    _compute_in_int8(operator, int8[operator.get_friendly_name()], inputs)
                elif precision != "float32":
                    port = operator.input(_weight_port(operator))
                    held = port.get_source_output().get_node().get_friendly_name()
                    if held not in weights:
                        weights[held] = _small(operator, 4 if precision == "int4-weights" else 8)
                    port.replace_source_output(weights[held])
        model.validate_nodes_and_infer_types()
        return model

    def read(self, quantized: Any) -> dict[str, Int8]:
        """How the operators compute in a model that nncf made from this one; those that it left in float are absent."""
        products = set(self.products)
        operators = [each for each in quantized.get_ops() if each.get_friendly_name() in products]
        rounded = [each for each in operators if _source(each).get_type_name() == "FakeQuantize"]
        return {each.get_friendly_name(): _read(each) for each in rounded}

    def uncalibrated(self, paths: Collection[str]) -> dict[str, Int8]:
        """How the operators of some layers would compute in INT8, with made-up ranges of their inputs.

        The graph then has the operators of a calibrated one, and so its latency and size, but its outputs mean nothing.
        """
        kinds = [each.get_type_name() for each in self.model.get_ops()]
        made_up = _MadeUp(smooth=has_attention(kinds))
        names = {name for path in paths for name in self.operators[path]}
        found = {each.get_friendly_name(): each for each in self.model.get_ordered_ops()}
        return {name: made_up.of(each) for name, each in found.items() if name in names}


def simplify(model: Any) -> None:
    """Compute what is constant, in place, so that each layer is an operator, a constant weight and a constant bias."""
    from openvino.passes import ConstantFolding, Manager

    passes = Manager()
    passes.register_pass(ConstantFolding())
    passes.run_passes(model)
    for each in model.get_ops():
        # What remains of ONNX's Gemm: a product, times one, plus the bias.
        if each.get_type_name() == "Multiply":
            for product, factor in (each.input_values(), each.input_values()[::-1]):
                if product.get_node().get_type_name() == "MatMul" and _is_one(factor.get_node()):
                    for port in each.output(0).get_target_inputs():
                        port.replace_source_output(product)
                    break


def extreme_product() -> Any:
    """A model of inputs from 0 to 255 times weights of 127 in INT8, whose sums leave 16 bits at once."""
    import openvino

    ops = _opset()
    numbers = ops.parameter([-1, EXTREME_INPUTS], np.float32, name="numbers")
    low, high = ops.constant(np.float32(0)), ops.constant(np.float32(255))
    rounded = ops.fake_quantize(numbers, low, high, low, high, _LEVELS)
    weight = ops.convert(ops.constant(np.full((EXTREME_INPUTS, 64), 127, np.int8)), "f32")
    # Without a scale the weight would be taken for one in float32.
    scaled = ops.multiply(weight, ops.constant(np.full((1, 64), 1 / 2, np.float32)))
    product = ops.matmul(rounded, scaled, False, False)
    return openvino.Model([ops.multiply(product, ops.constant(np.float32(2)))], [numbers])


def _is_one(node: Any) -> bool:
    return node.get_type_name() == "Constant" and node.data.size == 1 and float(node.data.item()) == 1.0


def _operators(model: Any, weights: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for constant in model.get_ops():
        if constant.get_type_name() != "Constant" or constant.get_friendly_name() not in weights:
            continue
        reached = [constant]
        while reached:
            for port in reached.pop().output(0).get_target_inputs():
                user = port.get_node()
                if user.get_type_name() in _PASSING:
                    reached.append(user)
                elif user.get_type_name() in _OPERATORS and port.get_index() == _weight_port(user):
                    found.setdefault(weights[constant.get_friendly_name()], []).append(user.get_friendly_name())
    return found


def _weight_port(operator: Any) -> int:
    return 0 if operator.get_type_name() == "Gather" else 1


def _source(operator: Any) -> Any:
    return operator.input_value(0).get_node()


def _outputs(operator: Any) -> tuple[int, ...]:
    """The axes of an operator's weight that tell its outputs apart."""
    if operator.get_type_name() != "MatMul":
        return _OUTPUTS[operator.get_type_name()]
    rank = len(operator.input_value(1).get_shape())
    return (rank - 2 if operator.get_attributes()["transpose_b"] else rank - 1,)


def _bias_port(operator: Any) -> Any:
    """The input of the sum behind an operator that holds its bias; None where nothing constant is added."""
    users = [port.get_node() for port in operator.output(0).get_target_inputs()]
    if len(users) != 1 or users[0].get_type_name() != "Add":
        return None
    ports = [port for port in users[0].inputs() if port.get_source_output().get_node().get_type_name() == "Constant"]
    return ports[0] if ports else None


def _compute_in_int8(operator: Any, int8: Int8, inputs: dict[object, Any]) -> None:
    """Rewrite an operator in place; layers that round the same input in the same way share that."""
    ops, source = _opset(), operator.input_value(0)
    key = source.get_node().get_friendly_name(), source.get_index(), int8.input_key
    if key not in inputs:
        value = source if int8.smoothing is None else ops.multiply(source, ops.constant(int8.smoothing)).output(0)
        low, high = ops.constant(int8.low), ops.constant(int8.high)
        inputs[key] = ops.fake_quantize(value, low, high, low, high, _LEVELS).output(0)
    operator.input(0).replace_source_output(inputs[key])
    operator.input(1).replace_source_output(int8.weight)
    if int8.bias is not None:
        _bias_port(operator).replace_source_output(ops.constant(int8.bias).output(0))


def _read(operator: Any) -> Int8:
    rounding = _source(operator)
    before, low, high = (value.get_node() for value in rounding.input_values()[:3])
    smooth = before.get_type_name() == "Multiply" and "nncf_smooth_quant" in before.get_friendly_name()
    bias = _bias_port(operator)
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
        if _is_not_negative(_source(operator)):
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
            largest = np.abs(weight.data).max(_outputs(operator)) + 0.1
            self._smoothing[key] = largest.reshape([1] * (rank - 1) + [largest.size]).astype(np.float32)
        return self._smoothing[key]

    def _weight(self, operator: Any) -> Any:
        ops, weight = _opset(), operator.input_value(1).get_node()
        if weight.get_friendly_name() not in self._weights:
            value = weight.data
            inside = tuple(axis for axis in range(value.ndim) if axis not in _outputs(operator))
            scale = _not_tiny(np.abs(value).max(inside, keepdims=True) / 127)
            wide = ops.convert(ops.constant(np.round(value / scale).astype(np.int8)), "f32")
            self._weights[weight.get_friendly_name()] = ops.multiply(wide, ops.constant(scale)).output(0)
        return self._weights[weight.get_friendly_name()]


def _is_not_negative(node: Any) -> bool:
    while node.get_type_name() in _KEEPS_SIGN:
        node = _source(node)
    return node.get_type_name() in _NOT_NEGATIVE


def _small(operator: Any, bits: int) -> Any:
    """An operator's weight in 8 or 4 bits, widened again: what `nncf.compress_weights` writes, but for any layer.

    8 bits have a scale and a zero point for each output, 4 bits a scale for each 64 weights of an output, or for each
    output where its weights are not a multiple of 64.
    """
    ops = _opset()
    value = operator.input_value(_weight_port(operator)).get_node().data
    outputs = _outputs(operator)
    inside = tuple(axis for axis in range(value.ndim) if axis not in outputs)
    if operator.get_type_name() == "Gather":
        inside = (value.ndim - 1,)
    shape = list(value.shape)
    if bits == 8:
        low = np.minimum(value.min(inside, keepdims=True), 0)
        scale = _not_tiny((np.maximum(value.max(inside, keepdims=True), 0) - low) / 255)
        zero = np.clip(-np.round(low / scale), 0, 255)
        levels = np.clip(np.round(value / scale + zero), 0, 255).astype(np.uint8)
        wide = ops.subtract(
            ops.convert(ops.constant(levels), "f16"), ops.convert(ops.constant(zero.astype(np.uint8)), "f16")
        )
    else:
        if len(inside) == 1 and shape[inside[0]] % _GROUP == 0:
            axis = inside[0]
            value = value.reshape([*shape[:axis], shape[axis] // _GROUP, _GROUP, *shape[axis + 1 :]])
            inside = (axis + 1,)
        low, high = -value.min(inside, keepdims=True), value.max(inside, keepdims=True)
        # The larger end of the range becomes -8, of which there is one more than of positive levels.
        scale = _not_tiny(np.where(np.abs(low) >= high, np.abs(low), -high) / 8)
        wide = ops.convert(_int4(np.clip(np.round(value / scale), -8, 7)), "f16")
    widened = ops.multiply(wide, ops.constant(scale.astype(np.float16)))
    if list(value.shape) != shape:
        widened = ops.reshape(widened, ops.constant(np.array(shape, np.int64)), special_zero=False)
    return ops.convert(widened, "f32").output(0)


def _not_tiny(scale: Array) -> Array:
    smallest = np.finfo(np.float32).eps
    return np.where(np.abs(scale) < smallest, smallest, scale).astype(np.float32)


def _int4(levels: Array) -> Any:
    """A constant of 4-bit integers, two in a byte, the first in its lower half."""
    import openvino

    halves = levels.astype(np.int8).reshape(-1).view(np.uint8) & 0xF
    halves = np.append(halves, np.zeros(halves.size % 2, np.uint8))
    packed = halves[::2] | halves[1::2] << 4
    return _opset().constant(openvino.Tensor(packed, openvino.Shape(levels.shape), openvino.Type.i4))


@cache
def _opset() -> Any:
    from openvino import opset13

    return opset13
