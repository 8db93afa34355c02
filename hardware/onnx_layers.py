"""The layers of a network as operators of an ONNX model, and how each is rewritten into its precision.

Numbers in INT8 are written as runtimes expect them: the pair QuantizeLinear and DequantizeLinear before an operator,
and DequantizeLinear behind its weight. As in OpenVINO, everything starts from the float32 model.
"""

import ast
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hardware.backend import ConversionError
from hardware.inputs import Inputs
from hardware.layers import Layers
from hardware.policy import LayerPrecision
from hardware.quantized import Shape, has_attention, quantized
from hardware.rounding import GROUP, Array, eight_bits, four_bits, grouped, packed, symmetric

# The input of an operator that is the weight of a layer.
_WEIGHT_PORTS = {"MatMul": 1, "Gemm": 1, "Conv": 1, "ConvTranspose": 1, "Gather": 0}
_NOT_NEGATIVE = frozenset({"Relu", "Sigmoid", "Softmax", "Abs", "Exp"})
_KEEPS_SIGN = frozenset(
    {"MaxPool", "AveragePool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "ReduceMean"}
)
_MEANS = frozenset({"ReduceMean", "GlobalAveragePool"})
# Ends the name of a value that is another one under a new name.
_SAME = "/same"
# Since this version of ONNX's operators, DequantizeLinear accepts 4 bits.
_OPSET_INT4 = 21


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


class OnnxGraph:
    """A network in float32, from which it can be written in any precision of its layers; see `hardware.grafting.Graph`.

    Args:
        model: an ONNX model; the graph keeps it.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self.layers = layers_of(model)
        _give_each_its_bias(model)
        self._skeleton = type(model)()
        self._skeleton.CopyFrom(model)
        for field in ("node", "initializer"):
            self._skeleton.graph.ClearField(field)
        self.operators: dict[str, list[str]] = {}
        for node in model.graph.node:
            path = self.layers.weights.get(_weight(node))
            if path is not None:
                self.operators.setdefault(path, []).append(node.name)

    def calibrated(self, rows: Sequence[Inputs], *, asymmetric: bool, seven_bits: bool) -> dict[str, Int8]:
        """How each operator that nncf can quantize computes in INT8, see `hardware.grafting.Graph`."""
        whole = _with_shown_gates(self._model)
        left_out = [node.name for node in whole.graph.node if not self._is_product(node)]
        model = quantized(
            whole, input_shapes(whole), rows, left_out=left_out, asymmetric=asymmetric, seven_bits=seven_bits
        )
        _hide_gates(model)
        reader = _Reader(self._model, model)
        products = {node.name for node in self._model.graph.node if self._is_product(node)}
        found = {node.name: reader.read(node) for node in model.graph.node if node.name in products}
        return {name: int8 for name, int8 in found.items() if int8 is not None}

    def uncalibrated(self, paths: Collection[str], asymmetric: Collection[str]) -> dict[str, Int8]:
        """How the operators of some layers would compute in INT8, with made-up ranges of their inputs."""
        names = {name: path for path in paths for name in self.operators.get(path, ())}
        made_up, variable = _MadeUp(self._model), _variable(self._model)
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
        return node.op_type != "Gather" and _weight(node) in self.layers.weights


def read_layers(path: Path) -> Layers:
    """Find the layers of an ONNX file that was written here; see `layers_of`."""
    import onnx

    return layers_of(onnx.load(path))


def read_graph(path: Path) -> OnnxGraph:
    """Read the graph of an ONNX file that was written here in float32."""
    import onnx

    return OnnxGraph(onnx.load(path))


def layers_of(model: Any) -> Layers:
    """Find the layers of an ONNX model, by the names and notes that the exporter left."""
    held = {each.name for each in model.graph.initializer if len(each.dims) > 1}
    weights: dict[str, str] = {}
    called: set[str] = set()
    for node in model.graph.node:
        notes = {each.key: each.value for each in node.metadata_props}
        scopes = ast.literal_eval(notes.get("pkg.torch.onnx.name_scopes", "[]"))
        called.update(scopes)
        name = _weight(node)
        if name not in held:
            continue
        parent, _, last = name.rpartition(".")
        if last == "weight":
            # Not the scope: that of a convolution is the batch norm that was folded into it.
            weights[name] = parent
        elif node.op_type == "MatMul" and len(scopes) > 1:
            # The weight is transposed and has a new name; the last scope but one is the linear layer.
            weights[name] = scopes[-2]
    return Layers(weights, frozenset(called))


def input_shapes(model: Any) -> dict[str, Shape]:
    """The shape of each input of a model by its name."""
    return {
        each.name: tuple(size.dim_value or None for size in each.type.tensor_type.shape.dim)
        for each in model.graph.input
    }


def _weight(node: Any) -> str:
    """The name of what may be the weight of an operator; empty for operators that have none."""
    port = _WEIGHT_PORTS.get(node.op_type, -1)
    return str(node.input[port]) if 0 <= port < len(node.input) else ""


def _attribute(node: Any, name: str, default: int) -> int:
    return next((int(each.i) for each in node.attribute if each.name == name), default)


def _outputs(node: Any, rank: int) -> tuple[int, ...]:
    """The axis of an operator's weight that tells its outputs apart."""
    if node.op_type == "Gemm":
        return (0 if _attribute(node, "transB", 0) else 1,)
    return {"MatMul": (rank - 1,), "ConvTranspose": (1,)}.get(node.op_type, (0,))


def _inside(node: Any, rank: int) -> tuple[int, ...]:
    """The other axes of its weight."""
    return tuple(axis for axis in range(rank) if axis not in _outputs(node, rank))


def _bias_user(node: Any, users: Mapping[str, list[Any]], held: Collection[str]) -> tuple[Any, int] | None:
    """The operator and the number of its input that holds the bias of a layer."""
    if node.op_type != "MatMul":
        return (node, 2) if len(node.input) > 2 and node.input[2] in held else None
    behind = users.get(node.output[0], [])
    if len(behind) != 1 or behind[0].op_type != "Add":
        return None
    port = next((port for port, name in enumerate(behind[0].input) if name in held), None)
    return None if port is None else (behind[0], port)


def _variable(model: Any) -> set[str]:
    """The names of all values that depend on the model's inputs."""
    found = {each.name for each in model.graph.input}
    for node in model.graph.node:
        if not found.isdisjoint(node.input):
            found.update(node.output)
    return found


def _users(nodes: Iterable[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for node in nodes:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def _give_each_its_bias(model: Any) -> None:
    """Copy biases that several operators share, since each of them is corrected by itself."""
    held = {each.name: each for each in model.graph.initializer}
    users = _users(model.graph.node)
    taken = set()
    for node in model.graph.node:
        where = _bias_user(node, users, held) if _weight(node) in held else None
        if where is not None:
            user, port = where
            name = user.input[port]
            if name in taken:
                own = model.graph.initializer.add()
                own.CopyFrom(held[name])
                own.name = user.input[port] = f"{name}.{node.name}"
            taken.add(name)


def _with_shown_gates(model: Any) -> Any:
    """A copy of a model in which nncf quantizes gates of channels (squeeze-excite).

    It leaves them in float32 where it recognises one by the mean and the convolution behind it. A search decides that
    for itself, so an operator that changes nothing comes between the two.
    """
    from onnx import helper

    copied = type(model)()
    copied.CopyFrom(model)
    del copied.graph.node[:]
    means = {name for node in model.graph.node if node.op_type in _MEANS for name in node.output}
    made: set[str] = set()
    for original in model.graph.node:
        node = type(original)()
        node.CopyFrom(original)
        if node.op_type == "Conv" and node.input[0] in means:
            same = f"{node.input[0]}{_SAME}"
            if same not in made:
                made.add(same)
                copied.graph.node.append(helper.make_node("Identity", [node.input[0]], [same], name=same))
            node.input[0] = same
        copied.graph.node.append(node)
    return copied


def _hide_gates(model: Any) -> None:
    """Undo `_with_shown_gates` in the names of inputs, in place."""
    for node in model.graph.node:
        for port, name in enumerate(node.input):
            node.input[port] = name.removesuffix(_SAME)


class _Reader:
    """Reads how the operators of a model compute in the model that nncf made of it."""

    def __init__(self, model: Any, quantized: Any) -> None:
        graph = model.graph
        self._before = {each.name for each in [*graph.initializer, *graph.input]}
        self._before |= {name for node in graph.node for name in node.output}
        self._makers = {name: node for node in quantized.graph.node for name in node.output}
        self._held = {each.name: each for each in quantized.graph.initializer}
        self._users = _users(quantized.graph.node)

    def read(self, node: Any) -> Int8 | None:
        """How an operator of the quantized model computes; None if nncf left it in float32."""
        if node.input[0] in self._before or node.input[1] in self._before:
            return None
        nodes: list[Any] = []
        constants: dict[str, Any] = {}
        for name in node.input[:2]:
            self._collect(name, nodes, constants)
        where = _bias_user(node, self._users, self._held)
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


class _MadeUp:
    """How operators would compute in INT8, without any input: weights are rounded, the rest is plausible."""

    def __init__(self, model: Any) -> None:
        self._smooth = has_attention(node.op_type for node in model.graph.node)
        self._held = {each.name: each for each in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._users = _users(model.graph.node)
        self._factors: dict[str, Array] = {}

    def of(self, node: Any, asymmetric: bool) -> Int8:
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
                self._factors[smoothed] = np.abs(value).max(_outputs(node, value.ndim)) + np.float32(0.1)
            factors = hold(f"{smoothed}/factors", self._factors[smoothed])
            nodes.append(helper.make_node("Mul", [source, factors], [smoothed]))
            source = smoothed
        positive = _is_not_negative(node.input[0], self._makers)
        zero = np.uint8(0) if positive else np.int8(-32 if self._smooth and product else 0)
        scaled = [hold(f"{source}/scale", np.float32(8 / 255)), hold(f"{source}/zero", zero)]
        nodes.append(helper.make_node("QuantizeLinear", [source, *scaled], [f"{source}/levels"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{source}/levels", *scaled], [f"{source}/rounded"]))
        levels, scale = symmetric(value, _inside(node, value.ndim))
        axis = _outputs(node, value.ndim)[0]
        zeros = np.resize(np.arange(-2, 3), scale.size) if asymmetric else np.zeros(scale.size)
        parts = [hold(f"{name}/levels", levels), hold(f"{name}/scale", scale.reshape(-1))]
        parts.append(hold(f"{name}/zero", zeros.astype(np.int8)))
        nodes.append(helper.make_node("DequantizeLinear", parts, [f"{name}/widened"], axis=axis))
        return Int8(tuple(nodes), constants, (f"{source}/rounded", f"{name}/widened"), None)


def _is_not_negative(name: str, makers: Mapping[str, Any]) -> bool:
    """Whether a value cannot be negative, as far as the operators before it tell."""
    while name in makers and makers[name].op_type in _KEEPS_SIGN:
        name = makers[name].input[0]
    if name in makers and makers[name].op_type == "Add":
        return all(_is_not_negative(each, makers) for each in makers[name].input)
    return name in makers and makers[name].op_type in _NOT_NEGATIVE


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

        users = _users(self._model.graph.node)
        widened = {_weight(node): int8[node.name] for node in self._model.graph.node if node.name in int8}
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
            where = _bias_user(node, users, self._held)
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
        other = widened.get(_weight(node))
        if other is not None:
            self._held.update(other.constants)
            self._add(next(each for each in other.nodes if each.output[0] == other.inputs[1]))
            node.input[1] = other.inputs[1]

    def _in_eight_bits(self, node: Any) -> None:
        from onnx import helper

        name = _weight(node)
        value = self._value(name)
        levels, scale, zero = eight_bits(value, _inside(node, value.ndim))
        if node.op_type == "Gather":
            # Rows are widened after they are read: a table is much larger than what is read of it.
            offset = -scale * zero.astype(np.float32)
            ids, out = node.input[1], node.output[0]
            parts = {"levels": levels, "scale": scale, "offset": offset}
            for key, array in parts.items():
                self._add(helper.make_node("Gather", [self._hold(f"{name}/{key}", array), ids], [f"{out}/{key}"]))
            self._add(helper.make_node("Cast", [f"{out}/levels"], [f"{out}/wide"], to=1))
            self._add(helper.make_node("Mul", [f"{out}/wide", f"{out}/scale"], [f"{out}/scaled"]))
            _become(node, helper.make_node("Add", [f"{out}/scaled", f"{out}/offset"], [out]))
            return
        constants = [self._hold(f"{name}/levels", levels), self._hold(f"{name}/scale", scale.reshape(-1))]
        constants.append(self._hold(f"{name}/zero", zero.reshape(-1)))
        axis = _outputs(node, value.ndim)[0]
        self._add(helper.make_node("DequantizeLinear", constants, [f"{name}/widened"], axis=axis))
        node.input[_WEIGHT_PORTS[node.op_type]] = f"{name}/widened"

    def _in_four_bits(self, node: Any) -> None:
        from onnx import TensorProto, helper

        if self._opset < _OPSET_INT4:
            raise ConversionError(
                f"weights in 4 bits need operators of ONNX {_OPSET_INT4} or later, but the attention of this network "
                f"runs in those of {self._opset} only; use int8-weights"
            )
        name = _weight(node)
        value = self._value(name)
        inside, axis, more = _inside(node, value.ndim), _outputs(node, value.ndim)[0], {}
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
        node.input[_WEIGHT_PORTS[node.op_type]] = f"{name}/widened"

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
