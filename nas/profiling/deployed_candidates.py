"""Score and size of candidates, measured on the files of their deployment."""

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
    """Writes the files of candidates in a deployment and measures them.

    The files of the last candidate are kept, because its score and its size are measured one after the other.

    Args:
        networks: extracts sub-networks, with their own batch-norm statistics.
        deployment: how the files are executed.
        example: inputs of two rows, by name.
        calibration: training rows as inputs of one row each, for INT8.
        rows: the validation rows of the search, on which the score is measured.
        factory: creates the full network if its class is not part of transformers.
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
        """Functions that measure those of the objectives `names` that depend on the files: the score and the size."""
        of_files: dict[str, MeasureAgain] = {self.rows.task.metric: self.score, "size_mib": self.size_mib}
        return {name: measure for name, measure in of_files.items() if name in names}

    def score(self, candidate: Candidate) -> float:
        """Score of a candidate's files, by the metric of the task; raises NotTaken if the runtime cannot run it."""
        return self.rows.task.score(predict(self._files(candidate).run, self.rows), self.rows)

    def size_mib(self, candidate: Candidate) -> float:
        """Size in MiB of the files that the runtime loads; raises as `score`."""
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
