"""The layers of a network as operators of an ONNX model, and how each is rewritten into its precision.

Numbers in INT8 are written as runtimes expect them: the pair QuantizeLinear and DequantizeLinear before an operator,
and DequantizeLinear behind its weight. As in OpenVINO, everything starts from the float32 model.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hardware.backend import ConversionError
from hardware.layers import Layers
from hardware.onnx_int8 import Int8, MadeUp, Reader
from hardware.onnx_operators import (
    WEIGHT_PORTS,
    bias_user,
    give_each_its_bias,
    hide_gates,
    input_shapes,
    inside_of,
    layers_of,
    outputs_of,
    users_of,
    variable_values,
    weight_of,
    with_shown_gates,
)
from hardware.quantized import quantized
from hardware.rounding import GROUP, Array, eight_bits, four_bits, grouped, packed
from search_spaces.inputs import Inputs
from search_spaces.quantization import LayerPrecision

# Since this version of ONNX's operators, DequantizeLinear accepts 4 bits.
_OPSET_INT4 = 21


class OnnxGraph:
    """A network in float32, from which it can be written in any precision of its layers; see `hardware.grafting.Graph`.

    Args:
        model: an ONNX model; the graph keeps it.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.layers = layers_of(model)
        give_each_its_bias(model)
        self._skeleton = type(model)()
        self._skeleton.CopyFrom(model)
        for field in ("node", "initializer"):
            self._skeleton.graph.ClearField(field)
        self.operators: dict[str, list[str]] = {}
        for node in model.graph.node:
            path = self.layers.weights.get(weight_of(node))
            if path is not None:
                self.operators.setdefault(path, []).append(node.name)

    def calibrated(self, rows: Sequence[Inputs], *, asymmetric: bool, seven_bits: bool) -> dict[str, Int8]:
        """How each operator that nncf can quantize computes in INT8, see `hardware.grafting.Graph`."""
        whole = with_shown_gates(self._model)
        left_out = [node.name for node in whole.graph.node if not self._is_product(node)]
        model = quantized(
            whole, input_shapes(whole), rows, left_out=left_out, asymmetric=asymmetric, seven_bits=seven_bits
        )
        hide_gates(model)
        reader = Reader(self._model, model)
        products = {node.name for node in self._model.graph.node if self._is_product(node)}
        found = {node.name: reader.read(node) for node in model.graph.node if node.name in products}
        return {name: int8 for name, int8 in found.items() if int8 is not None}

    def uncalibrated(self, paths: Collection[str], asymmetric: Collection[str]) -> dict[str, Int8]:
        """How the operators of some layers would compute in INT8, with made-up ranges of their inputs."""
        names = {name: path for path in paths for name in self.operators.get(path, ())}
        made_up, variable = MadeUp(self._model), variable_values(self._model)
        return {
            node.name: made_up.of(node, names[node.name] in asymmetric)
            for node in self._model.graph.node
            if node.name in names and node.input[0] in variable
        }

    def rewritten(self, layers: Mapping[str, LayerPrecision], int8: Mapping[str, Int8]) -> Any:
        """A copy of the model with layers in other precisions, see `hardware.grafting.Graph`."""
        return _Writer(self._model, self._skeleton).written(
            {name: precision for path, precision in layers.items() for name in self.operators.get(path, ())}, int8
        )

    def _is_product(self, node: Any) -> bool:
        return node.op_type != "Gather" and weight_of(node) in self.layers.weights


def read_layers(path: Path) -> Layers:
    """Find the layers of an ONNX file that was written here; see `layers_of`."""
    import onnx

    return layers_of(onnx.load(path))


def read_graph(path: Path) -> OnnxGraph:
    """Read the graph of an ONNX file that was written here in float32."""
    import onnx

    return OnnxGraph(onnx.load(path))


class _Writer:
    """Writes one copy of a model with operators in other precisions.

    Args:
        model: in float32.
        skeleton: it without operators and constants.
    """

    def __init__(self, model: Any, skeleton: Any) -> None:
        self._model, self._skeleton = model, skeleton
        self._held = {each.name: each for each in model.graph.initializer}
        self._opset = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
        self._nodes: list[Any] = []
        self._made: set[str] = set()
        self._biases: dict[str, str] = {}

    def written(self, operators: Mapping[str, LayerPrecision], int8: Mapping[str, Int8]) -> Any:
        """The copy, with the operators of these names in these precisions."""
        import onnx

        users = users_of(self._model.graph.node)
        widened = {weight_of(node): int8[node.name] for node in self._model.graph.node if node.name in int8}
        for original in self._model.graph.node:
            node = onnx.NodeProto()
            node.CopyFrom(original)
            precision = operators.get(node.name, "float32")
            if precision == "int8" and node.name in int8:
                self._compute_in_int8(node, int8[node.name], users)
            elif precision == "int8":
                self._share_weight(node, widened)
            elif precision == "int8-weights":
                self._in_eight_bits(node)
            elif precision == "int4-weights":
                self._in_four_bits(node)
            for port, name in enumerate(node.input):
                node.input[port] = self._biases.get(f"{node.name}:{port}", name)
            self._nodes.append(node)
        return self._assembled()

    def _assembled(self) -> Any:
        import onnx

        used = {name for node in self._nodes for name in node.input}
        used |= {each.name for each in self._skeleton.graph.output}
        model = onnx.ModelProto()
        model.CopyFrom(self._skeleton)
        model.graph.node.extend(self._nodes)
        model.graph.initializer.extend(each for name, each in self._held.items() if name in used)
        return model

    def _compute_in_int8(self, node: Any, int8: Int8, users: Mapping[str, list[Any]]) -> None:
        for each in int8.nodes:
            self._add(each)
        self._held.update(int8.constants)
        if int8.bias is not None:
            where = bias_user(node, users, self._held)
            assert where is not None, "nncf corrects biases, it adds none"
            name = f"{node.name}/bias"
            bias = type(int8.bias)()
            bias.CopyFrom(int8.bias)
            bias.name = name
            self._held[name] = bias
            self._biases[f"{where[0].name}:{where[1]}"] = name
        node.input[0], node.input[1] = int8.inputs

    def _share_weight(self, node: Any, widened: Mapping[str, Int8]) -> None:
        """Let an operator with a constant input, which nothing rounds, take the weight of another that is called."""
        other = widened.get(weight_of(node))
        if other is not None:
            self._held.update(other.constants)
            self._add(next(each for each in other.nodes if each.output[0] == other.inputs[1]))
            node.input[1] = other.inputs[1]

    def _in_eight_bits(self, node: Any) -> None:
        from onnx import helper

        name = weight_of(node)
        value = self._value(name)
        levels, scale, zero = eight_bits(value, inside_of(node, value.ndim))
        if node.op_type == "Gather":
            # Rows are widened after they are read: a table is much larger than what is read of it.
            offset = -scale * zero.astype(np.float32)
            ids, out = node.input[1], node.output[0]
            parts = {"levels": levels, "scale_of_row": scale, "offset_of_row": offset}
            for key, array in parts.items():
                self._add(helper.make_node("Gather", [self._hold(f"{name}/{key}", array), ids], [f"{out}/{key}"]))
            self._add(helper.make_node("Cast", [f"{out}/levels"], [f"{out}/wide"], to=1))
            self._add(helper.make_node("Mul", [f"{out}/wide", f"{out}/scale_of_row"], [f"{out}/scaled"]))
            _become(node, helper.make_node("Add", [f"{out}/scaled", f"{out}/offset_of_row"], [out]))
            return
        constants = [self._hold(f"{name}/levels", levels), self._hold(f"{name}/scale", scale.reshape(-1))]
        constants.append(self._hold(f"{name}/zero", zero.reshape(-1)))
        axis = outputs_of(node, value.ndim)[0]
        self._add(helper.make_node("DequantizeLinear", constants, [f"{name}/widened"], axis=axis))
        node.input[WEIGHT_PORTS[node.op_type]] = f"{name}/widened"

    def _in_four_bits(self, node: Any) -> None:
        from onnx import TensorProto, helper

        if self._opset < _OPSET_INT4:
            raise ConversionError(
                f"weights in 4 bits need operators of ONNX {_OPSET_INT4} or later, but the attention of this network "
                f"runs in those of {self._opset} only; use int8-weights"
            )
        name = weight_of(node)
        value = self._value(name)
        inside, axis, more = inside_of(node, value.ndim), outputs_of(node, value.ndim)[0], {}
        parts = value
        if len(inside) == 1:
            parts, within = grouped(value, *inside)
            if parts.shape != value.shape:
                axis, inside, more = inside[0], within, {"block_size": GROUP}
        levels, scale = four_bits(parts, inside)
        scale = scale.squeeze(inside) if more else scale.reshape(-1)
        tensor = helper.make_tensor(f"{name}/levels", TensorProto.INT4, value.shape, packed(levels).tobytes(), raw=True)
        self._held[tensor.name] = tensor
        constants = [tensor.name, self._hold(f"{name}/scale", scale)]
        self._add(helper.make_node("DequantizeLinear", constants, [f"{name}/widened"], axis=axis, **more))
        node.input[WEIGHT_PORTS[node.op_type]] = f"{name}/widened"

    def _value(self, name: str) -> Array:
        from onnx import numpy_helper

        value: Array = numpy_helper.to_array(self._held[name])
        return value

    def _hold(self, name: str, value: Array) -> str:
        from onnx import numpy_helper

        if name not in self._held:
            self._held[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def _add(self, node: Any) -> None:
        """Add an operator, unless one with the same output is there."""
        if node.output[0] not in self._made:
            self._made.add(node.output[0])
            self._nodes.append(node)


def _become(node: Any, other: Any) -> None:
    name = node.name
    node.CopyFrom(other)
    node.name = name
