"""The backend of PyTorch, which needs no conversion and runs on the device of the module, CUDA included."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import nn

from hardware.backend import Runner, first_output
from hardware.inputs import device_of
from hardware.latency import fixed_threads
from hardware.policy import Policy
from search_spaces.inputs import Inputs

RUN_LINES = """\
torch.set_num_threads(<threads>)
network = load(<arguments>).to("<device>", torch.<floating>)


def run(inputs):  # arrays by name
    tensors = {name: torch.from_numpy(value).to("<device>") for name, value in inputs.items()}
    for name, value in tensors.items():
        tensors[name] = value.to(torch.<floating>) if value.is_floating_point() else value
    with torch.inference_mode():
        output = network(**tensors)
    return getattr(output, "logits", output).float().cpu().numpy()
"""
"""Python that loads it without this project, see `RuntimeKind.run_lines`."""


class PyTorchBackend:
    """PyTorch, eager or compiled, on the device of the module.

    A file cannot hold the Python class of a module. `convert` therefore writes the weights and keeps the module in
    memory, and `load` accepts only paths that the same backend converted.

    Args:
        compiled: use `torch.compile`. Compilation takes seconds to minutes for each network and each shape of inputs,
            so it suits final figures but not a search.
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
        precision: torch.dtype | Policy = torch.float32,
        calibration: Sequence[Inputs] | None = None,
    ) -> Path:
        """Write the weights as `weights.safetensors`; the example is not used. Raises ValueError for INT8, policies."""
        _supported(precision)
        path = folder / "weights.safetensors"
        # safetensors makes a file that its owner alone can read; the mode is that of a usual file instead.
        path.touch()
        mode = path.stat().st_mode & 0o777
        save_model(module, str(path))
        path.chmod(mode)
        self._modules[path] = module
        return path

    def load(self, path: Path, *, threads: int = 1, precision: torch.dtype | Policy = torch.float32) -> Runner:
        """The converted module as a callable, see `runner`.

        Raises:
            ValueError: this backend did not convert `path`, or does not support the precision.
        """
        if path not in self._modules:
            raise ValueError(f"{path} must have been converted by this backend in this process; convert it first")
        dtype = _supported(precision)
        return runner(self._modules[path], threads=threads, precision=dtype, compiled=self._compiled)


def runner(
    module: nn.Module, *, threads: int = 1, precision: torch.dtype = torch.float32, compiled: bool = False
) -> Runner:
    """Wrap a module as a callable, in evaluation mode, on the module's device.

    Args:
        module: used directly in float32; copied for other precisions.
        threads: number of threads of torch during a call, restored afterwards.
        precision: of the computation; inputs and outputs are float32 in any case.
        compiled: use `torch.compile`.

    Returns:
        A function of the module's inputs that returns its first output.

    Raises:
        ValueError: PyTorch does not support the precision.
    """
    _supported(precision)
    module = module.eval()
    if precision is not torch.float32:
        # A copy, because `to` changes the module in place and the caller may still use it.
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


def _supported(precision: torch.dtype | Policy) -> torch.dtype:
    """The precision itself; raises ValueError for one that PyTorch alone does not execute."""
    if isinstance(precision, Policy):
        raise ValueError("PyTorch alone has one precision for all layers; use openvino or onnxruntime for a policy")
    if precision not in (torch.float32, torch.bfloat16):
        raise ValueError(f"the precision of PyTorch must be float32 or bfloat16, got {precision}")
    return precision
