"""Settings of EvoNorm."""

from dataclasses import dataclass, field, replace
from typing import Any

from nas.errors import UserError
from nas.evolving.quality import TRAINING
from nas.evolving.rejection import RejectionConfig
from nas.learning.training_config import TrainingConfig
from nas.searching.ageing import AgeingConfig
from nas.searching.evaluation import check_counts
from search_spaces.graphs.operations import SERIES, Series


@dataclass(frozen=True)
class EvoNormConfig:
    """Settings of EvoNorm; the evolution is the paper's, the trainings are for two cores.

    Args:
        series: `batch` for layers that may normalize over the batch, `sample` for those that may not.
        ageing: the evolution (the paper: a window of 2,500, tournaments of 5 %, half of all proposals random).
        rejection: the tests of a layer before it is scored, and into how many groups layers divide channels.
        proxy: training whose accuracies are what the evolution sees.
        reranked: how many layers are trained longer at the end.
        longer: that training.
        seed: of every random draw.

    Raises:
        UserError: a setting is out of its range.
    """

    series: Series = "batch"
    ageing: AgeingConfig = field(default_factory=AgeingConfig)
    rejection: RejectionConfig = field(default_factory=RejectionConfig)
    proxy: TrainingConfig = field(default_factory=lambda: replace(TRAINING, steps=2000))
    reranked: int = 10
    longer: TrainingConfig = field(default_factory=lambda: replace(TRAINING, steps=8000))
    seed: int = 0

    def __post_init__(self) -> None:
        if self.series not in SERIES:
            raise UserError(f"series must be {' or '.join(SERIES)}, got {self.series!r}")
        if not 0 <= self.rejection.least_accuracy <= 1:
            raise UserError(f"least_accuracy must be in 0..1, got {self.rejection.least_accuracy}")
        check_counts(groups=self.rejection.groups, reranked=self.reranked)

    def identity(self) -> dict[str, Any]:
        """What decides the accuracies that the evolution sees, as JSON data."""
        return {
            "rejection": {**vars(self.rejection), "training": self.rejection.training.identity()},
            "proxy": self.proxy.identity(),
            "seed": self.seed,
        }
