"""Measuring candidates in one runtime, each beside the full network."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from hardware.backend import PRECISIONS, Backend, ConversionError, Runner
from hardware.inputs import Inputs, device_of, map_inputs
from hardware.profile import Precision, Protocol, Timing
from hardware.protocol import measure_beside
from hardware.registry import backend
from hardware.resizing import Resizer
from nas.errors import NotTaken, UserError
from nas.profiling.subject import Subject
from search_spaces import Candidate

TOLERANCE = 0.04
_LIBRARIES = {"pytorch": "torch"}


@dataclass(frozen=True)
class Target:
    """Where and how something is measured: what a profile is asked for besides the network."""

    runtime: str = "pytorch"
    precision: Precision = "float32"
    threads: int = 1
    device: str = "cpu"

    def version(self) -> str:
        """Of the runtime's library, which is installed."""
        return version(_LIBRARIES.get(self.runtime, self.runtime))

    def maker(self) -> Callable[[], Backend]:
        """What gives the runtime anew; UserError where it cannot be used here: the sentence says what to install."""
        writer = Resizer()

        def make() -> Backend:
            try:
                return backend(self.runtime, device=self.device, write=writer)
            except ValueError as error:
                raise UserError(str(error)) from error

        make()
        return make


def rows_protocol(target: Target, tolerance: float = TOLERANCE) -> Protocol:
    """How rows are measured: in fewer rounds than a figure that stands alone, since a predictor averages over rows.

    One thread of a processor waits for nothing but the processor, so on an idle machine its CPU time is its wall time;
    on a busy one the wall time also holds the turns of other programs. Warming up may leave a few times of what
    measuring may.
    """
    alone = target.threads == 1 and target.device == "cpu"
    return Protocol(
        rounds=9,
        rounds_most=40,
        tolerance=tolerance,
        warmup_tolerance=4 * tolerance,
        clock="cpu" if alone else "wall",
    )


@dataclass
class Bench:
    """One runtime with the full network loaded, beside which candidates are measured.

    Args:
        subject: what is measured.
        target: the runtime, its precision and threads.
        make: gives the runtime anew, see `Target.maker`: one of them would keep every network that it was given.
        protocol: of every row, see `rows_protocol`.
    """

    subject: Subject
    target: Target
    make: Callable[[], Backend]
    protocol: Protocol
    _full: Runner | None = field(default=None, init=False, repr=False)

    @classmethod
    def of(cls, subject: Subject, target: Target, tolerance: float = TOLERANCE) -> "Bench":
        """With the protocol of rows; UserError where the runtime cannot be used here."""
        return cls(subject, target, target.maker(), rows_protocol(target, tolerance))

    def header(self, multiple_of: int = 1) -> dict[str, Any]:
        """What a profile says that is made with it, before anything is measured; the machine and version aside."""
        subject, target = self.subject, self.target
        return {
            "model": subject.model,
            "runtime": target.runtime,
            "device": target.device,
            "precision": target.precision,
            "threads": target.threads,
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
            NotTaken: by the runtime, of the candidate.
            UserError: the runtime does not take the full network.
        """
        full = self._reference()
        return self._timed(self._prepared(candidate), full)

    def _timed(self, network: Runner, full: Runner) -> Timing:
        return measure_beside(network, full, self._inputs(), protocol=self.protocol, threads=self.target.threads)

    def _reference(self) -> Runner:
        if self._full is None:
            try:
                self._full = self._prepared(self.subject.supernet.space.largest())
            except NotTaken as error:
                # Without it there is nothing to compare with.
                raise UserError(str(error)) from error
        return self._full

    def _inputs(self) -> Inputs:
        device = device_of(self.subject.supernet)
        return map_inputs(self.subject.inputs, lambda value: value.to(device))

    def convert(self, candidate: Candidate, folder: Path) -> tuple[Backend, Path]:
        """Write a candidate for the runtime into an existing folder; NotTaken where the runtime does not take it."""
        module: nn.Module = self.subject.supernet.extract(candidate).eval()
        runtime, precision = self.make(), PRECISIONS[self.target.precision]
        try:
            return runtime, runtime.convert(module, self._inputs(), folder, precision=precision)
        except (ConversionError, ValueError) as error:
            raise NotTaken(f"{self.target.runtime} does not take this network: {error}") from error

    def _prepared(self, candidate: Candidate) -> Runner:
        with tempfile.TemporaryDirectory() as scratch:
            runtime, path = self.convert(candidate, Path(scratch))
            try:
                return runtime.load(path, threads=self.target.threads, precision=PRECISIONS[self.target.precision])
            except ValueError as error:
                raise NotTaken(f"{self.target.runtime} does not take this network: {error}") from error
