"""The table of runtimes: what is known of each whatever the machine, and what this machine's processor adds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hardware import onnxruntime, openvino, pytorch
from hardware.backend import Backend, Writer
from hardware.machine import processor
from hardware.profile import BY_LAYER
from hardware.quantized import SEVEN_BITS, silent

# Processor features that execute bfloat16 natively; PyTorch emulates it elsewhere.
_FAST_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}

Support = dict[str, tuple[bool, str]]
"""For each precision, whether it is supported on this processor, and a note where it is not or is slow."""


def _never() -> bool:
    return False


@dataclass(frozen=True)
class RuntimeKind:
    """What sets one runtime apart from the others.

    Args:
        name: as in commands and profiles.
        title: its name in texts for people.
        library: the package that provides it, installed and imported under this name.
        install: the command that installs it.
        make: a backend for a device ("cpu" or "cuda") that writes ONNX files by a writer, where it reads these.
        support: the precisions here; its library must be installed.
        run_lines: Python that loads a file and defines `run(inputs)`, from arrays by name to logits, without this
            project. `<file>`, in a folder whose path is `folder`, `<threads>`, `<device>` and `<floating>` (see
            `floating`) stand for those of a deployment; where it runs modules, `load(<arguments>)` gives the network.
        floating: its words for "float32" and "bfloat16" in these lines, where they are others.
        runs_modules: whether it runs the network itself, whose class has to be built first, and not a file of it.
        follows_module: whether it computes on the GPU where the super-network is on one. The others compute on the
            processor, as their lines do.
        quantized_folder: part of an exported folder that its quantized files lie in; empty for the folder itself.
        saturates: whether it cuts off sums of INT8 products at 16 bits on this processor.
    """

    name: str
    title: str
    library: str
    install: str
    make: Callable[[str, Writer], Backend]
    support: Callable[[], Support]
    run_lines: str
    floating: Mapping[str, str] = field(default_factory=dict)
    runs_modules: bool = False
    follows_module: bool = False
    quantized_folder: str = ""
    saturates: Callable[[], bool] = _never

    def missing(self) -> str:
        """Why its library cannot be imported and how to fix it; empty if it can."""
        return missing(self.library, self.install)


def missing(library: str, install: str) -> str:
    """Why a library cannot be imported and how to fix it, which the command `install` does; empty if it can."""
    try:
        version(library)
        with silent():
            import_module(library)
    except PackageNotFoundError:
        return f"it is not installed; {install}"
    except Exception as error:  # a broken library can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"{reason}; {install if _has_home() else 'set HOME to a folder'}"
    return ""


def _has_home() -> bool:
    """Whether this user has a home folder, which several libraries need to be imported."""
    try:
        Path.home()
    except RuntimeError:
        return False
    return True


def _make_pytorch(device: str, write: Writer) -> Backend:
    # It runs on the device of the module, and writes no ONNX files.
    return pytorch.PyTorchBackend()


def _make_openvino(device: str, write: Writer) -> Backend:
    if device != "cpu":
        raise ValueError(f"openvino computes on the processor only here, got device {device}")
    return openvino.OpenVinoBackend(write)


def _of_pytorch() -> Support:
    fast = _FAST_BFLOAT16 & set(processor()[1])
    return {
        "float32": (True, ""),
        "bfloat16": (True, "" if fast else "this processor has no instructions for it, so it is slower than float32"),
        "int8": (False, "PyTorch alone does not compute in it; use openvino or onnxruntime"),
        BY_LAYER: (False, "PyTorch alone has one precision for all layers; use openvino or onnxruntime"),
    }


def _of_onnxruntime() -> Support:
    return {
        "float32": (True, ""),
        "bfloat16": (False, "ONNX Runtime does not compute in it on a processor; use openvino or pytorch"),
        **_int8(onnxruntime.saturates),
    }


def _of_openvino() -> Support:
    has = "BF16" in openvino.capabilities()
    return {
        "float32": (True, ""),
        "bfloat16": (has, "" if has else "this processor has no instructions for it"),
        **_int8(openvino.saturates),
    }


def _int8(saturates: Callable[[], bool]) -> Support:
    lacks = missing("nncf", "pip install nncf")
    note = f"it needs nncf: {lacks}" if lacks else SEVEN_BITS if saturates() else ""
    return dict.fromkeys(("int8", BY_LAYER), (not lacks, note))


RUNTIMES: Mapping[str, RuntimeKind] = {
    each.name: each
    for each in (
        RuntimeKind(
            "pytorch",
            "PyTorch",
            "torch",
            "pip install torch",
            _make_pytorch,
            _of_pytorch,
            pytorch.RUN_LINES,
            runs_modules=True,
            follows_module=True,
        ),
        RuntimeKind(
            "onnxruntime",
            "ONNX Runtime",
            "onnxruntime",
            "pip install onnxruntime",
            onnxruntime.OnnxRuntimeBackend,
            _of_onnxruntime,
            onnxruntime.RUN_LINES,
            saturates=onnxruntime.saturates,
        ),
        RuntimeKind(
            "openvino",
            "OpenVINO",
            "openvino",
            "pip install 'supersieve[openvino]'",
            _make_openvino,
            _of_openvino,
            openvino.RUN_LINES,
            floating={"float32": "f32", "bfloat16": "bf16"},
            quantized_folder="openvino",
            saturates=openvino.saturates,
        ),
    )
}
"""All runtimes by name, in the order of help and tables."""
