"""ONNX Runtime on the CPU (the only home of onnxruntime)."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from hardware.backend import Runner
from hardware.inputs import Inputs
from hardware.onnx import convert


class OnnxRuntimeBackend:
    """ONNX Runtime, CPU execution provider."""

    def convert(self, module: nn.Module, example_inputs: Inputs, folder: Path) -> Path:
        """Write `model.onnx`, with its outputs checked; raises ConversionError."""
        return convert(module, example_inputs, folder / "model.onnx", load=self.load)

    def load(self, path: Path, *, threads: int = 1, precision: torch.dtype = torch.float32) -> Runner:
        """A session with a fixed number of threads; inputs that the network does not read are ignored.

        Raises:
            ValueError: no file there, or another precision than float32.
        """
        if precision is not torch.float32:
            raise ValueError(f"the precision of ONNX Runtime must be float32, got {precision}")
        if not path.is_file():
            raise ValueError(f"{path} must be an ONNX file, found none; convert the module first")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        names = [each.name for each in session.get_inputs()]
        output = session.get_outputs()[0].name

        def run(*args: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            feed = {name: given[name].detach().cpu().numpy() for name in names}
            result: Any = session.run([output], feed)[0]
            return torch.from_numpy(result)

        return run
