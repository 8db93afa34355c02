"""Candidates as callables in a deployment, and the measurement of their energy and memory."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from hardware.counters import energy_meter
from hardware.deployment import Deployment
from hardware.inputs import call, device_of, map_inputs
from hardware.latency import undisturbed
from hardware.protocol import Runnable
from hardware.resizing import Resizer
from nas.errors import UserError
from nas.exporting.deployed import deploy, memory_mib
from nas.exporting.network_files import network_class
from nas.networks.networks import Networks
from search_spaces import Candidate, Supernet
from search_spaces.inputs import Inputs

_ENERGY_CALLS = 20


class Runners:
    """Creates callables of candidates and of the full network in one deployment.

    Args:
        supernet: in evaluation mode.
        networks: say what each candidate computes in, where precision goes by layer.
        row: an input of one row, by name.
        deployment: how the networks are executed.

    Attributes:
        row: the input on the device that the deployment computes on.
        deployment: as given.
    """

    def __init__(self, supernet: Supernet, networks: Networks, row: Inputs, deployment: Deployment) -> None:
        self.deployment, self._networks = deployment, networks
        # Inputs that lay elsewhere would be copied in every call, which would count as latency.
        self._device = deployment.near(device_of(supernet))
        self.row = map_inputs(row, lambda value: value.to(self._device))
        self._supernet, self._write = supernet, Resizer()
        self._full_network: Runnable | None = None
        # Latency and energy of a candidate are measured in succession: converting it once serves both.
        self._last: tuple[Candidate, Runnable] | None = None

    def __call__(self, candidate: Candidate) -> Runnable:
        """A candidate as a callable; raises ConversionError if the runtime does not support it."""
        if self._last is None or self._last[0] != candidate:
            self._last = (candidate, self._load(candidate))
        return self._last[1]

    def full(self) -> Runnable:
        """The full network as a callable."""
        if self._full_network is None:
            eager = self.deployment.is_eager_float32
            self._full_network = self._supernet.model if eager else self._load(self._supernet.space.full())
        return self._full_network

    def _load(self, candidate: Candidate) -> Runnable:
        module = self._extracted(candidate)
        if self.deployment.is_eager_float32:
            return module
        return self.deployment.runner(module, self.row, policy=self._networks.policy(candidate), write=self._write)

    def _extracted(self, candidate: Candidate) -> nn.Module:
        return self._supernet.extract(candidate).eval().to(self._device)

    def memory_mib(self, candidate: Candidate) -> float:
        """Peak resident memory in MiB of a new process that loads a candidate's files and runs one input.

        A new process, because the peak of this one includes the super-network and the data.
        """
        module = self._extracted(candidate)
        with TemporaryDirectory() as scratch:
            policy, backend = self._networks.policy(candidate), self.deployment.backend(self._write)
            deployed = deploy(module, self.deployment, Path(scratch), self.row, policy=policy, backend=backend)
            return memory_mib(deployed, self.row, network_class(module, None))

    def energy_mj(self) -> Callable[[Candidate], float]:
        """A function that measures the energy of one call; raises UserError if no energy counter can be read."""
        meter = energy_meter()
        if meter is None:
            raise UserError(
                "energy_mj needs the energy counters of the processor (RAPL), which this machine does not have or does "
                "not let this user read; leave it out of --objectives"
            )
        return partial(self._energy, meter)

    def _energy(self, meter: Callable[[], Callable[[], float]], candidate: Candidate) -> float:
        """Energy of one call in millijoules, idle power included: a mean over several calls, as counters are coarse."""
        network = self(candidate)
        with undisturbed(self.deployment.threads):
            call(network, self.row)  # warm-up
            stop = meter()
            for _ in range(_ENERGY_CALLS):
                call(network, self.row)
            return stop() / _ENERGY_CALLS
