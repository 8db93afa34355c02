"""Fast ONNX export of many sub-networks: export one of each structure, and write the others by replacing its weights.

An export takes seconds. Sub-networks with the same blocks differ only in the sizes of their weights, so they share one
graph. Every file written this way is checked against its network; if the outputs differ, the network is exported after
all. A graph that depends on sizes in some other way therefore costs time, but never gives a wrong file.
"""

import copy
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from hardware.backend import ConversionError, Runner, check_outputs
from hardware.files import replacing_file
from hardware.inputs import first_row, split
from hardware.onnx import OPSETS, convert, export, two_rows
from hardware.template import Template
from search_spaces.evaluating import evaluating
from search_spaces.inputs import Inputs


class Resizer:
    """Writes ONNX files like `hardware.onnx.convert`, but faster for networks that differ only in sizes.

    It keeps one template, a graph without weights, for each structure of blocks and inputs.

    Attributes:
        exported: number of exports so far, which are the slow part.
    """

    def __init__(self) -> None:
        self.exported = 0
        # None marks a structure whose template failed: all its networks are exported.
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
        """Write `module` to `path`; arguments as for `hardware.onnx.convert`.

        A file written from a template is checked on the first row of the example.

        Raises:
            ConversionError: the module cannot be exported, or the outputs of its own export differ.
        """
        key = (_structure(module, example_inputs), tuple(opsets))
        if key not in self._templates:
            self._templates[key] = self._template(module, example_inputs, path, opsets[0])
        template = self._templates[key]
        if template is not None and _write_from(template, module, example_inputs, path, load):
            return path
        self._templates[key] = None
        self.exported += 1
        return convert(module, example_inputs, path, load=load, opsets=opsets)

    def _template(self, module: nn.Module, inputs: Inputs, path: Path, opset: int) -> Template | None:
        self.exported += 1
        # Trained weights may hold equal numbers (zeros, ones), so constants could not be recognised by their values.
        temporary, randomised = path.with_name(f".{path.name}.{os.getpid()}.template"), _randomised(module)
        try:
            with evaluating(randomised):
                export(randomised, two_rows(inputs), temporary, opset)
            return Template.read(temporary, randomised)
        except ConversionError:
            return None
        finally:
            temporary.unlink(missing_ok=True)


def _write_from(
    template: Template, module: nn.Module, inputs: Inputs, path: Path, load: Callable[[Path], Runner]
) -> bool:
    """Write `module` to `path` from the template; False if the file does not compute the module's outputs."""
    try:
        with replacing_file(path) as part:
            template.write(module, part)
            with evaluating(module):
                check_outputs(module, load(part), first_row(inputs), "on its example")
    except Exception:  # runtimes raise various exceptions for a file that they cannot read
        return False
    return True


def _structure(module: nn.Module, inputs: Inputs) -> object:
    """A hashable key that networks with the same template share: types of blocks, names of weights, and inputs."""
    args, kwargs = split(inputs)
    weights = tuple(name for name, _ in [*module.named_parameters(), *module.named_buffers()])
    parts = tuple(type(part) for part in module.modules())
    shapes = [(name, value.dtype, value.shape[1:]) for name, value in [*enumerate(args), *kwargs.items()]]
    return weights, parts, tuple(shapes)


def _randomised(module: nn.Module) -> nn.Module:
    """A copy of the module in which all weights and statistics are different random numbers."""
    copied, generator = copy.deepcopy(module), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in [*copied.parameters(), *copied.buffers()]:
            if value.is_floating_point():
                # Positive, because variances must be.
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return copied
