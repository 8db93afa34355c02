"""An ONNX graph without its weights, to be filled with those of another network that has the same blocks.

The file of a network with random weights tells what each of its constants is: it holds the same values as a weight, as
a transposed one, or as a convolution that a batch norm was folded into.
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
Recipe = Callable[[Tensors], torch.Tensor]
Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Template:
    """A graph, how each of its weights is computed from the tensors of a module, and the shapes of its values."""

    model: Any
    recipes: dict[str, Recipe]
    shapes: dict[str, Shape]

    @classmethod
    def read(cls, path: Path, module: nn.Module) -> "Template":
        """The template of the file of `module`, whose weights are all different."""
        import onnx

        model, known = onnx.load(path), _Known(module)
        recipes = {}
        for each in model.graph.initializer:
            if each.data_type == onnx.TensorProto.FLOAT:
                recipe = known.recipe(each.name, torch.from_numpy(onnx.numpy_helper.to_array(each).copy()))
                if recipe is not None:
                    recipes[each.name] = recipe
                    each.ClearField("raw_data")
        del model.graph.value_info[:]
        return cls(model, recipes, _shapes(model))

    def write(self, module: nn.Module, path: Path) -> None:
        """Write the file of another module, unchecked.

        Raises:
            KeyError, RuntimeError, ValueError: its tensors are not like those of the template's.
        """
        import onnx

        tensors = tensors_of(module)
        weights = {name: recipe(tensors) for name, recipe in self.recipes.items()}
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        holders = {each.name: each for each in model.graph.initializer}
        for name, value in weights.items():
            holders[name].dims[:] = value.shape
        self._reshape(model)
        for name, value in weights.items():
            holders[name].raw_data = value.contiguous().numpy().tobytes()
        path.write_bytes(model.SerializeToString())

    def _reshape(self, model: Any) -> None:
        """Make the constant shapes of reshapes fit what now comes in."""
        import onnx

        constants = {each.name: each for each in model.graph.initializer if each.name not in self.recipes}
        shapes = _shapes(model)
        for index, node in enumerate(model.graph.node):
            if node.op_type != "Reshape" or node.input[1] not in constants:
                continue
            asked = onnx.numpy_helper.to_array(constants[node.input[1]]).tolist()
            before, now = (each.get(node.input[0]) for each in (self.shapes, shapes))
            fitting = _fitting(asked, before, now, self.shapes.get(node.output[0]))
            if fitting != asked:
                # A constant of its own: other reshapes may share the old one and need another.
                name = f"reshape_{index}"
                holder = onnx.numpy_helper.from_array(np.array(fitting, dtype=np.int64), name)
                model.graph.initializer.append(holder)
                node.input[1] = name
                shapes = _shapes(model)


def tensors_of(module: nn.Module) -> dict[str, torch.Tensor]:
    """Weights and statistics of a module by name, on the CPU."""
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: value.detach().cpu() for name, value in named if value.is_floating_point()}


class _Known:
    """The tensors of a module with random weights, to find a constant among them."""

    def __init__(self, module: nn.Module) -> None:
        self._tensors = tensors_of(module)
        # The first number of a random tensor tells it from all others, also when it is transposed.
        self._by_first = {float(value.flatten()[0]): name for name, value in self._tensors.items() if value.numel()}
        self._norms = {
            name: float(part.eps)
            for name, part in module.named_modules()
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and part.affine
        }

    def recipe(self, name: str, value: torch.Tensor) -> Recipe | None:
        """How to compute a constant from the tensors of a module; None where it is something else."""
        if not value.numel():
            return None
        found = self._by_first.get(float(value.flatten()[0]))
        recipes = [] if found is None else [_same(found), _transposed(found)]
        if name.removesuffix(".weight_bias") != name:
            recipes += [_folded_bias(name.removesuffix(".weight_bias"), *norm) for norm in self._norms.items()]
        elif name in self._tensors:
            recipes += [_folded_weight(name, *norm) for norm in self._norms.items()]
        return next((recipe for recipe in recipes if self._gives(recipe, value)), None)

    def _gives(self, recipe: Recipe, value: torch.Tensor) -> bool:
        try:
            made = recipe(self._tensors)
        except RuntimeError:  # another number of channels
            return False
        return made.shape == value.shape and torch.allclose(made, value, rtol=1e-5, atol=1e-6)


def _same(name: str) -> Recipe:
    return lambda tensors: tensors[name]


def _transposed(name: str) -> Recipe:
    return lambda tensors: tensors[name].mT if tensors[name].ndim > 1 else tensors[name]


def _folded_weight(weight: str, norm: str, eps: float) -> Recipe:
    def recipe(tensors: Tensors) -> torch.Tensor:
        value = tensors[weight]
        return value * _scale(tensors, norm, eps).reshape(-1, *[1] * (value.ndim - 1))

    return recipe


def _folded_bias(convolution: str, norm: str, eps: float) -> Recipe:
    def recipe(tensors: Tensors) -> torch.Tensor:
        shift = tensors[f"{norm}.running_mean"]
        bias = tensors.get(f"{convolution}.bias")
        shift = shift if bias is None else shift - bias
        return tensors[f"{norm}.bias"] - shift * _scale(tensors, norm, eps)

    return recipe


def _scale(tensors: Tensors, norm: str, eps: float) -> torch.Tensor:
    return tensors[f"{norm}.weight"] / torch.sqrt(tensors[f"{norm}.running_var"] + eps)


def _shapes(model: Any) -> dict[str, Shape]:
    """The shape of every value, None for free axes; ranks that are not known are absent."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    return {
        # A size that is not known reads as 0.
        each.name: tuple(size.dim_value or None for size in each.type.tensor_type.shape.dim)
        for each in values
        if each.type.tensor_type.HasField("shape")
    }


def _fitting(asked: Sequence[int], before: Shape | None, now: Shape | None, after: Shape | None) -> list[int]:
    """The constant of a reshape for an input of shape `now`, which was `before`, with the output `after`, then.

    Splitting gives fewer groups (heads) of the same size, merging fewer numbers: so the first size that can takes it.
    """
    if before is None or now is None or len(before) != len(now):
        return list(asked)
    ratio = Fraction(prod(each or 1 for each in now), prod(each or 1 for each in before))
    inferred = asked.index(-1) if -1 in asked else None
    if inferred is not None and after is not None and len(after) > inferred and after[inferred] is not None:
        return list(asked)  # what the runtime infers there is the size that changed
    for index, size in enumerate(asked):
        untouched = index < len(now) and before[index] == now[index] == size
        if size > 0 and not untouched and (size * ratio).denominator == 1:
            return [*asked[:index], int(size * ratio), *asked[index + 1 :]]
    return list(asked)
