"""How a network will run: one runtime in one precision, with the input that its figures are for.

The same value goes from the device profile through the search to the exported folder and its card, so that what was
measured is what is delivered.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from hardware.backend import PRECISIONS, Backend, Runner, Writer
from hardware.inputs import Inputs
from hardware.machine import processor, usable_cores
from hardware.onnx import convert
from hardware.profile import Device, DeviceProfile, Precision
from hardware.registry import backend, library_of, runtime


@dataclass(frozen=True)
class Deployment:
    """Where and how a network runs.

    Args:
        runtime: one of `hardware.registry.NAMES`.
        precision: in which it computes.
        threads: of the runtime.
        batch: rows of the input that latency, energy and memory are measured with.
        tokens: length of that input; None for images.
        device: "cpu", or "cuda" where the runtime computes on a GPU.
    """

    runtime: str = "pytorch"
    precision: Precision = "float32"
    threads: int = 1
    batch: int = 1
    tokens: int | None = None
    device: Device = "cpu"

    @classmethod
    def of_profile(cls, profile: DeviceProfile) -> "Deployment":
        """What a device profile is of."""
        return cls(profile.runtime, profile.precision, profile.threads, profile.batch, profile.tokens, profile.device)

    @property
    def dtype(self) -> torch.dtype:
        """The precision as torch names it."""
        return PRECISIONS[self.precision]

    @property
    def is_eager_float32(self) -> bool:
        """Whether it runs the network as it is in training: PyTorch, float32. Nothing is converted then."""
        return self.runtime == "pytorch" and self.precision == "float32"

    def version(self) -> str:
        """Version of the runtime's library, which must be installed."""
        return version(library_of(self.runtime))

    def conditions(self) -> dict[str, str | int]:
        """What all figures of this deployment depend on, for JSON and cards; `tokens` only where the input is text."""
        name = torch.cuda.get_device_name() if self.device == "cuda" else processor()[0]
        return self.conditions_on(f"{name}, {usable_cores()} cores", self.version())

    def conditions_on(self, machine: str, runtime_version: str) -> dict[str, str | int]:
        """The same of another machine and version of the runtime."""
        length = {} if self.tokens is None else {"tokens": self.tokens}
        return {
            "machine": machine,
            "runtime": self.runtime,
            "runtime_version": runtime_version,
            "precision": self.precision,
            "threads": self.threads,
            "batch": self.batch,
            **length,
        }

    def check(self) -> None:
        """Raises ValueError, one sentence with the remedy, where this machine cannot run it."""
        found = runtime(self.runtime)
        if not found.usable:
            raise ValueError(f"{self.runtime} cannot be used here: {found.notes['all']}")
        if self.precision not in found.precisions:
            note = found.notes.get(self.precision, "it does not compute in it")
            raise ValueError(
                f"{self.runtime} must have the precision {self.precision} on this machine ({note}); "
                f"it has {', '.join(found.precisions)}"
            )
        self.backend()

    def backend(self, write: Writer = convert) -> Backend:
        """The runtime, new. A PyTorch backend keeps every network that it converts, so take one for each network.

        Args:
            write: writes ONNX files: `hardware.onnx.convert`, or a `Resizer` for many networks of one space.

        Raises:
            ValueError: the runtime is not installed or does not have this device.
        """
        return backend(self.runtime, device=self.device, write=write)

    def runner(
        self,
        module: nn.Module,
        inputs: Inputs,
        *,
        write: Writer = convert,
        calibration: Sequence[Inputs] | None = None,
    ) -> Runner:
        """A callable that computes `module` in this deployment; its files are gone once they are loaded.

        Args:
            module: in evaluation mode.
            inputs: an example, by the names that the callable will be given.
            write: see `backend`.
            calibration: rows for INT8, see `Backend.convert`.

        Raises:
            ConversionError: the runtime does not take the network.
            ValueError: the runtime does not have this precision or device.
        """
        converter = self.backend(write)
        with tempfile.TemporaryDirectory() as scratch:
            path = converter.convert(module, inputs, Path(scratch), precision=self.dtype, calibration=calibration)
            return converter.load(path, threads=self.threads, precision=self.dtype)


def loaded_files(path: Path) -> tuple[Path, ...]:
    """The files that are read when `path` is loaded: of an exported network, weights and description may be two."""
    if path.suffix == ".xml":
        return path, path.with_suffix(".bin")
    return (path, path.with_name("config.json")) if path.suffix == ".safetensors" else (path,)
