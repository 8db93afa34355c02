"""Measure candidates in one deployment, each relative to the full network."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hardware.backend import Backend, ConversionError, Runner
from hardware.deployment import Deployment
from hardware.inputs import device_of, map_inputs
from hardware.policy import Policy
from hardware.profile import MeasurementProtocol, Timing
from hardware.protocol import measure_beside
from hardware.resizing import Resizer
from nas.errors import NotTaken, UserError
from nas.profiling.subject import Subject
from nas.settings import ProfileSettings
from search_spaces import Candidate
from search_spaces.inputs import Inputs

RATIO_TOLERANCE = ProfileSettings.tolerance
"""A row is stable if the half-width of the 95 % interval of its ratio, relative to the ratio, is at most this."""


def rows_protocol(deployment: Deployment, tolerance: float = RATIO_TOLERANCE) -> MeasurementProtocol:
    """The protocol for the rows of a profile.

    A row needs fewer rounds than a figure that is reported alone, since a predictor averages over rows. For one thread
    on a processor the clock is CPU time: on an idle machine it equals the wall time, while on a busy machine the wall
    time also includes the time slices of other processes.
    """
    single_thread = deployment.threads == 1 and deployment.device == "cpu"
    return MeasurementProtocol(
        rounds=9,
        rounds_most=40,
        tolerance=tolerance,
        # The two windows of the warm-up have fewer calls than the rounds, so their medians vary more.
        warmup_tolerance=4 * tolerance,
        clock="cpu" if single_thread else "wall",
    )


@dataclass
class Bench:
    """Measures candidates in one deployment, alternating with the full network, which stays loaded.

    Args:
        subject: the super-network and the inputs to measure with.
        deployment: how the networks are executed.
        protocol: how each row is measured, see `rows_protocol`.
    """

    subject: Subject
    deployment: Deployment
    protocol: MeasurementProtocol
    _write: Resizer = field(default_factory=Resizer, init=False, repr=False)
    _full: Runner | None = field(default=None, init=False, repr=False)

    @classmethod
    def of(cls, subject: Subject, deployment: Deployment, tolerance: float = RATIO_TOLERANCE) -> "Bench":
        """A bench with `rows_protocol`; raises UserError if this machine does not support the deployment."""
        require(deployment)
        return cls(subject, deployment, rows_protocol(deployment, tolerance))

    def header(self, multiple_of: int = 1) -> dict[str, Any]:
        """The fields of a profile that are known before measuring, except machine and version of the runtime."""
        subject, deployment = self.subject, self.deployment
        return {
            "model": subject.model,
            "runtime": deployment.runtime,
            "device": deployment.device,
            "precision": deployment.precision,
            "precisions": subject.precisions,
            "threads": deployment.threads,
            "batch": subject.batch,
            "tokens": subject.tokens,
            "shape": subject.shape,
            "protocol": self.protocol,
            "multiple_of": multiple_of,
        }

    def reference(self) -> Timing:
        """Measure the full network beside itself; raises UserError if the runtime does not support it."""
        full = self._reference()
        return self._timed(full, full)

    def measure(self, candidate: Candidate) -> Timing:
        """Measure a candidate beside the full network.

        Raises:
            NotTaken: the runtime does not support the candidate.
            UserError: the runtime does not support the full network.
        """
        full = self._reference()
        return self._timed(self._prepared(candidate), full)

    def beside_full(self, run: Runner) -> Timing:
        """Measure a network that was loaded elsewhere beside the full network; raises UserError as `measure`."""
        return self._timed(run, self._reference())

    def _timed(self, network: Runner, full: Runner) -> Timing:
        return measure_beside(network, full, self._inputs(), protocol=self.protocol, threads=self.deployment.threads)

    def _reference(self) -> Runner:
        if self._full is None:
            try:
                self._full = self._prepared(self.subject.whole.full())
            except NotTaken as error:
                # Not a fault of one candidate: without the full network no candidate can be measured.
                raise UserError(str(error)) from error
        return self._full

    def _inputs(self) -> Inputs:
        device = self._device()
        return map_inputs(self.subject.inputs, lambda value: value.to(device))

    def _device(self) -> torch.device:
        return self.deployment.near(device_of(self.subject.supernet))

    def convert(self, candidate: Candidate, folder: Path) -> tuple[Backend, Path]:
        """Convert a candidate into an existing folder.

        Returns:
            The backend that can load it, and the path of the file.

        Raises:
            NotTaken: the runtime does not support the candidate.
        """
        module = self.subject.supernet.extract(candidate).eval().to(self._device())
        deployment = self.deployment
        # A new backend for each candidate: a PyTorch backend keeps every network that it has converted in memory.
        converter = deployment.backend(self._write)
        try:
            return converter, converter.convert(module, self._inputs(), folder, precision=self._numbers(candidate))
        except (ConversionError, ValueError) as error:
            raise NotTaken(f"{deployment.runtime} does not take this network: {error}") from error

    def _numbers(self, candidate: Candidate) -> torch.dtype | Policy:
        return self.deployment.numbers(self.subject.policy(candidate))

    def _prepared(self, candidate: Candidate) -> Runner:
        deployment = self.deployment
        with tempfile.TemporaryDirectory() as scratch:
            converter, path = self.convert(candidate, Path(scratch))
            try:
                return converter.load(path, threads=deployment.threads, precision=self._numbers(candidate))
            except ValueError as error:
                raise NotTaken(f"{deployment.runtime} does not take this network: {error}") from error


def require(deployment: Deployment) -> None:
    """Raise UserError, which says what to install, if the runtime of a deployment cannot be used on this machine."""
    try:
        deployment.backend()
    except ValueError as error:
        raise UserError(str(error)) from error
