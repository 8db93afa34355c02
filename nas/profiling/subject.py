"""What is profiled: a super-network, the inputs that it is measured with, and what a profile says of both."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from hardware.deployment import Deployment
from hardware.inputs import Inputs, batch_size, device_of, is_tokens, map_inputs, split
from hardware.profile import Device, DeviceProfile, Precision, ProfiledModel, differs
from nas.errors import UserError
from search_spaces import Kernels, Space, Supernet, kernels
from search_spaces.families.recognition import family_name


@dataclass(frozen=True)
class Subject:
    """A network whose sub-networks are profiled.

    Args:
        name: of the model, the last part of a path.
        supernet: in evaluation mode; its weights do not matter.
        inputs: of the batch and length that are measured.
        space: the candidates that may be measured: that of the super-network, or one with fewer options.
    """

    name: str
    supernet: Supernet
    inputs: Inputs
    space: Space

    @property
    def tokens(self) -> int | None:
        """Length of a text; None for images."""
        args, kwargs = split(self.inputs)
        return next((int(value.shape[1]) for value in (*args, *kwargs.values()) if is_tokens(value)), None)

    @property
    def batch(self) -> int:
        """Rows of an input."""
        return batch_size(self.inputs)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first input."""
        args, kwargs = split(self.inputs)
        return tuple(next(iter((*args, *kwargs.values()))).shape)

    def deployment(self, runtime: str, precision: Precision, threads: int) -> Deployment:
        """How it runs with these inputs, on the device that it is on."""
        device: Device = "cuda" if device_of(self.supernet).type == "cuda" else "cpu"
        return Deployment(runtime, precision, threads, self.batch, self.tokens, device)

    @property
    def accelerator(self) -> str | None:
        """The name of the GPU that the network is on; None on a processor."""
        device = device_of(self.supernet)
        return torch.cuda.get_device_name(device) if device.type == "cuda" else None

    @cached_property
    def model(self) -> ProfiledModel:
        """What a profile says of the network: the whole space, whatever of it is measured."""
        whole = self.supernet.space
        digest = hashlib.sha256(whole.to_json().encode()).hexdigest()
        sums = self.kernels.of(whole.encode([whole.full()]))[0]
        macs = sum(int(value) for name, value in zip(self.kernels.names, sums, strict=True) if name.startswith("macs "))
        family = family_name(self.supernet.model)
        return ProfiledModel(name=self.name, family=family, space_sha256=digest, macs=macs)

    @property
    def asked(self) -> dict[str, object]:
        """What a profile must be of to be a profile of it, see `differences`."""
        of_model = self.model.model_dump(exclude={"name"})
        return {"model": self.name, **of_model, "batch": self.batch, "tokens": self.tokens, "shape": self.shape}

    @cached_property
    def kernels(self) -> Kernels:
        """Sums over the operators of candidates; UserError where the network cannot be traced."""
        try:
            args, kwargs = split(map_inputs(self.inputs, self._two_rows))
            return kernels(self.supernet, args or kwargs)
        except ValueError as error:
            raise UserError(str(error)) from error

    def _two_rows(self, value: torch.Tensor) -> torch.Tensor:
        # The tracer fixes a batch of one.
        device = device_of(self.supernet)
        single = self.batch == 1 and value.ndim > 0 and len(value) == 1
        return (torch.cat([value, value]) if single else value).to(device)


def differences(profile: DeviceProfile, asked: Mapping[str, object]) -> list[str]:
    """How a profile differs from what is asked (see `hardware.differs`), in words: nobody reads digests."""
    found = differs(profile, asked)
    others = (
        "the sub-networks to choose from (their sizes, or the order in which blocks drop) are others in the profile"
    )
    found = [others if phrase.startswith("space_sha256") else phrase for phrase in found]
    return [f"the shape of an input{phrase[5:]}" if phrase.startswith("shape is") else phrase for phrase in found]
