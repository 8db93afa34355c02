"""The backend of OpenVINO on the CPU, which reads the same ONNX files as ONNX Runtime."""

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hardware.backend import PRECISIONS, Runner, Writer, arrange, precision_name
from hardware.grafting import LastNetwork
from hardware.layers import check_layers
from hardware.onnx import EXTREME_INPUTS, convert
from hardware.onnx_layers import read_layers
from hardware.openvino_layers import Graph
from hardware.openvino_operators import extreme_product, keep_reduced_axes, shapes, simplify
from hardware.policy import Policy
from hardware.profile import BY_LAYER
from hardware.quantized import quantized, single_rows
from search_spaces.inputs import Inputs

# The precision hint is always set: by default OpenVINO silently computes in BF16 on processors that support it, so that
# a "float32" figure would be one of BF16. The layers of int8 files that are not quantised compute in float32.
_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.int8: "f32"}
_KIND = ["supersieve", "precision"]

RUN_LINES = """\
import openvino

settings = {
    "INFERENCE_NUM_THREADS": <threads>,
    "INFERENCE_PRECISION_HINT": "<floating>",  # left alone, OpenVINO computes in 16 bits on many processors
    "PERFORMANCE_HINT": "LATENCY",
}
network = openvino.Core().compile_model(f"{folder}/<file>", "CPU", settings)


def run(inputs):  # arrays by name
    return network({port.any_name: inputs[port.any_name] for port in network.inputs})[0]
"""
"""Python that loads it without this project, see `RuntimeKind.run_lines`."""


class OpenVinoBackend:
    """OpenVINO on the CPU, configured for the latency of single calls.

    The last network that was converted by a policy is kept in memory, see `LastNetwork`: for the next policy of it,
    `convert` neither exports nor calibrates.

    Args:
        write: writes the ONNX files: `hardware.onnx.convert`, or a `Resizer` for many networks of one space.
    """

    def __init__(self, write: Writer = convert) -> None:
        self._write, self._last = write, LastNetwork()

    def convert(
        self,
        module: nn.Module,
        example_inputs: Inputs,
        folder: Path,
        *,
        precision: torch.dtype | Policy = torch.float32,
        calibration: Sequence[Inputs] | None = None,
    ) -> Path:
        """Write `model.onnx` or, for int8 and policies, `model.xml` and `model.bin`; see `Backend.convert`.

        Outputs are checked in float32, before quantisation, since rounding changes them by more than the tolerance.

        Raises:
            ConversionError: the module cannot be converted, or the outputs differ.
            ValueError: an unknown precision, or a policy names a layer that the network does not have.
        """
        if isinstance(precision, Policy):
            return self._by_layer(module, example_inputs, folder, precision, calibration)
        precision_name(precision)
        if precision is not torch.int8:
            return self._write(module, example_inputs, folder / "model.onnx", load=self.load)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
            path = self._write(module, example_inputs, Path(scratch) / "model.onnx", load=self.load)
            model = _core().read_model(path)
            simplify(model)
            keep_reduced_axes(model)
            rows = single_rows(example_inputs) if calibration is None else calibration
            return _save(quantized(model, shapes(model), rows, seven_bits=saturates()), Path(scratch), folder)

    def _by_layer(
        self,
        module: nn.Module,
        example_inputs: Inputs,
        folder: Path,
        policy: Policy,
        calibration: Sequence[Inputs] | None,
    ) -> Path:
        check_layers(policy, module)
        if policy.asymmetric:
            raise ValueError(
                f"OpenVINO computes layers whose weights have a zero point in float32, so "
                f"{min(policy.asymmetric) or 'the network'} must have symmetric ones; leave `asymmetric` empty"
            )
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:

            def read() -> Graph:
                path = self._write(module, example_inputs, Path(scratch) / "model.onnx", load=self.load)
                return Graph(_core().read_model(path), read_layers(path))

            def run(model: Any) -> Runner:
                return _runner(model, 1, PRECISIONS[policy.floating])

            model = self._last.written(
                module, example_inputs, policy, calibration, read=read, run=run, seven_bits=saturates()
            )
            model.set_rt_info(BY_LAYER, _KIND)
            return _save(model, Path(scratch), folder)

    def load(self, path: Path, *, threads: int = 1, precision: torch.dtype | Policy = torch.float32) -> Runner:
        """Load and compile a file for a fixed number of threads; inputs that the network does not read are ignored.

        Raises:
            ValueError: the file is missing or has another precision, or the processor does not support the precision.
        """
        floating = PRECISIONS[precision.floating] if isinstance(precision, Policy) else precision
        name = BY_LAYER if isinstance(precision, Policy) else precision_name(precision)
        if not path.is_file():
            raise ValueError(f"{path} must be an ONNX or OpenVINO file, found none; convert the module first")
        if floating is torch.bfloat16 and "BF16" not in capabilities():
            raise ValueError("this processor does not compute in bfloat16; ask for float32 or int8")
        model = _core().read_model(path)
        held = _held(model)
        if held != ("float32" if name == "bfloat16" else name):
            raise ValueError(
                f"the file must have the precision {name}, {path} has {held}; convert the module in that precision"
            )
        return _runner(model, threads, floating)


@cache
def capabilities() -> tuple[str, ...]:
    """The precisions that the processor supports, by OpenVINO's names (FP32, BF16, INT8, ...)."""
    return tuple(_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


@cache
def saturates() -> bool:
    """Whether sums of INT8 products are cut off at 16 bits here, as on processors without instructions for them."""
    outcome = _runner(extreme_product(EXTREME_INPUTS), 1, torch.float32)(torch.full((4, EXTREME_INPUTS), 255.0))
    return float((outcome - EXTREME_INPUTS * 255 * 127).abs().max()) > 0.01 * EXTREME_INPUTS * 255 * 127


def _runner(model: Any, threads: int, floating: torch.dtype) -> Runner:
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": _HINTS[floating],
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = _core().compile_model(model, "CPU", settings)
    request, output = compiled.create_infer_request(), compiled.output(0)
    names = [port.get_any_name() for port in compiled.inputs]

    def run(*args: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
        # Sharing spares a copy of the inputs in every call, which would count as latency.
        result: Any = request.infer(arrange(names, args, kwargs), share_inputs=True)[output]
        return torch.from_numpy(result)

    return run


@cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def _held(model: Any) -> str:
    """The precision of a file: by-layer, int8 or float32, which is that of bfloat16 too."""
    if model.has_rt_info(_KIND):
        return str(model.get_rt_info(_KIND).value)
    return "int8" if any(each.get_type_name() == "FakeQuantize" for each in model.get_ops()) else "float32"


def _save(model: Any, scratch: Path, folder: Path) -> Path:
    import openvino

    openvino.save_model(model, scratch / "model.xml", compress_to_fp16=False)
    # Move the weights first, since model.xml cannot be loaded without them.
    for name in ("model.bin", "model.xml"):
        (scratch / name).replace(folder / name)
    return folder / "model.xml"
