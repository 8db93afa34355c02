"""The runtimes here: which precisions each supports, where it computes, and how to enable what is missing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version

import torch

from hardware.backend import Backend, Writer
from hardware.onnx import convert
from hardware.profile import Device
from hardware.runtimes import RUNTIMES, RuntimeKind


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


NAMES = tuple(RUNTIMES)


def runtime_kind(name: str) -> RuntimeKind:
    """What is known of a runtime whatever the machine; raises ValueError for a name that is not in `NAMES`."""
    if name not in RUNTIMES:
        raise ValueError(f"the runtime must be one of {', '.join(NAMES)}, got {name}")
    return RUNTIMES[name]


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
    found = runtime_kind(name)
    missing = found.missing()
    if missing:
        raise ValueError(f"{name} cannot be used here: {missing}")
    return found.make(device, write)


def runtime(name: str) -> Runtime:
    """What a runtime supports on this machine's processor; raises ValueError for a name that is not in `NAMES`."""
    found = runtime_kind(name)
    missing = found.missing()
    if missing:
        return Runtime(name, None, (), {"all": missing})
    support = found.support()
    notes = {precision: note for precision, (_, note) in support.items() if note}
    usable = tuple(precision for precision, (works, _) in support.items() if works)
    return Runtime(name, version(found.library), usable, notes)


def device_for(name: str, module: torch.device) -> Device:
    """Where a runtime computes the sub-networks of a super-network on the device `module`.

    All that measures, verifies or delivers sub-networks asks here, so that their figures are of one device.

    Raises:
        ValueError: a name that is not in `NAMES`.
    """
    return "cuda" if runtime_kind(name).follows_module and module.type == "cuda" else "cpu"
