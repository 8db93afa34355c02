"""The backend of OpenVINO on the CPU (the only home of openvino); it reads the same ONNX files as ONNX Runtime."""

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hardware.backend import Runner, Writer, arrange, precision_name
from hardware.inputs import Inputs
from hardware.onnx import convert
from hardware.quantized import quantized, single_rows

# The precision hint is always set: by default OpenVINO silently computes in BF16 on processors that support it, so that
# a "float32" figure would be one of BF16. The layers of int8 files that are not quantised compute in float32.
_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.int8: "f32"}


class OpenVinoBackend:
    """OpenVINO on the CPU, configured for the latency of single calls.

    Args:
        write: writes the ONNX files: `hardware.onnx.convert`, or a `Resizer` for many networks of one space.
    """

    def __init__(self, write: Writer = convert) -> None:
        self._write = write

    def convert(
        self,
        module: nn.Module,
        example_inputs: Inputs,
        folder: Path,
        *,
        precision: torch.dtype = torch.float32,
        calibration: Sequence[Inputs] | None = None,
    ) -> Path:
        """Write `model.onnx` or, for int8, `model.xml` and `model.bin`; see `Backend.convert`.

        Outputs are checked in float32, before quantisation, since rounding changes them by more than the tolerance.

        Raises:
            ConversionError: the module cannot be converted, or the outputs differ.
            ValueError: an unknown precision.
        """
        precision_name(precision)
        if precision is not torch.int8:
            return self._write(module, example_inputs, folder / "model.onnx", load=self.load)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
            path = self._write(module, example_inputs, Path(scratch) / "model.onnx", load=self.load)
            model = _core().read_model(path)
            names = [port.get_any_name() for port in model.inputs]
            rows = single_rows(example_inputs) if calibration is None else calibration
            return _save(quantized(model, names, rows), Path(scratch), folder)

    def load(self, path: Path, *, threads: int = 1, precision: torch.dtype = torch.float32) -> Runner:
        """Load and compile a file for a fixed number of threads; inputs that the network does not read are ignored.

        Raises:
            ValueError: the file is missing or has another precision, or the processor does not support the precision.
        """
        name = precision_name(precision)
        if not path.is_file():
            raise ValueError(f"{path} must be an ONNX or OpenVINO file, found none; convert the module first")
        if precision is torch.bfloat16 and "BF16" not in capabilities():
            raise ValueError("this processor does not compute in bfloat16; ask for float32 or int8")
        core = _core()
        model = core.read_model(path)
        if (precision is torch.int8) != _is_quantized(model):
            held = "int8" if _is_quantized(model) else "float32"
            raise ValueError(
                f"the file must have the precision {name}, {path} has {held}; convert the module in that precision"
            )
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = core.compile_model(model, "CPU", settings)
        request, output = compiled.create_infer_request(), compiled.output(0)
        names = [port.get_any_name() for port in compiled.inputs]

        def run(*args: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
            # Sharing spares a copy of the inputs in every call, which would count as latency.
            result: Any = request.infer(arrange(names, args, kwargs), share_inputs=True)[output]
            return torch.from_numpy(result)

        return run


@cache
def capabilities() -> tuple[str, ...]:
    """The precisions that the processor supports, by OpenVINO's names (FP32, BF16, INT8, ...)."""
    return tuple(_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def _is_quantized(model: Any) -> bool:
    return any(each.get_type_name() == "FakeQuantize" for each in model.get_ops())


def _save(model: Any, scratch: Path, folder: Path) -> Path:
    import openvino

    openvino.save_model(model, scratch / "model.xml", compress_to_fp16=False)
    # Move the weights first, since model.xml cannot be loaded without them.
    for name in ("model.bin", "model.xml"):
        (scratch / name).replace(folder / name)
    return folder / "model.xml"
