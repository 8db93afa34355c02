"""A deployment: the runtime, precision and input size that a network is measured and delivered with.

The same value passes from the device profile through the search to the exported folder and its card, so that the
figures that decided the search describe the files that are delivered.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from hardware.backend import PRECISIONS, Backend, Runner, Writer
from hardware.machine import in_words, processor, usable_cores
from hardware.onnx import convert
from hardware.policy import Policy
from hardware.profile import BY_LAYER, Device, DeviceProfile, Precision
from hardware.registry import backend, runtime, runtime_kind
from search_spaces.inputs import Inputs


@dataclass(frozen=True)
class Deployment:
    """How a network is executed.

    Args:
        runtime: one of `hardware.registry.NAMES`.
        precision: numeric precision of the computation.
        threads: number of threads of the runtime.
        batch: rows of the input used to measure latency, energy and memory.
        tokens: length of that input in tokens; None for images.
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
        """The deployment that a device profile was measured in."""
        return cls(profile.runtime, profile.precision, profile.threads, profile.batch, profile.tokens, profile.device)

    @property
    def by_layer(self) -> bool:
        """Whether every network comes with a policy of its own."""
        return self.precision == BY_LAYER

    def numbers(self, policy: Policy | None = None) -> torch.dtype | Policy:
        """What a network computes in, as backends take it.

        Args:
            policy: the precision of every layer of the network, where precision goes by layer.

        Raises:
            ValueError: the policy is missing, or the deployment has one precision.
        """
        if not self.by_layer:
            if policy is not None:
                raise ValueError(f"a deployment in {self.precision} takes no network that has a precision by layer")
            return PRECISIONS[self.precision]
        if policy is None:
            raise ValueError("a deployment whose precision goes by layer needs the policy of every network")
        return policy

    @property
    def is_eager_float32(self) -> bool:
        """Whether the network runs unconverted, as in training: eager PyTorch in float32."""
        return self.runtime == "pytorch" and self.precision == "float32"

    @property
    def is_quantized(self) -> bool:
        """Whether its files hold quantized layers, which need rows for their calibration."""
        return self.precision in ("int8", BY_LAYER)

    def near(self, device: torch.device) -> torch.device:
        """Where inputs and modules belong, of a super-network on `device`: there, or on the processor."""
        return device if self.device == "cuda" else torch.device("cpu")

    def version(self) -> str:
        """Version of the runtime's library; raises PackageNotFoundError where it is not installed."""
        return version(runtime_kind(self.runtime).library)

    def conditions(self) -> dict[str, str | int]:
        """The conditions that figures of this deployment depend on, for JSON and cards; `tokens` only for text."""
        name = torch.cuda.get_device_name() if self.device == "cuda" else processor()[0]
        return self.conditions_on(in_words(name, usable_cores()), self.version())

    def conditions_on(self, machine: str, runtime_version: str) -> dict[str, str | int]:
        """Like `conditions`, for figures measured on another machine or with another version of the runtime."""
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
        """Check that this machine supports the deployment.

        Raises:
            ValueError: it does not; the message is one sentence that names the remedy.
        """
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
        """Create a backend of the runtime.

        A PyTorch backend keeps every module that it converted, so create one for each network.

        Args:
            write: writes ONNX files: `hardware.onnx.convert`, or a `Resizer` for many networks of one space.

        Raises:
            ValueError: the runtime is not installed or does not support this device.
        """
        return backend(self.runtime, device=self.device, write=write)

    def runner(
        self,
        module: nn.Module,
        inputs: Inputs,
        *,
        policy: Policy | None = None,
        write: Writer = convert,
        calibration: Sequence[Inputs] | None = None,
    ) -> Runner:
        """Convert and load `module` in this deployment, through temporary files.

        Args:
            module: in evaluation mode.
            inputs: example inputs, named as in later calls.
            policy: the precision of its layers, see `numbers`.
            write: see `backend`.
            calibration: rows for INT8, see `Backend.convert`.

        Returns:
            A callable that returns the first output.

        Raises:
            ConversionError: the network cannot be converted for the runtime.
            ValueError: the runtime does not support this precision or device.
        """
        converter, precision = self.backend(write), self.numbers(policy)
        with tempfile.TemporaryDirectory() as scratch:
            path = converter.convert(module, inputs, Path(scratch), precision=precision, calibration=calibration)
            return converter.load(path, threads=self.threads, precision=precision)


def loaded_files(path: Path) -> tuple[Path, ...]:
    """The files that loading `path` reads: some formats keep weights and description in separate files."""
    if path.suffix == ".xml":
        return path, path.with_suffix(".bin")
    return (path, path.with_name("config.json")) if path.suffix == ".safetensors" else (path,)
