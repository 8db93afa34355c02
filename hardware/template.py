"""An ONNX graph without its weights, which can be filled with those of another network that has the same blocks.

An exporter renames, transposes and folds weights, so the constants of its file cannot be matched to the weights of the
module by name. They are recognised by value instead: the template comes from a network with random weights, in whose
file each constant equals exactly one weight, a transposed weight, or a convolution with its batch norm folded in.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

Tensors = Mapping[str, torch.Tensor]
# Computes a constant of the graph from the tensors of a module.
WeightRule = Callable[[Tensors], torch.Tensor]
# Sizes of the axes; None for one that varies.
Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Template:
    """A graph without weights, and how to fill it.

    Args:
        model: the ONNX model without the data of its weights.
        rules: by the name of a constant, how to compute it from the tensors of a module.
        shapes: the shapes of the values in the graph, as exported.
    """

    model: Any
    rules: dict[str, WeightRule]
    shapes: dict[str, Shape]

    @classmethod
    def read(cls, path: Path, module: nn.Module) -> "Template":
        """Make a template of the file at `path`, an export of `module`, whose weights must all be different."""
        import onnx

        model, finder = onnx.load(path), _RuleFinder(module)
        rules = {}
        for each in model.graph.initializer:
            if each.data_type == onnx.TensorProto.FLOAT:
                rule = finder.find(each.name, torch.from_numpy(onnx.numpy_helper.to_array(each).copy()))
                if rule is not None:
                    rules[each.name] = rule
                    each.ClearField("raw_data")
        # The shapes stored by the exporter are those of this network; they would contradict other sizes.
        del model.graph.value_info[:]
        return cls(model, rules, _shapes(model))

    def write(self, module: nn.Module, path: Path) -> None:
        """Write the file of another module, without checking its outputs.

        Args:
            module: with the same blocks as the network of the template.
            path: the file to write.

        Raises:
            KeyError, RuntimeError, ValueError: its tensors do not match those of the template's network.
        """
        import onnx

        tensors = tensors_of(module)
        weights = {name: rule(tensors) for name, rule in self.rules.items()}
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        holders = {each.name: each for each in model.graph.initializer}
        # Sizes first and data last: shape inference needs the sizes only, and is slow on a model full of data.
        for name, value in weights.items():
            holders[name].dims[:] = value.shape
        self._reshape(model)
        for name, value in weights.items():
            holders[name].raw_data = value.contiguous().numpy().tobytes()
        path.write_bytes(model.SerializeToString())

    def _reshape(self, model: Any) -> None:
        """Adapt the constant target shapes of Reshape nodes to the new sizes of their inputs."""
        import onnx

        constants = {each.name: each for each in model.graph.initializer if each.name not in self.rules}
        shapes = _shapes(model)
        for index, node in enumerate(model.graph.node):
            if node.op_type != "Reshape" or node.input[1] not in constants:
                continue
            target = onnx.numpy_helper.to_array(constants[node.input[1]]).tolist()
            before, now = (each.get(node.input[0]) for each in (self.shapes, shapes))
            fitting = _fitting(target, before, now, self.shapes.get(node.output[0]))
            if fitting != target:
                # Add a new constant: other Reshape nodes may share the old one and need another shape.
                name = f"reshape_{index}"
                holder = onnx.numpy_helper.from_array(np.array(fitting, dtype=np.int64), name)
                model.graph.initializer.append(holder)
                node.input[1] = name
                # The inputs of later nodes depend on this one.
                shapes = _shapes(model)


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Floating-point parameters and buffers of a module by name, on the CPU."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: value.detach().cpu() for name, value in named if value.is_floating_point()}


class _RuleFinder:
    """Recognises constants of an ONNX file by the random values of a module's tensors."""

    def __init__(self, module: nn.Module) -> None:
        self._tensors = tensors_of(module)
        # The first number of a random tensor identifies it, and does not change when the tensor is transposed.
        self._by_first = {float(value.flatten()[0]): name for name, value in self._tensors.items() if value.numel()}
        self._norms = {
            name: float(part.eps)
            for name, part in module.named_modules()
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and part.affine
        }

    def find(self, name: str, value: torch.Tensor) -> WeightRule | None:
        """The rule that computes the constant `value`; None if it does not come from the module's tensors."""
        if not value.numel():
            return None
        found = self._by_first.get(float(value.flatten()[0]))
        rules = [] if found is None else [_same(found), _transposed(found)]
        # A folded convolution keeps its weight's name, and the new bias is called `<weight>_bias`. Which batch norm was
        # folded into it is not known here, so all of them are tried.
        if name.removesuffix(".weight_bias") != name:
            rules += [_folded_bias(name.removesuffix(".weight_bias"), *norm) for norm in self._norms.items()]
        elif name in self._tensors:
            rules += [_folded_weight(name, *norm) for norm in self._norms.items()]
        return next((rule for rule in rules if self._reproduces(rule, value)), None)

    def _reproduces(self, rule: WeightRule, value: torch.Tensor) -> bool:
        try:
            computed = rule(self._tensors)
        except RuntimeError:  # another number of channels
            return False
        return computed.shape == value.shape and torch.allclose(computed, value, rtol=1e-5, atol=1e-6)


def _same(name: str) -> WeightRule:
    return lambda tensors: tensors[name]


def _transposed(name: str) -> WeightRule:
    return lambda tensors: tensors[name].mT if tensors[name].ndim > 1 else tensors[name]


def _folded_weight(weight: str, norm: str, eps: float) -> WeightRule:
    """Weight of a convolution times the scale of the batch norm that follows it, channel by channel."""

    def rule(tensors: Tensors) -> torch.Tensor:
        value = tensors[weight]
        return value * _scale(tensors, norm, eps).reshape(-1, *[1] * (value.ndim - 1))

    return rule


def _folded_bias(convolution: str, norm: str, eps: float) -> WeightRule:
    """Bias of a convolution after folding: the norm's bias - (its mean - the convolution's bias) times its scale."""

    def rule(tensors: Tensors) -> torch.Tensor:
        shift = tensors[f"{norm}.running_mean"]
        bias = tensors.get(f"{convolution}.bias")
        shift = shift if bias is None else shift - bias
        return tensors[f"{norm}.bias"] - shift * _scale(tensors, norm, eps)

    return rule


def _scale(tensors: Tensors, norm: str, eps: float) -> torch.Tensor:
    return tensors[f"{norm}.weight"] / torch.sqrt(tensors[f"{norm}.running_var"] + eps)


def _shapes(model: Any) -> dict[str, Shape]:
    """The inferred shape of every value in the graph; values of unknown rank are absent."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    return {
        # An unknown size reads as 0.
        each.name: tuple(size.dim_value or None for size in each.type.tensor_type.shape.dim)
        for each in values
        if each.type.tensor_type.HasField("shape")
    }


def _fitting(target: Sequence[int], before: Shape | None, now: Shape | None, after: Shape | None) -> list[int]:
    """The target shape of a Reshape node for an input of another size.

    A split into heads then has fewer heads of the same size, and a merge of heads has fewer features. In both cases the
    first axis whose size can be scaled to a whole number is the one that changes.

    Args:
        target: the constant target shape in the template.
        before: shape of the node's input in the template.
        now: shape of its input in the new network.
        after: shape of its output in the template.
    """
    if before is None or now is None or len(before) != len(now):
        return list(target)
    ratio = Fraction(prod(each or 1 for each in now), prod(each or 1 for each in before))
    inferred = target.index(-1) if -1 in target else None
    if inferred is not None and after is not None and len(after) > inferred and after[inferred] is not None:
        return list(target)  # the runtime infers the size that changed
    for index, size in enumerate(target):
        untouched = index < len(now) and before[index] == now[index] == size
        if size > 0 and not untouched and (size * ratio).denominator == 1:
            return [*target[:index], int(size * ratio), *target[index + 1 :]]
    return list(target)
