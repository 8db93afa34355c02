"""The backend of OpenVINO on the CPU (the only home of openvino); it reads the same ONNX files as ONNX Runtime."""

import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hardware.backend import PRECISIONS, Runner, Writer, arrange, precision_name
from hardware.inputs import Inputs
from hardware.onnx import convert, layers_of
from hardware.policy import Policy
from hardware.quantized import compressed, quantized, single_rows

# The precision hint is always set: by default OpenVINO silently computes in BF16 on processors that support it, so that
# a "float32" figure would be one of BF16. The layers of int8 files that are not quantised compute in float32.
_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.int8: "f32"}
_KINDS = ("MatMul", "Convolution", "GroupConvolution", "Gather", "ScaledDotProductAttention", "Add")
_KIND = ["supersieve", "precision"]


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
        precision: torch.dtype | Policy = torch.float32,
        calibration: Sequence[Inputs] | None = None,
    ) -> Path:
        """Write `model.onnx` or, for int8 and policies, `model.xml` and `model.bin`; see `Backend.convert`.

        Outputs are checked in float32, before quantisation, since rounding changes them by more than the tolerance.

        Raises:
            ConversionError: the module cannot be converted, or the outputs differ.
            ValueError: an unknown precision, or a policy names a layer that the network does not have.
        """
        if not isinstance(precision, Policy):
            precision_name(precision)
        if precision is not torch.int8 and not isinstance(precision, Policy):
            return self._write(module, example_inputs, folder / "model.onnx", load=self.load)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
            path = self._write(module, example_inputs, Path(scratch) / "model.onnx", load=self.load)
            model = _core().read_model(path)
            names = [port.get_any_name() for port in model.inputs]
            rows = single_rows(example_inputs) if calibration is None else calibration
            if isinstance(precision, Policy):
                model = _by_layer(model, layers_of(path), precision, names, rows)
            else:
                model = quantized(model, names, rows)
            return _save(model, Path(scratch), folder)

    def load(self, path: Path, *, threads: int = 1, precision: torch.dtype | Policy = torch.float32) -> Runner:
        """Load and compile a file for a fixed number of threads; inputs that the network does not read are ignored.

        Raises:
            ValueError: the file is missing or has another precision, or the processor does not support the precision.
        """
        floating = PRECISIONS[precision.floating] if isinstance(precision, Policy) else precision
        name = "by-layer" if isinstance(precision, Policy) else precision_name(precision)
        if not path.is_file():
            raise ValueError(f"{path} must be an ONNX or OpenVINO file, found none; convert the module first")
        if floating is torch.bfloat16 and "BF16" not in capabilities():
            raise ValueError("this processor does not compute in bfloat16; ask for float32 or int8")
        core = _core()
        model = core.read_model(path)
        held = _held(model)
        if held != ("float32" if name == "bfloat16" else name):
            raise ValueError(
                f"the file must have the precision {name}, {path} has {held}; convert the module in that precision"
            )
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": _HINTS[floating],
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


def _held(model: Any) -> str:
    """The kind of precision that a file has: by-layer, int8 or float32."""
    if model.has_rt_info(_KIND):
        return str(model.get_rt_info(_KIND).value)
    return "int8" if any(each.get_type_name() == "FakeQuantize" for each in model.get_ops()) else "float32"


def _by_layer(
    model: Any, layers: Mapping[str, str], policy: Policy, names: Sequence[str], rows: Sequence[Inputs]
) -> Any:
    operators = _operators(model, layers)
    unknown = sorted(set(policy.layers) - set(operators.values()))
    if unknown:
        raise ValueError(f"a policy must name layers of the network, it has no layer {unknown[0]}")
    others = [op.get_friendly_name() for op in model.get_ops() if op.get_type_name() in _KINDS]
    for bits, precision in ((8, "int8-weights"), (4, "int4-weights")):
        chosen = {op for op, path in operators.items() if policy.layers.get(path) == precision}
        if chosen:
            model = compressed(model, bits, left_out=[name for name in others if name not in chosen])
    chosen = {op for op, path in operators.items() if policy.layers.get(path) == "int8"}
    if chosen:
        model = quantized(model, names, rows, left_out=[name for name in others if name not in chosen])
    model.set_rt_info("by-layer", _KIND)
    return model


def _operators(model: Any, layers: Mapping[str, str]) -> dict[str, str]:
    """The path of a layer by the name of its operator."""
    found = {}
    for each in model.get_ops():
        if each.get_type_name() == "Constant" and each.get_friendly_name() in layers:
            for port in each.output(0).get_target_inputs():
                if port.get_node().get_type_name() in _KINDS:
                    found[port.get_node().get_friendly_name()] = layers[each.get_friendly_name()]
    return found


def _save(model: Any, scratch: Path, folder: Path) -> Path:
    import openvino

    openvino.save_model(model, scratch / "model.xml", compress_to_fp16=False)
    # Move the weights first, since model.xml cannot be loaded without them.
    for name in ("model.bin", "model.xml"):
        (scratch / name).replace(folder / name)
    return folder / "model.xml"
