"""How operators of an ONNX model compute in INT8: as nncf found, or made up to measure latency."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardware.onnx_operators import bias_user, inside_of, is_not_negative, outputs_of, users_of
from hardware.quantized import has_attention
from hardware.rounding import Array, symmetric


@dataclass(frozen=True)
class Int8:
    """How one operator computes in INT8.

    Attributes:
        nodes: operators to add before it, in order; those that have been added already are shared.
        constants: their weights, by name.
        inputs: the first two inputs of the operator: the rounded input and the widened weight.
        bias: the corrected bias; None for the network's.
    """

    nodes: tuple[Any, ...]
    constants: Mapping[str, Any]
    inputs: tuple[str, str]
    bias: Any | None


class Reader:
    """Reads how the operators of a model compute in the model that nncf made of it."""

    def __init__(self, model: Any, quantized: Any) -> None:
        graph = model.graph
        self._before = {each.name for each in [*graph.initializer, *graph.input]}
        self._before |= {name for node in graph.node for name in node.output}
        self._makers = {name: node for node in quantized.graph.node for name in node.output}
        self._held = {each.name: each for each in quantized.graph.initializer}
        self._users = users_of(quantized.graph.node)

    def read(self, node: Any) -> Int8 | None:
        """How an operator of the quantized model computes; None if nncf left it in float32."""
        if node.input[0] in self._before or node.input[1] in self._before:
            return None
        nodes: list[Any] = []
        constants: dict[str, Any] = {}
        for name in node.input[:2]:
            self._collect(name, nodes, constants)
        where = bias_user(node, self._users, self._held)
        bias = None if where is None else self._held[where[0].input[where[1]]]
        return Int8(tuple(nodes), constants, (node.input[0], node.input[1]), bias)

    def _collect(self, name: str, nodes: list[Any], constants: dict[str, Any]) -> None:
        if name in self._before:
            return
        if name in self._held:
            constants[name] = self._held[name]
            return
        maker = self._makers[name]
        for needed in maker.input:
            self._collect(needed, nodes, constants)
        if maker not in nodes:
            nodes.append(maker)


class MadeUp:
    """How operators would compute in INT8, without any input: weights are rounded, the rest is plausible."""

    def __init__(self, model: Any) -> None:
        self._smooth = has_attention(node.op_type for node in model.graph.node)
        self._held = {each.name: each for each in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._users = users_of(model.graph.node)
        self._factors: dict[str, Array] = {}

    def of(self, node: Any, asymmetric: bool) -> Int8:
        """How an operator would compute; as nncf does it, only products of transformers are smoothed."""
        from onnx import helper, numpy_helper

        product, source, name = node.op_type in ("MatMul", "Gemm"), node.input[0], node.input[1]
        value = numpy_helper.to_array(self._held[name])
        constants: dict[str, Any] = {}
        nodes: list[Any] = []

        def hold(key: str, array: Any) -> str:
            constants[key] = numpy_helper.from_array(np.asarray(array), key)
            return key

        if self._smooth and product and len(self._users[name]) == 1:
            # Those of the first product with this input serve for all of them.
            smoothed = f"{source}/smoothed"
            if smoothed not in self._factors:
                self._factors[smoothed] = np.abs(value).max(outputs_of(node, value.ndim)) + np.float32(0.1)
            factors = hold(f"{smoothed}/factors", self._factors[smoothed])
            nodes.append(helper.make_node("Mul", [source, factors], [smoothed]))
            source = smoothed
        positive = is_not_negative(node.input[0], self._makers)
        zero = np.uint8(0) if positive else np.int8(-32 if self._smooth and product else 0)
        scaled = [hold(f"{source}/scale", np.float32(8 / 255)), hold(f"{source}/zero", zero)]
        nodes.append(helper.make_node("QuantizeLinear", [source, *scaled], [f"{source}/levels"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{source}/levels", *scaled], [f"{source}/rounded"]))
        levels, scale = symmetric(value, inside_of(node, value.ndim))
        axis = outputs_of(node, value.ndim)[0]
        zeros = np.resize(np.arange(-2, 3), scale.size) if asymmetric else np.zeros(scale.size)
        parts = [hold(f"{name}/levels", levels), hold(f"{name}/scale", scale.reshape(-1))]
        parts.append(hold(f"{name}/zero", zeros.astype(np.int8)))
        nodes.append(helper.make_node("DequantizeLinear", parts, [f"{name}/widened"], axis=axis))
        return Int8(tuple(nodes), constants, (f"{source}/rounded", f"{name}/widened"), None)
