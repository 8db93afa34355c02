"""Operators of an ONNX model: which are layers, what belongs to them, and how a model is prepared for nncf."""

import ast
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from hardware.layers import Layers
from hardware.quantized import Shape

# The input of an operator that is the weight of a layer.
WEIGHT_PORTS = {"MatMul": 1, "Gemm": 1, "Conv": 1, "ConvTranspose": 1, "Gather": 0}
_NOT_NEGATIVE = frozenset({"Relu", "Sigmoid", "Softmax", "Abs", "Exp"})
_KEEPS_SIGN = frozenset(
    {"MaxPool", "AveragePool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "ReduceMean"}
)
_MEANS = frozenset({"ReduceMean", "GlobalAveragePool"})
# Ends the name of a value that is another one under a new name.
_SAME = "/same"


def layers_of(model: Any) -> Layers:
    """Find the layers of an ONNX model, by the names and notes that the exporter left."""
    held = {each.name for each in model.graph.initializer if len(each.dims) > 1}
    weights: dict[str, str] = {}
    called: set[str] = set()
    for node in model.graph.node:
        notes = {each.key: each.value for each in node.metadata_props}
        scopes = ast.literal_eval(notes.get("pkg.torch.onnx.name_scopes", "[]"))
        called.update(scopes)
        name = weight_of(node)
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


def weight_of(node: Any) -> str:
    """The name of what may be the weight of an operator; empty for operators that have none."""
    port = WEIGHT_PORTS.get(node.op_type, -1)
    return str(node.input[port]) if 0 <= port < len(node.input) else ""


def _attribute(node: Any, name: str, default: int) -> int:
    return next((int(each.i) for each in node.attribute if each.name == name), default)


def outputs_of(node: Any, rank: int) -> tuple[int, ...]:
    """The axis of an operator's weight that tells its outputs apart."""
    if node.op_type == "Gemm":
        return (0 if _attribute(node, "transB", 0) else 1,)
    return {"MatMul": (rank - 1,), "ConvTranspose": (1,)}.get(node.op_type, (0,))


def inside_of(node: Any, rank: int) -> tuple[int, ...]:
    """The other axes of its weight."""
    return tuple(axis for axis in range(rank) if axis not in outputs_of(node, rank))


def bias_user(node: Any, users: Mapping[str, list[Any]], held: Collection[str]) -> tuple[Any, int] | None:
    """The operator and the number of its input that holds the bias of a layer."""
    if node.op_type != "MatMul":
        return (node, 2) if len(node.input) > 2 and node.input[2] in held else None
    behind = users.get(node.output[0], [])
    if len(behind) != 1 or behind[0].op_type != "Add":
        return None
    port = next((port for port, name in enumerate(behind[0].input) if name in held), None)
    return None if port is None else (behind[0], port)


def variable_values(model: Any) -> set[str]:
    """The names of all values that depend on the model's inputs."""
    found = {each.name for each in model.graph.input}
    for node in model.graph.node:
        if not found.isdisjoint(node.input):
            found.update(node.output)
    return found


def users_of(nodes: Iterable[Any]) -> dict[str, list[Any]]:
    """The operators that read each value."""
    found: dict[str, list[Any]] = {}
    for node in nodes:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def give_each_its_bias(model: Any) -> None:
    """Copy biases that several operators share, since each of them is corrected by itself."""
    held = {each.name: each for each in model.graph.initializer}
    users = users_of(model.graph.node)
    taken = set()
    for node in model.graph.node:
        where = bias_user(node, users, held) if weight_of(node) in held else None
        if where is not None:
            user, port = where
            name = user.input[port]
            if name in taken:
                own = model.graph.initializer.add()
                own.CopyFrom(held[name])
                own.name = user.input[port] = f"{name}.{node.name}"
            taken.add(name)


def with_shown_gates(model: Any) -> Any:
    """A copy of a model in which nncf quantizes gates of channels (squeeze-excite).

    It leaves them in float32 where it recognises one by the mean and the convolution behind it. A search decides that
    for itself, so an operator that changes nothing comes between the two.
    """
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
                copied.graph.node.append(
                    type(original)(op_type="Identity", name=same, input=[node.input[0]], output=[same])
                )
            node.input[0] = same
        copied.graph.node.append(node)
    return copied


def hide_gates(model: Any) -> None:
    """Undo `with_shown_gates` in the names of inputs, in place."""
    for node in model.graph.node:
        for port, name in enumerate(node.input):
            node.input[port] = name.removesuffix(_SAME)


def is_not_negative(name: str, makers: Mapping[str, Any]) -> bool:
    """Whether a value cannot be negative, as far as the operators before it tell."""
    while name in makers and makers[name].op_type in _KEEPS_SIGN:
        name = makers[name].input[0]
    if name in makers and makers[name].op_type == "Add":
        return all(is_not_negative(each, makers) for each in makers[name].input)
    return name in makers and makers[name].op_type in _NOT_NEGATIVE
