"""The runtimes by name: which precisions each supports on this machine, and how to enable those that are missing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from hardware import onnxruntime, openvino
from hardware.backend import Backend, Writer
from hardware.machine import processor
from hardware.onnx import convert
from hardware.onnxruntime import OnnxRuntimeBackend
from hardware.openvino import OpenVinoBackend, capabilities
from hardware.profile import BY_LAYER
from hardware.pytorch import PyTorchBackend
from hardware.quantized import SEVEN_BITS, silent

# Processor features that execute bfloat16 natively; PyTorch emulates it elsewhere.
_FAST_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}


@dataclass(frozen=True)
class Runtime:
    """What one runtime supports on this machine.

    Attributes:
        name: as in commands and profiles.
        version: of its library; None if that is not installed.
        precisions: names of the precisions that it supports here.
        notes: by precision, why it is missing or slow and what to do about it; the key "all" stands for the whole
            runtime.
    """

    name: str
    version: str | None
    precisions: tuple[str, ...]
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        """Whether the runtime supports any precision here."""
        return bool(self.precisions)


NAMES = ("pytorch", "onnxruntime", "openvino")
_LIBRARY = {"pytorch": "torch"}
_INSTALL = {"openvino": "pip install 'supersieve[openvino]'"}


def library_of(name: str) -> str:
    """The name of the package that provides a runtime."""
    return _LIBRARY.get(name, name)


def backends() -> tuple[Runtime, ...]:
    """All runtimes with what they support on this processor; importing them takes seconds."""
    return tuple(runtime(name) for name in NAMES)


def backend(name: str, *, device: str = "cpu", write: Writer = convert) -> Backend:
    """Create the backend of a runtime.

    Args:
        name: one of `NAMES`.
        device: "cpu" or "cuda"; ignored by PyTorch, which runs on the device of the module.
        write: writes ONNX files for the runtimes that read them; pass a `Resizer` for many networks of one space.

    Raises:
        ValueError: an unknown name, a library that is not installed, or a device that the runtime does not support.
    """
    if name not in NAMES:
        raise ValueError(f"the runtime must be one of {', '.join(NAMES)}, got {name}")
    missing = _missing(name)
    if missing:
        raise ValueError(f"{name} cannot be used here: {missing}")
    if name == "onnxruntime":
        return OnnxRuntimeBackend(device, write)
    if name == "openvino":
        if device != "cpu":
            raise ValueError(f"openvino computes on the processor only here, got device {device}")
        return OpenVinoBackend(write)
    return PyTorchBackend()


def runtime(name: str) -> Runtime:
    """What a runtime supports on this machine's processor; raises ValueError for a name that is not in `NAMES`."""
    if name not in NAMES:
        raise ValueError(f"the runtime must be one of {', '.join(NAMES)}, got {name}")
    missing = _missing(name)
    if missing:
        return Runtime(name, None, (), {"all": missing})
    support = _PRECISIONS_OF[name]()
    notes = {precision: note for precision, (_, note) in support.items() if note}
    usable = tuple(precision for precision, (works, _) in support.items() if works)
    return Runtime(name, version(library_of(name)), usable, notes)


# For each precision, whether it is supported, and a note where it is not or is slow.
_Support = dict[str, tuple[bool, str]]


def _pytorch() -> _Support:
    fast = _FAST_BFLOAT16 & set(processor()[1])
    return {
        "float32": (True, ""),
        "bfloat16": (True, "" if fast else "this processor has no instructions for it, so it is slower than float32"),
        "int8": (False, "PyTorch alone does not compute in it; use openvino or onnxruntime"),
        BY_LAYER: (False, "PyTorch alone has one precision for all layers; use openvino or onnxruntime"),
    }


def _onnxruntime() -> _Support:
    return {
        "float32": (True, ""),
        "bfloat16": (False, "ONNX Runtime does not compute in it on a processor; use openvino or pytorch"),
        **_int8(onnxruntime.saturates),
    }


def _openvino() -> _Support:
    has = "BF16" in capabilities()
    return {
        "float32": (True, ""),
        "bfloat16": (has, "" if has else "this processor has no instructions for it"),
        **_int8(openvino.saturates),
    }


def _int8(saturates: Callable[[], bool]) -> _Support:
    missing = _missing("nncf")
    note = f"it needs nncf: {missing}" if missing else SEVEN_BITS if saturates() else ""
    return dict.fromkeys(("int8", BY_LAYER), (not missing, note))


_PRECISIONS_OF: dict[str, Callable[[], _Support]] = {
    "pytorch": _pytorch,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}


def _missing(name: str) -> str:
    """Why the library of a runtime cannot be imported and how to fix it; empty if it can."""
    library = library_of(name)
    install = _INSTALL.get(name, f"pip install {library}")
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
