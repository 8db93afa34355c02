"""Measuring candidates in one deployment, each beside the full network."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hardware.backend import Backend, ConversionError, Runner
from hardware.deployment import Deployment
from hardware.inputs import Inputs, device_of, map_inputs
from hardware.profile import MeasurementProtocol, Timing
from hardware.protocol import measure_beside
from hardware.resizing import Resizer
from nas.errors import NotTaken, UserError
from nas.profiling.subject import Subject
from nas.settings import ProfileSettings
from search_spaces import Candidate

RATIO_TOLERANCE = ProfileSettings.tolerance
"""Half of the 95 % interval of a ratio to the full network, relative to it, at which a row is stable."""


def rows_protocol(deployment: Deployment, tolerance: float = RATIO_TOLERANCE) -> MeasurementProtocol:
    """How rows are measured: in fewer rounds than a figure that stands alone, since a predictor averages over rows.

    One thread of a processor waits for nothing but the processor, so on an idle machine its CPU time is its wall time;
    on a busy one the wall time also holds the turns of other programs.
    """
    alone = deployment.threads == 1 and deployment.device == "cpu"
    return MeasurementProtocol(
        rounds=9,
        rounds_most=40,
        tolerance=tolerance,
        # Two windows of the warm-up hold fewer calls than the rounds do, so they differ by more.
        warmup_tolerance=4 * tolerance,
        clock="cpu" if alone else "wall",
    )


@dataclass
class Bench:
    """One deployment with the full network loaded, beside which candidates are measured.

    Args:
        subject: the network, and the inputs to measure with.
        deployment: what runs it.
        protocol: of every row, see `rows_protocol`.
    """

    subject: Subject
    deployment: Deployment
    protocol: MeasurementProtocol
    _write: Resizer = field(default_factory=Resizer, init=False, repr=False)
    _full: Runner | None = field(default=None, init=False, repr=False)

    @classmethod
    def of(cls, subject: Subject, deployment: Deployment, tolerance: float = RATIO_TOLERANCE) -> "Bench":
        """With the protocol of rows; UserError where the deployment cannot be used on this machine."""
        require(deployment)
        return cls(subject, deployment, rows_protocol(deployment, tolerance))

    def header(self, multiple_of: int = 1) -> dict[str, Any]:
        """The fields of a profile that are known before anything is measured, without machine and version."""
        subject, deployment = self.subject, self.deployment
        return {
            "model": subject.model,
            "runtime": deployment.runtime,
            "device": deployment.device,
            "precision": deployment.precision,
            "threads": deployment.threads,
            "batch": subject.batch,
            "tokens": subject.tokens,
            "shape": subject.shape,
            "protocol": self.protocol,
            "multiple_of": multiple_of,
        }

    def reference(self) -> Timing:
        """The full network beside itself; UserError where the runtime does not take it."""
        full = self._reference()
        return self._timed(full, full)

    def measure(self, candidate: Candidate) -> Timing:
        """A candidate beside the full network.

        Raises:
            NotTaken: the runtime does not take the candidate.
            UserError: the runtime does not take the full network.
        """
        full = self._reference()
        return self._timed(self._prepared(candidate), full)

    def beside_full(self, run: Runner) -> Timing:
        """What was loaded from files elsewhere, beside the full network; raises UserError as `measure`."""
        return self._timed(run, self._reference())

    def _timed(self, network: Runner, full: Runner) -> Timing:
        return measure_beside(network, full, self._inputs(), protocol=self.protocol, threads=self.deployment.threads)

    def _reference(self) -> Runner:
        if self._full is None:
            try:
                self._full = self._prepared(self.subject.supernet.space.full())
            except NotTaken as error:
                # Without it there is nothing to compare with.
                raise UserError(str(error)) from error
        return self._full

    def _inputs(self) -> Inputs:
        device = device_of(self.subject.supernet)
        return map_inputs(self.subject.inputs, lambda value: value.to(device))

    def convert(self, candidate: Candidate, folder: Path) -> tuple[Backend, Path]:
        """Write a candidate for the runtime into an existing folder; NotTaken where the runtime does not take it."""
        module = self.subject.supernet.extract(candidate).eval()
        deployment = self.deployment
        # A new one for each candidate: a PyTorch backend keeps every network that it converted.
        converter = deployment.backend(self._write)
        try:
            return converter, converter.convert(module, self._inputs(), folder, precision=deployment.dtype)
        except (ConversionError, ValueError) as error:
            raise NotTaken(f"{deployment.runtime} does not take this network: {error}") from error

    def _prepared(self, candidate: Candidate) -> Runner:
        deployment = self.deployment
        with tempfile.TemporaryDirectory() as scratch:
            converter, path = self.convert(candidate, Path(scratch))
            try:
                return converter.load(path, threads=deployment.threads, precision=deployment.dtype)
            except ValueError as error:
                raise NotTaken(f"{deployment.runtime} does not take this network: {error}") from error


def require(deployment: Deployment) -> None:
    """UserError, which says what to install, where a deployment's runtime cannot be used on this machine."""
    try:
        deployment.backend()
    except ValueError as error:
        raise UserError(str(error)) from error
