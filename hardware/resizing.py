"""ONNX files of many sub-networks of one network: the first of a kind is exported, the others are written from it.

Exporting takes seconds. Sub-networks with the same blocks differ in the sizes of their weights only, so the graph of
one is that of all. What is written so is compared with the network, and where it differs the network is exported after
all: a graph that depends on sizes otherwise costs time and nothing else.
"""

import copy
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from hardware.backend import ConversionError, Runner, check_outputs
from hardware.evaluating import evaluating
from hardware.inputs import Inputs, first_row, split
from hardware.onnx import OPSETS, convert, export, two_rows
from hardware.template import Template


class Resizer:
    """Writes ONNX files like `hardware.onnx.convert`, quickly for networks that differ in sizes only.

    Keeps one template, without weights, for each set of blocks and inputs.

    Attributes:
        exported: how many exports there were, the slow part.
    """

    def __init__(self) -> None:
        self.exported = 0
        self._templates: dict[object, Template | None] = {}

    def __call__(
        self,
        module: nn.Module,
        example_inputs: Inputs,
        path: Path,
        *,
        load: Callable[[Path], Runner],
        opsets: Sequence[int] = OPSETS,
    ) -> Path:
        """Write `module` to `path`, checked on the first row of the example; see `hardware.onnx.convert`.

        Raises:
            ConversionError: the module cannot be exported, or the outputs differ even so.
        """
        key = (_kind(module, example_inputs), tuple(opsets))
        if key not in self._templates:
            self._templates[key] = self._template(module, example_inputs, path, opsets[0])
        template = self._templates[key]
        if template is not None and _written(template, module, example_inputs, path, load):
            return path
        self._templates[key] = None
        self.exported += 1
        return convert(module, example_inputs, path, load=load, opsets=opsets)

    def _template(self, module: nn.Module, inputs: Inputs, path: Path, opset: int) -> Template | None:
        self.exported += 1
        beside, randomised = path.with_name(f".{path.name}.{os.getpid()}.template"), _randomised(module)
        try:
            with evaluating(randomised):
                export(randomised, two_rows(inputs), beside, opset)
            return Template.read(beside, randomised)
        except ConversionError:
            return None
        finally:
            beside.unlink(missing_ok=True)


def _written(template: Template, module: nn.Module, inputs: Inputs, path: Path, load: Callable[[Path], Runner]) -> bool:
    """Write the file of `module` by the template; False where that does not give its outputs."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        template.write(module, beside)
        with evaluating(module):
            check_outputs(module, load(beside), first_row(inputs), "on its example")
        beside.replace(path)
    except Exception:  # a runtime that cannot read the file raises anything
        return False
    finally:
        beside.unlink(missing_ok=True)
    return True


def _kind(module: nn.Module, inputs: Inputs) -> object:
    """What networks of one template have in common: their blocks and weights by name, and their inputs."""
    args, kwargs = split(inputs)
    weights = tuple(name for name, _ in [*module.named_parameters(), *module.named_buffers()])
    parts = tuple(type(part) for part in module.modules())
    shapes = [(name, value.dtype, value.shape[1:]) for name, value in [*enumerate(args), *kwargs.items()]]
    return weights, parts, tuple(shapes)


def _randomised(module: nn.Module) -> nn.Module:
    """A copy with weights and statistics of which no two are alike."""
    copied, generator = copy.deepcopy(module), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in [*copied.parameters(), *copied.buffers()]:
            if value.is_floating_point():
                # Above zero, as variances must be.
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return copied
