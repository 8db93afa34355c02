"""Candidates as the files of their deployment: what the files score, and how large they are."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hardware.backend import ConversionError
from hardware.deployment import Deployment
from hardware.inputs import Inputs
from hardware.resizing import Resizer
from nas.data.accuracy import predict
from nas.data.split import Split
from nas.errors import NotTaken, UserError
from nas.exporting.deployed import Deployed, deploy
from nas.exporting.network_files import Factory
from nas.networks.recalibration import SubNetworks
from nas.profiling.verification import MeasureAgain
from search_spaces import Candidate


@dataclass
class DeployedCandidates:
    """Writes candidates in a deployment and measures the files. One candidate's files are kept at a time.

    Args:
        networks: the sub-networks, with batch-norm statistics of their own.
        deployment: what runs the files.
        example: an input by name, of two rows.
        calibration: training rows as inputs of one row each, for INT8.
        rows: that the score is of: those of the search.
        factory: makes the full network of a class that transformers does not have.
    """

    networks: SubNetworks
    deployment: Deployment
    example: Inputs
    calibration: Sequence[Inputs]
    rows: Split
    factory: Factory | None = None
    _write: Resizer = field(default_factory=Resizer, init=False, repr=False)
    _last: tuple[Candidate, Deployed, tempfile.TemporaryDirectory[str]] | None = field(
        default=None, init=False, repr=False
    )

    def measures(self, names: Sequence[str]) -> dict[str, MeasureAgain]:
        """What measures those of the objectives `names` that files decide, by name: the score, and the size."""
        of_files: dict[str, MeasureAgain] = {self.rows.task.metric: self.score, "size_mib": self.size_mib}
        return {name: measure for name, measure in of_files.items() if name in names}

    def score(self, candidate: Candidate) -> float:
        """By the metric of the task; raises NotTaken where the runtime does not take the candidate."""
        return self.rows.task.score(predict(self._files(candidate).run, self.rows), self.rows)

    def size_mib(self, candidate: Candidate) -> float:
        """Of the files that the runtime loads; raises as `score`."""
        return self._files(candidate).size_mib

    def _files(self, candidate: Candidate) -> Deployed:
        if self._last is not None and self._last[0] == candidate:
            return self._last[1]
        if self._last is not None:
            self._last[2].cleanup()
            self._last = None
        scratch = tempfile.TemporaryDirectory()
        try:
            deployed = deploy(
                self.networks.extract(candidate),
                self.deployment,
                Path(scratch.name),
                self.example,
                factory=self.factory,
                calibration=self.calibration,
                write=self._write,
            )
        except (ConversionError, ValueError) as error:
            scratch.cleanup()
            if isinstance(error, UserError):
                raise
            raise NotTaken(f"{self.deployment.runtime} does not take this network: {error}") from error
        self._last = (candidate, deployed, scratch)
        return deployed

    def close(self) -> None:
        """Remove the files of the last candidate."""
        if self._last is not None:
            self._last[2].cleanup()
            self._last = None
