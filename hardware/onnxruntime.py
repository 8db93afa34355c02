"""The backend of ONNX Runtime. Only this file imports its library, and the script of devices without this project."""

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hardware.backend import Runner, Writer, arrange, precision_name
from hardware.grafting import Graph, LastNetwork
from hardware.layers import check_layers
from hardware.onnx import (
    EXTREME_INPUTS,
    OPSETS,
    OPSETS_INT8,
    convert,
    extreme_product,
    precision_of_file,
    quantize,
    save,
)
from hardware.onnx_layers import read_graph
from hardware.policy import Policy
from hardware.profile import BY_LAYER
from hardware.quantized import single_rows
from search_spaces.inputs import Inputs

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

RUN_LINES = """\
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = <threads>
session = onnxruntime.InferenceSession(f"{folder}/<file>", options, providers=["CPUExecutionProvider"])


def run(inputs):  # arrays by name
    return session.run(["logits"], {each.name: inputs[each.name] for each in session.get_inputs()})[0]
"""
"""Python that loads it without this project, see `RuntimeKind.run_lines`."""


class OnnxRuntimeBackend:
    """ONNX Runtime on the CPU or on the first CUDA device, which needs the build `onnxruntime-gpu`.

    The last network that was converted by a policy is kept in memory, see `LastNetwork`: for the next policy of it,
    `convert` neither exports nor calibrates.

    Args:
        device: "cpu" or "cuda".
        write: writes the ONNX files: `hardware.onnx.convert`, or a `Resizer` for many networks of one space.
    """

    def __init__(self, device: str = "cpu", write: Writer = convert) -> None:
        if device not in _PROVIDERS:
            raise ValueError(f"the device of ONNX Runtime must be cpu or cuda, got {device}")
        self._device, self._write, self._last = device, write, LastNetwork()

    def convert(
        self,
        module: nn.Module,
        example_inputs: Inputs,
        folder: Path,
        *,
        precision: torch.dtype | Policy = torch.float32,
        calibration: Sequence[Inputs] | None = None,
    ) -> Path:
        """Write `model.onnx`; `model-int8.onnx` for int8 and `model-by-layer.onnx` for a policy; see `Backend.convert`.

        Outputs are checked in float32, before quantisation, since rounding changes them by more than the tolerance.

        Raises:
            ConversionError: the module cannot be converted, or the outputs differ.
            ValueError: ONNX Runtime does not support the precision, or a policy names a layer that is not there.
        """
        _supported(precision)
        if isinstance(precision, Policy):
            return self._by_layer(module, example_inputs, folder, precision, calibration)
        if precision is not torch.int8:
            return self._write(module, example_inputs, folder / "model.onnx", load=self.load, opsets=OPSETS)
        rows = single_rows(example_inputs) if calibration is None else calibration
        # The float32 file goes into a scratch folder, because `folder` may hold another model.onnx.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
            path = Path(scratch) / "model.onnx"
            self._write(module, example_inputs, path, load=self.load, opsets=OPSETS_INT8)
            return quantize(path, rows, folder / "model-int8.onnx", seven_bits=saturates())

    def _by_layer(
        self,
        module: nn.Module,
        example_inputs: Inputs,
        folder: Path,
        policy: Policy,
        calibration: Sequence[Inputs] | None,
    ) -> Path:
        check_layers(policy, module)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:

            def read() -> Graph:
                path = Path(scratch) / "model.onnx"
                return read_graph(self._write(module, example_inputs, path, load=self.load, opsets=OPSETS))

            def run(model: Any) -> Runner:
                return self.load(save(model, Path(scratch) / "checked.onnx", BY_LAYER), precision=policy)

            model = self._last.written(
                module, example_inputs, policy, calibration, read=read, run=run, seven_bits=saturates()
            )
            return save(model, folder / "model-by-layer.onnx", BY_LAYER)

    def load(self, path: Path, *, threads: int = 1, precision: torch.dtype | Policy = torch.float32) -> Runner:
        """Load a file with a fixed number of threads; inputs that the network does not read are ignored.

        Raises:
            ValueError: the file is missing or has another precision, or device "cuda" is not available.
        """
        wanted = _supported(precision)
        if not path.is_file():
            raise ValueError(f"{path} must be an ONNX file, found none; convert the module first")
        session = self._session(path, threads)
        held = precision_of_file(session.get_modelmeta().custom_metadata_map)
        if held != wanted:
            raise ValueError(
                f"the file must have the precision {wanted}, {path} has {held}; convert the module in that precision"
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
        return _open(str(path), threads, provider)


@cache
def saturates() -> bool:
    """Whether sums of INT8 products are cut off at 16 bits here, as on processors without instructions for them."""
    numbers = np.full((4, EXTREME_INPUTS), 255, np.float32)
    (sums,) = _open(extreme_product(), 1, _PROVIDERS["cpu"]).run(None, {"numbers": numbers})
    exact = EXTREME_INPUTS * 255 * 127
    return bool((np.abs(sums - exact) > 0.01 * exact).any())


def _open(model: str | bytes, threads: int, provider: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised as exceptions; logging them too would clutter the output
    return onnxruntime.InferenceSession(model, options, providers=[provider])


def _supported(precision: torch.dtype | Policy) -> str:
    """The name of a precision; raises ValueError for one that ONNX Runtime does not execute."""
    if isinstance(precision, Policy):
        if precision.floating != "float32":
            raise ValueError(
                f"the rest of a policy must be in float32 in ONNX Runtime, got {precision.floating}, in which it does "
                "not compute on a processor; use openvino"
            )
        return BY_LAYER
    if precision not in (torch.float32, torch.int8):
        raise ValueError(f"the precision of ONNX Runtime must be float32 or int8, got {precision}")
    return precision_name(precision)
