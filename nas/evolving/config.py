"""Settings of EvoNorm."""

import hashlib
import json
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
    """Settings of EvoNorm, for slim networks on two cores as the command's; the paper's are in brackets.

    Args:
        series: `batch` for layers that may normalize over the batch, `sample` for those that may not.
        ageing: the evolution (a window of 2,500, tournaments of 5 %, half of all proposals random).
        rejection: the tests of a layer before it is scored, and into how many groups layers divide channels.
        proxy: training whose accuracies are what the evolution sees (about 2,000 steps).
        stop_below: a layer is trained in no further network when its accuracy is below those of all but this share
            (0..1) of the layers before it, see `nas.evolving.behind`; 0: every layer is trained in all. A larger share
            saves more, and loses more layers of the Pareto front.
        stop_after: as many layers must have been trained in a network before others are stopped by them.
        reranked: how many layers are trained longer at the end.
        longer: that training.
        seed: of every random draw.

    Raises:
        UserError: a setting is out of its range.
    """

    series: Series = "batch"
    ageing: AgeingConfig = field(default_factory=lambda: AgeingConfig(population=100))
    rejection: RejectionConfig = field(default_factory=RejectionConfig)
    proxy: TrainingConfig = field(default_factory=lambda: replace(TRAINING, steps=400))
    stop_below: float = 0.1
    stop_after: int = 20
    reranked: int = 5
    longer: TrainingConfig = field(default_factory=lambda: replace(TRAINING, steps=2000))
    seed: int = 0

    def __post_init__(self) -> None:
        if self.series not in SERIES:
            raise UserError(f"series must be {' or '.join(SERIES)}, got {self.series!r}")
        if not 0 <= self.rejection.least_accuracy <= 1:
            raise UserError(f"least_accuracy must be in 0..1, got {self.rejection.least_accuracy}")
        if not 0 <= self.stop_below < 1:
            raise UserError(f"stop_below must be at least 0 and below 1, got {self.stop_below}")
        check_counts(stop_after=self.stop_after, groups=self.rejection.groups, reranked=self.reranked)

    def identity(self) -> dict[str, Any]:
        """What decides the accuracies that the evolution sees, as JSON data."""
        return {
            "rejection": {**vars(self.rejection), "training": self.rejection.training.identity()},
            "proxy": self.proxy.identity(),
            "stop_below": self.stop_below,
            "stop_after": self.stop_after,
            "seed": self.seed,
        }

    def fingerprint(self) -> str:
        """Of `identity`: a study goes on with the same one only."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]
