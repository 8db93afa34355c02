"""PyTorch itself, eager: the runtime that needs no conversion."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import nn

from hardware.backend import Runner, first_output
from hardware.inputs import Inputs, device_of
from hardware.latency import fixed_threads


class PyTorchBackend:
    """Eager PyTorch.

    The code of a module is a Python class, which no file holds: `convert` writes the weights and keeps the module, so
    `load` knows only what the same object converted.
    """

    def __init__(self) -> None:
        self._modules: dict[Path, nn.Module] = {}

    def convert(self, module: nn.Module, example_inputs: Inputs, folder: Path) -> Path:
        """Write the weights as `weights.safetensors`; the example is not needed."""
        path = folder / "weights.safetensors"
        save_model(module, str(path))
        self._modules[path] = module
        return path

    def load(self, path: Path, *, threads: int = 1, precision: torch.dtype = torch.float32) -> Runner:
        """The module in evaluation mode; another precision than float32 is computed by autocast.

        Raises:
            ValueError: this object did not convert that path, or a precision that autocast does not know.
        """
        if path not in self._modules:
            raise ValueError(f"{path} must have been converted by this backend in this process; convert it first")
        if precision not in (torch.float32, torch.bfloat16):
            raise ValueError(f"the precision of PyTorch must be float32 or bfloat16, got {precision}")
        module = self._modules[path].eval()
        device = device_of(module).type

        def run(*args: Any, **kwargs: Any) -> torch.Tensor:
            low = precision is not torch.float32
            with fixed_threads(threads), torch.inference_mode(), torch.autocast(device, precision, enabled=low):
                return first_output(module(*args, **kwargs))

        return run
