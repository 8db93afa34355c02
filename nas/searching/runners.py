"""Candidates as they run in a deployment, and what is measured of them beside latency: energy and memory."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from hardware.counters import energy_meter
from hardware.deployment import Deployment
from hardware.inputs import Inputs, call, device_of, map_inputs
from hardware.latency import undisturbed
from hardware.resizing import Resizer
from nas.errors import UserError
from nas.exporting.deployed import deploy, memory_mib
from nas.exporting.network_files import network_class
from search_spaces import Candidate, Supernet

Runnable = Callable[..., object]
_ENERGY_CALLS = 20


class Runners:
    """Callables of candidates and of the full network, in one deployment.

    Args:
        supernet: in evaluation mode.
        row: an input of one row, by name.
        deployment: what runs them; its device is that of the row afterwards.

    Attributes:
        row: on the device that the networks read.
        deployment: as given.
    """

    def __init__(self, supernet: Supernet, row: Inputs, deployment: Deployment) -> None:
        self.deployment = deployment
        self.row = map_inputs(row, lambda value: value.to(device_of(supernet)))
        self._supernet, self._write = supernet, Resizer()
        self._full: Runnable | None = None
        # Latency and energy of one candidate are measured one after the other: it is converted once for both.
        self._last: tuple[Candidate, Runnable] | None = None

    def __call__(self, candidate: Candidate) -> Runnable:
        """A candidate as it runs; raises ConversionError where the runtime does not take it."""
        if self._last is None or self._last[0] != candidate:
            self._last = (candidate, self._made(candidate))
        return self._last[1]

    def full(self) -> Runnable:
        """The full network as it runs."""
        if self._full is None:
            eager = self.deployment.is_eager_float32
            self._full = self._supernet.model if eager else self._made(self._supernet.space.full())
        return self._full

    def _made(self, candidate: Candidate) -> Runnable:
        module = self._supernet.extract(candidate).eval()
        if self.deployment.is_eager_float32:
            return module
        return self.deployment.runner(module, self.row, write=self._write)

    def memory_mib(self, candidate: Candidate) -> float:
        """Largest resident memory of a fresh process that loads a candidate's files and runs one input, in MiB."""
        module = self._supernet.extract(candidate).eval()
        with TemporaryDirectory() as scratch:
            deployed = deploy(module, self.deployment, Path(scratch), self.row, write=self._write)
            return memory_mib(deployed, self.row, network_class(module, None))

    def energy_mj(self) -> Callable[[Candidate], float]:
        """What measures the energy of one call; UserError where this machine has no counter that may be read."""
        meter = energy_meter()
        if meter is None:
            raise UserError(
                "energy_mj needs the energy counters of the processor (RAPL), which this machine does not have or does "
                "not let this user read; leave it out of --objectives"
            )
        return partial(self._energy, meter)

    def _energy(self, meter: Callable[[], Callable[[], float]], candidate: Candidate) -> float:
        """Millijoules of one call: the mean of several, since a counter is coarse. Idle power is part of it."""
        network = self(candidate)
        with undisturbed(self.deployment.threads):
            call(network, self.row)
            stop = meter()
            for _ in range(_ENERGY_CALLS):
                call(network, self.row)
            return stop() / _ENERGY_CALLS
