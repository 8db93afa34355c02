"""Operators of an OpenVINO graph: which are layers, what belongs to them, and how a graph is prepared for nncf."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from hardware.quantized import Shape

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
_REDUCTIONS = {"ReduceMean": "reduce_mean", "ReduceSum": "reduce_sum", "ReduceMax": "reduce_max"}
LEVELS = 256
"""Numbers that a value rounded to INT8 can be."""


def shapes(model: Any) -> dict[str, Shape]:
    """The shape of each input of a model by its name."""
    return {
        port.get_any_name(): tuple(None if size.is_dynamic else size.get_length() for size in port.get_partial_shape())
        for port in model.inputs
    }


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


def keep_reduced_axes(model: Any) -> None:
    """Work around a fault of OpenVINO, in place, in a model that is to be quantized.

    A mean over an axis that it drops, times a factor for each channel, rounded, gives wrong numbers on a processor
    (2026.4); a mean that keeps the axis, which is dropped behind it, does not.
    """
    for each in model.get_ops():
        if drops_axes(each):
            kept = keeping_axes(each)
            for port in each.output(0).get_target_inputs():
                port.replace_source_output(kept)


def show_gates(model: Any) -> None:
    """Let nncf quantize gates of channels (squeeze-excite), in place.

    It leaves them in float32 where it recognises one by the mean and the convolution behind it. A search decides that
    for itself, so a reshaping that changes nothing comes between the two.
    """
    ops = opset()
    for each in model.get_ops():
        if each.get_type_name() == "ReduceMean":
            rank = len(each.get_output_partial_shape(0))
            ports = [port for port in each.output(0).get_target_inputs() if port.get_node().get_type_name() in _OUTPUTS]
            if ports:
                same = ops.reshape(each.output(0), ops.constant(np.zeros(rank, np.int64)), special_zero=True).output(0)
                for port in ports:
                    port.replace_source_output(same)


def drops_axes(node: Any) -> bool:
    """Whether an operator is a mean, sum or maximum over axes that its output lacks; see `keep_reduced_axes`."""
    return node.get_type_name() in _REDUCTIONS and not node.get_attributes()["keep_dims"]


def keeping_axes(node: Any) -> Any:
    """The output of an operator that `drops_axes`, computed with the axes and then without them."""
    ops, (value, axes) = opset(), node.input_values()
    reduced = getattr(ops, _REDUCTIONS[node.get_type_name()])(value, axes, keep_dims=True)
    return ops.squeeze(reduced, axes).output(0)


def extreme_product(size: int) -> Any:
    """A model of `size` inputs from 0 to 255 times weights of 127 in INT8, whose sums leave 16 bits at once."""
    import openvino

    ops = opset()
    numbers = ops.parameter([-1, size], np.float32, name="numbers")
    low, high = ops.constant(np.float32(0)), ops.constant(np.float32(255))
    rounded = ops.fake_quantize(numbers, low, high, low, high, LEVELS)
    weight = ops.convert(ops.constant(np.full((size, 64), 127, np.int8)), "f32")
    # Without a scale the weight would be taken for one in float32.
    scaled = ops.multiply(weight, ops.constant(np.full((1, 64), 1 / 2, np.float32)))
    product = ops.matmul(rounded, scaled, False, False)
    return openvino.Model([ops.multiply(product, ops.constant(np.float32(2)))], [numbers])


def _is_one(node: Any) -> bool:
    return node.get_type_name() == "Constant" and node.data.size == 1 and float(node.data.item()) == 1.0


def operators_of(model: Any, weights: Mapping[str, str]) -> dict[str, list[str]]:
    """The names of the operators of each layer by its path, found from the constants of its weight."""
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
                elif user.get_type_name() in _OPERATORS and port.get_index() == weight_port(user):
                    found.setdefault(weights[constant.get_friendly_name()], []).append(user.get_friendly_name())
    return found


def weight_port(operator: Any) -> int:
    """The number of the input that is a layer's weight."""
    return 0 if operator.get_type_name() == "Gather" else 1


def source_of(operator: Any) -> Any:
    """The operator that computes the first input."""
    return operator.input_value(0).get_node()


def outputs_of(operator: Any) -> tuple[int, ...]:
    """The axes of an operator's weight that tell its outputs apart."""
    if operator.get_type_name() != "MatMul":
        return _OUTPUTS[operator.get_type_name()]
    rank = len(operator.input_value(1).get_shape())
    return (rank - 2 if operator.get_attributes()["transpose_b"] else rank - 1,)


def inside_of(operator: Any) -> tuple[int, ...]:
    """The other axes of its weight."""
    rank = len(operator.input_value(weight_port(operator)).get_shape())
    return tuple(axis for axis in range(rank) if axis not in outputs_of(operator))


def bias_port(operator: Any) -> Any:
    """The input of the sum behind an operator that holds its bias; None where nothing constant is added."""
    users = [port.get_node() for port in operator.output(0).get_target_inputs()]
    if len(users) != 1 or users[0].get_type_name() != "Add":
        return None
    ports = [port for port in users[0].inputs() if port.get_source_output().get_node().get_type_name() == "Constant"]
    return ports[0] if ports else None


def is_not_negative(node: Any) -> bool:
    """Whether a value cannot be negative, as far as the operators before it tell."""
    while node.get_type_name() in _KEEPS_SIGN:
        node = source_of(node)
    if node.get_type_name() == "Add":
        return all(is_not_negative(value.get_node()) for value in node.input_values())
    return node.get_type_name() in _NOT_NEGATIVE


@cache
def opset() -> Any:
    """OpenVINO's functions that make operators, imported when they are needed."""
    from openvino import opset13

    return opset13
