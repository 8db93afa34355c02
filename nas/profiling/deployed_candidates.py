"""Score and size of candidates, measured on the files of their deployment."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from hardware.backend import ConversionError, Runner
from hardware.deployment import Deployment
from hardware.resizing import Resizer
from nas.data.split import Split
from nas.errors import NotTaken, UserError
from nas.exporting.deployed import Deployed, deploy
from nas.exporting.network_files import Factory
from nas.networks.networks import Networks
from nas.objectives import ACCURACY
from nas.profiling.verification import MeasureAgain, Remeasuring
from nas.searching.estimation import Hits
from nas.searching.rescoring import Scorer
from search_spaces import Candidate
from search_spaces.inputs import Inputs
from search_spaces.quantization import architecture


@dataclass
class DeployedCandidates:
    """Writes the files of candidates in a deployment and measures them.

    The files of the last candidate are kept, because its score and its size are measured one after the other.

    Args:
        networks: extracts sub-networks, with their own batch-norm statistics, and says what each computes in.
        deployment: how the files are executed.
        example: inputs of two rows, by name.
        calibration: training rows as inputs of one row each, for INT8.
        rows: the validation rows on which the score is measured.
        factory: creates the full network if its class is not part of transformers.
    """

    networks: Networks
    deployment: Deployment
    example: Inputs
    calibration: Sequence[Inputs]
    rows: Split
    factory: Factory | None = None
    _write: Resizer = field(default_factory=Resizer, init=False, repr=False)
    _extracted: tuple[Candidate, nn.Module] | None = field(default=None, init=False, repr=False)
    _last: tuple[Candidate, Deployed, tempfile.TemporaryDirectory[str]] | None = field(
        default=None, init=False, repr=False
    )

    def __post_init__(self) -> None:
        self._backend = self.deployment.backend(self._write)
        self._score = Scorer(self.run, self.rows)

    @property
    def hits(self) -> dict[Candidate, Hits]:
        """Which rows each scored candidate has right; empty for a score that is not a share of rows."""
        return self._score.hits

    def measures(self, names: Sequence[str]) -> dict[str, MeasureAgain]:
        """Functions that measure those of the objectives `names` that depend on the files: the score and the size."""
        of_files: dict[str, MeasureAgain] = {self.rows.task.metric: self.score, "size_mib": self.size_mib}
        return {name: measure for name, measure in of_files.items() if name in names}

    def score(self, candidate: Candidate) -> float:
        """Score of a candidate's files, by the metric of the task; raises NotTaken if the runtime cannot run it."""
        return self._score(candidate)

    def size_mib(self, candidate: Candidate) -> float:
        """Size in MiB of the files that the runtime loads; raises as `score`."""
        return self._files(candidate).size_mib

    def run(self, candidate: Candidate) -> Runner:
        """A candidate's files, loaded; raises as `score`."""
        return self._files(candidate).run

    def _files(self, candidate: Candidate) -> Deployed:
        if self._last is not None and self._last[0] == candidate:
            return self._last[1]
        if self._last is not None:
            self._last[2].cleanup()
            self._last = None
        scratch = tempfile.TemporaryDirectory()
        try:
            deployed = deploy(
                self._network(candidate),
                self.deployment,
                Path(scratch.name),
                self.example,
                policy=self.networks.policy(candidate),
                factory=self.factory,
                calibration=self.calibration,
                backend=self._backend,
            )
        except (ConversionError, ValueError) as error:
            scratch.cleanup()
            if isinstance(error, UserError):
                raise
            raise NotTaken(f"{self.deployment.runtime} does not take this network: {error}") from error
        self._last = (candidate, deployed, scratch)
        return deployed

    def _network(self, candidate: Candidate) -> nn.Module:
        # A backend quantizes a network once for all policies of it.
        shape = architecture(candidate)
        if self._extracted is None or self._extracted[0] != shape:
            # Files are written from the processor, where the example is, wherever the super-network may be.
            self._extracted = (shape, self.networks.extract(candidate).cpu())
        return self._extracted[1]

    def close(self) -> None:
        """Remove the files of the last candidate."""
        if self._last is not None:
            self._last[2].cleanup()
            self._last = None


@contextmanager
def measures_of_files(
    networks: Networks,
    deployment: Deployment,
    rows: Split,
    names: Sequence[str],
    *,
    example: Inputs,
    calibration: Callable[[], Sequence[Inputs]],
    device: torch.device,
    searched_rows: int,
    threads: int | None = None,
    factory: Factory | None = None,
) -> Iterator[Remeasuring]:
    """What measures candidates as they are delivered.

    In eager PyTorch and float32 the networks are those of the search, so nothing is written and only the score is
    measured, on all rows.

    Args:
        networks: the sub-networks.
        deployment: what runs them.
        rows: all validation rows.
        names: the objectives of the search.
        example: inputs of two rows, by name.
        calibration: training rows as inputs of one row each, for INT8.
        device: that the super-network is on.
        searched_rows: how many of the rows the search scored candidates on.
        threads: of PyTorch where the networks are scored as they are.
        factory: creates the full network if its class is not part of transformers.
    """
    if deployment.is_eager_float32:
        scorer = Scorer(networks.forward, rows, device, threads)
        # Only a share of right rows is estimated; any other score was measured by the search.
        score = {rows.task.metric: scorer} if rows.task.metric == ACCURACY else {}
        measures = {name: measure for name, measure in score.items() if name in names}
        yield Remeasuring(measures, scorer.hits, frozenset(measures), searched_rows)
        return
    rounded = calibration() if deployment.is_quantized else ()
    files = DeployedCandidates(networks, deployment, example, rounded, rows, factory)
    try:
        # In float32 the files hold the networks that the search scored; another precision does not compare with these.
        same = searched_rows if deployment.precision == "float32" else None
        yield Remeasuring(files.measures(names), files.hits, searched_rows=same, run=files.run)
    finally:
        files.close()
