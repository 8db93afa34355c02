"""PyTorch itself: the runtime that needs no conversion, and the one with CUDA where the module is there."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import nn

from hardware.backend import Runner, first_output
from hardware.inputs import Inputs, device_of
from hardware.latency import fixed_threads


class PyTorchBackend:
    """Eager PyTorch, or compiled, on the device of the module.

    The code of a module is a Python class, which no file holds: `convert` writes the weights and keeps the module, so
    `load` knows only what the same object converted.

    Args:
        compiled: use `torch.compile`. It takes seconds to minutes for each network and again for each shape of inputs,
            so it is for final figures and not for a search.
    """

    def __init__(self, compiled: bool = False) -> None:
        self._compiled = compiled
        self._modules: dict[Path, nn.Module] = {}

    def convert(
        self,
        module: nn.Module,
        example_inputs: Inputs,
        folder: Path,
        *,
        precision: torch.dtype = torch.float32,
        calibration: Sequence[Inputs] | None = None,
    ) -> Path:
        """Write the weights as `weights.safetensors`; the example is not needed. ValueError for int8."""
        _supported(precision)
        path = folder / "weights.safetensors"
        save_model(module, str(path))
        self._modules[path] = module
        return path

    def load(self, path: Path, *, threads: int = 1, precision: torch.dtype = torch.float32) -> Runner:
        """The module in evaluation mode; in bfloat16 a copy of it, which takes and gives float32.

        Raises:
            ValueError: this object did not convert that path, or a precision that it does not have.
        """
        if path not in self._modules:
            raise ValueError(f"{path} must have been converted by this backend in this process; convert it first")
        return runner(self._modules[path], threads=threads, precision=precision, compiled=self._compiled)


def runner(
    module: nn.Module, *, threads: int = 1, precision: torch.dtype = torch.float32, compiled: bool = False
) -> Runner:
    """A callable that computes a module, in evaluation mode, on the device that it is on.

    Args:
        module: used as it is in float32; of another precision a copy is made.
        threads: of torch during a call, put back afterwards.
        precision: in which it computes; it takes and gives float32.
        compiled: use `torch.compile`.

    Raises:
        ValueError: a precision that PyTorch does not have.
    """
    _supported(precision)
    module = module.eval()
    if precision is not torch.float32:
        module = copy.deepcopy(module).to(precision)
    device = device_of(module)
    network: Any = torch.compile(module) if compiled else module

    def ready(value: torch.Tensor) -> torch.Tensor:
        return value.to(device, precision) if value.is_floating_point() else value.to(device)

    def run(*args: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
        with fixed_threads(threads), torch.inference_mode():
            output = network(*map(ready, args), **{name: ready(value) for name, value in kwargs.items()})
            return first_output(output).float()

    return run


def _supported(precision: torch.dtype) -> None:
    if precision not in (torch.float32, torch.bfloat16):
        raise ValueError(f"the precision of PyTorch must be float32 or bfloat16, got {precision}")
