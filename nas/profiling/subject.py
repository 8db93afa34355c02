"""The subject of a device profile: a super-network with its inputs, and the fingerprint that a profile must match."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from hardware.deployment import Deployment
from hardware.inputs import batch_size, device_of, is_tokens, map_inputs, split
from hardware.policy import Policy, PrecisionChoices
from hardware.profile import Device, DeviceProfile, Precision, ProfiledModel, differs
from hardware.registry import device_for
from nas.errors import UserError
from nas.networks.policies import joined_space, policy_of
from search_spaces import Candidate, Kernels, Space, Supernet, kernels
from search_spaces.families.recognition import family_name
from search_spaces.inputs import Inputs


@dataclass(frozen=True)
class Subject:
    """A super-network whose sub-networks are profiled.

    Args:
        name: name of the model, the last part of its path.
        supernet: in evaluation mode; its weights do not matter.
        inputs: example inputs with the batch size and length to measure.
        space: the candidates that may be measured: `whole`, or a space with fewer options.
        precisions: what each layer may compute in; None where the network has one precision.
    """

    name: str
    supernet: Supernet
    inputs: Inputs
    space: Space
    precisions: PrecisionChoices | None = None

    @cached_property
    def whole(self) -> Space:
        """The space of all candidates: that of the super-network, joined with the precision of every layer."""
        return joined_space(self.supernet, self.precisions)

    def policy(self, candidate: Candidate) -> Policy | None:
        """The precision of every layer of a candidate; None where the network has one precision."""
        return None if self.precisions is None else policy_of(self.supernet, candidate)

    @property
    def tokens(self) -> int | None:
        """Length of the inputs in tokens; None for images."""
        args, kwargs = split(self.inputs)
        return next((int(value.shape[1]) for value in (*args, *kwargs.values()) if is_tokens(value)), None)

    @property
    def batch(self) -> int:
        """Number of rows of the inputs."""
        return batch_size(self.inputs)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first input tensor."""
        args, kwargs = split(self.inputs)
        return tuple(next(iter((*args, *kwargs.values()))).shape)

    def deployment(self, runtime: str, precision: Precision, threads: int) -> Deployment:
        """The deployment with these inputs, where the runtime computes networks of this super-network."""
        return Deployment(runtime, precision, threads, self.batch, self.tokens, self.device(runtime))

    def device(self, runtime: str) -> Device:
        """Where a runtime computes networks of this super-network."""
        return device_for(runtime, device_of(self.supernet))

    def accelerator(self, runtime: str) -> str | None:
        """Name of the GPU that a runtime computes on; None on a processor."""
        return torch.cuda.get_device_name(device_of(self.supernet)) if self.device(runtime) == "cuda" else None

    @cached_property
    def model(self) -> ProfiledModel:
        """The description of the network in a profile, which covers the whole space even if only a part is measured."""
        whole = self.whole
        digest = hashlib.sha256(whole.to_json().encode()).hexdigest()
        sums = self.kernels.of(whole.encode([whole.full()]))[0]
        macs = sum(int(value) for name, value in zip(self.kernels.names, sums, strict=True) if name.startswith("macs "))
        family = family_name(self.supernet.model)
        return ProfiledModel(name=self.name, family=family, space_sha256=digest, macs=macs)

    @property
    def fingerprint(self) -> dict[str, object]:
        """The fields that a profile of this network with these inputs must match, see `differences`."""
        of_model = self.model.model_dump(exclude={"name"})
        return {"model": self.name, **of_model, "batch": self.batch, "tokens": self.tokens, "shape": self.shape}

    @cached_property
    def kernels(self) -> Kernels:
        """Sums of work over the operators of candidates; raises UserError if the network cannot be traced."""
        try:
            args, kwargs = split(map_inputs(self.inputs, self._two_rows))
            return kernels(self.supernet, args or kwargs, self.whole)
        except ValueError as error:
            raise UserError(str(error)) from error

    def _two_rows(self, value: torch.Tensor) -> torch.Tensor:
        # The tracer would treat a batch of one as a constant.
        device = device_of(self.supernet)
        single = self.batch == 1 and value.ndim > 0 and len(value) == 1
        return (torch.cat([value, value]) if single else value).to(device)


def differences(profile: DeviceProfile, requested: Mapping[str, object]) -> list[str]:
    """Phrases on how a profile differs from a fingerprint, as `hardware.differs`, with digests and shapes in words."""
    found = differs(profile, requested)
    others = (
        "the sub-networks to choose from (their sizes, or the order in which blocks drop) are others in the profile"
    )
    found = [others if phrase.startswith("space_sha256") else phrase for phrase in found]
    return [f"the shape of an input{phrase[5:]}" if phrase.startswith("shape is") else phrase for phrase in found]
