"""The backend of ONNX Runtime (the only home of onnxruntime)."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hardware.backend import Runner, Writer, arrange, precision_name
from hardware.inputs import Inputs
from hardware.onnx import OPSETS, OPSETS_INT8, convert, precision_of_file, quantize
from hardware.policy import Policy
from hardware.quantized import single_rows

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntimeBackend:
    """ONNX Runtime on the CPU or on the first CUDA device, which needs the build `onnxruntime-gpu`.

    Args:
        device: "cpu" or "cuda".
        write: writes the ONNX files: `hardware.onnx.convert`, or a `Resizer` for many networks of one space.
    """

    def __init__(self, device: str = "cpu", write: Writer = convert) -> None:
        if device not in _PROVIDERS:
            raise ValueError(f"the device of ONNX Runtime must be cpu or cuda, got {device}")
        self._device, self._write = device, write

    def convert(
        self,
        module: nn.Module,
        example_inputs: Inputs,
        folder: Path,
        *,
        precision: torch.dtype | Policy = torch.float32,
        calibration: Sequence[Inputs] | None = None,
    ) -> Path:
        """Write `model.onnx` or, for int8, `model-int8.onnx`; see `Backend.convert`.

        Outputs are checked in float32, before quantisation, since rounding changes them by more than the tolerance.

        Raises:
            ConversionError: the module cannot be converted, or the outputs differ.
            ValueError: ONNX Runtime does not support the precision.
        """
        precision = _supported(precision)
        if precision is not torch.int8:
            return self._write(module, example_inputs, folder / "model.onnx", load=self.load, opsets=OPSETS)
        rows = single_rows(example_inputs) if calibration is None else calibration
        # The float32 file goes into a scratch folder, because `folder` may hold another model.onnx.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
            path = Path(scratch) / "model.onnx"
            self._write(module, example_inputs, path, load=self.load, opsets=OPSETS_INT8)
            return quantize(path, rows, folder / "model-int8.onnx")

    def load(self, path: Path, *, threads: int = 1, precision: torch.dtype | Policy = torch.float32) -> Runner:
        """Load a file with a fixed number of threads; inputs that the network does not read are ignored.

        Raises:
            ValueError: the file is missing or has another precision, or device "cuda" is not available.
        """
        precision = _supported(precision)
        if not path.is_file():
            raise ValueError(f"{path} must be an ONNX file, found none; convert the module first")
        session = self._session(path, threads)
        held = session.get_modelmeta().custom_metadata_map
        if precision_of_file(held) is not precision:
            raise ValueError(
                f"the file must have the precision {precision_name(precision)}, {path} has "
                f"{precision_name(precision_of_file(held))}; convert the module in that precision"
            )
        names = [each.name for each in session.get_inputs()]
        output = session.get_outputs()[0].name

        def run(*args: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
            result: Any = session.run([output], arrange(names, args, kwargs))[0]
            return torch.from_numpy(result)

        return run

    def _session(self, path: Path, threads: int) -> Any:
        import onnxruntime

        provider = _PROVIDERS[self._device]
        if provider not in onnxruntime.get_available_providers():
            raise ValueError(
                "this build of ONNX Runtime has no CUDA; install one that has it: "
                "pip uninstall onnxruntime && pip install onnxruntime-gpu"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # errors are raised as exceptions; logging them too would clutter the output
        return onnxruntime.InferenceSession(str(path), options, providers=[provider])


def _supported(precision: torch.dtype | Policy) -> torch.dtype:
    if isinstance(precision, Policy):
        raise ValueError("ONNX Runtime does not execute a policy yet; use openvino")
    if precision not in (torch.float32, torch.int8):
        raise ValueError(f"the precision of ONNX Runtime must be float32 or int8, got {precision}")
    return precision
