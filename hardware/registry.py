"""The runtimes by name: which of them can be used here in which precisions, and what to do about the others."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from hardware.backend import Backend, Writer
from hardware.machine import processor
from hardware.onnx import convert
from hardware.onnxruntime import OnnxRuntimeBackend
from hardware.openvino import OpenVinoBackend, capabilities
from hardware.pytorch import PyTorchBackend
from hardware.quantized import silent

_FAST_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}


@dataclass(frozen=True)
class Runtime:
    """One runtime on this machine.

    Attributes:
        name: as commands and profiles say it.
        version: of its library; None where it is not installed.
        precisions: names of those that it computes in here.
        notes: why a precision, or the whole runtime under the name "all", is missing or slow, and what to do about it.
    """

    name: str
    version: str | None
    precisions: tuple[str, ...]
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        """Whether it computes at all here."""
        return bool(self.precisions)


NAMES = ("pytorch", "onnxruntime", "openvino")
_LIBRARY = {"pytorch": "torch"}
_INSTALL = {"openvino": "pip install 'supersieve[openvino]'"}


def library_of(name: str) -> str:
    """The distribution that a runtime belongs to, by which it is installed."""
    return _LIBRARY.get(name, name)


def backends() -> tuple[Runtime, ...]:
    """Every runtime and what it can do on this machine's processor; imports them all, so it takes seconds."""
    return tuple(runtime(name) for name in NAMES)


def backend(name: str, *, device: str = "cpu", write: Writer = convert) -> Backend:
    """The runtime of that name.

    Args:
        name: one of `NAMES`.
        device: "cpu" or "cuda"; PyTorch computes where the module is.
        write: what writes ONNX files, where the runtime reads them: `Resizer()` for many networks of one space.

    Raises:
        ValueError: another name, a library that is not installed, or a device that the runtime does not have here.
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
    """What a runtime can do on this machine's processor; raises ValueError for another name than one of `NAMES`."""
    if name not in NAMES:
        raise ValueError(f"the runtime must be one of {', '.join(NAMES)}, got {name}")
    missing = _missing(name)
    if missing:
        return Runtime(name, None, (), {"all": missing})
    found = _PRECISIONS_OF[name]()
    notes = {precision: note for precision, (_, note) in found.items() if note}
    usable = tuple(precision for precision, (works, _) in found.items() if works)
    return Runtime(name, version(library_of(name)), usable, notes)


Found = dict[str, tuple[bool, str]]


def _pytorch() -> Found:
    fast = _FAST_BFLOAT16 & set(processor()[1])
    return {
        "float32": (True, ""),
        "bfloat16": (True, "" if fast else "this processor has no instructions for it, so it is slower than float32"),
        "int8": (False, "PyTorch alone does not compute in it; use openvino or onnxruntime"),
    }


def _onnxruntime() -> Found:
    return {
        "float32": (True, ""),
        "bfloat16": (False, "ONNX Runtime does not compute in it on a processor; use openvino or pytorch"),
        "int8": _int8(),
    }


def _openvino() -> Found:
    has = "BF16" in capabilities()
    return {
        "float32": (True, ""),
        "bfloat16": (has, "" if has else "this processor has no instructions for it"),
        "int8": _int8(),
    }


def _int8() -> tuple[bool, str]:
    missing = _missing("nncf")
    return not missing, missing and f"it needs nncf: {missing}"


_PRECISIONS_OF: dict[str, Callable[[], Found]] = {
    "pytorch": _pytorch,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}


def _missing(name: str) -> str:
    """Why a library cannot be imported and how to mend it; empty where it can."""
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
        return f"{reason}; {install}"
    return ""
