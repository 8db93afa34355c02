"""Settings of EMO-PMS."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from nas.errors import UserError
from nas.learning.optimizer import Sgd
from nas.learning.schedule import Cosine
from nas.learning.training_config import TrainingConfig
from nas.pruning.inheritance import Inheritance
from nas.records import Scalar
from nas.searching.evaluation import check_counts
from nas.searching.nsga2 import Nsga2Config

Cost = Literal["parameters", "macs"]
_SGD = Sgd(momentum=0.9, nesterov=True, decay_all=True)


def cnn_training(epochs: int, learning_rate: float = 0.05, **more: Any) -> TrainingConfig:
    """How CNNs are trained here: SGD with Nesterov's momentum, weight decay on all weights, and a cosine.

    Args:
        epochs: passes over the rows.
        learning_rate: its peak.
        more: further settings of `TrainingConfig`.

    Raises:
        UserError: a setting is out of its range.
    """
    usual = {"batch_size": 64, "weight_decay": 1e-4, "warmup_share": 0.0, "optimizer": _SGD, "schedule": Cosine()}
    return TrainingConfig(**{**usual, "epochs": epochs, "learning_rate": learning_rate, **more})


@dataclass(frozen=True)
class EmoPmsConfig:
    """Settings of EMO-PMS; budget and populations are the paper's for ResNet-56 and ResNet-110, the rest is ours.

    Args:
        budget: forms of each sub-network that are trained (the paper: 180).
        nsga2: the evolution of each sub-network (the paper: 40 and then 20 a generation).
        cost: what is saved, against the error.
        inheritance: which channels a form begins with; `random` is the paper's.
        form_rows: training rows that each form is trained on, the same for all; None: all that the detectors have.
        constrained: whether forms are held to the original's features (equation 9).
        detectors: training of the feature detectors.
        forms: training of each form.
        final: training of a whole pruned network.
        multiple_of: channel counts are multiples of it.
        keep: patterns of module paths whose channels are not cut.
        seed: of every random draw.

    Raises:
        UserError: a setting is out of its range.
    """

    budget: int = 180
    nsga2: Nsga2Config = field(default_factory=lambda: Nsga2Config(population=40, offspring=20))
    cost: Cost = "parameters"
    inheritance: Inheritance = "importance"
    form_rows: int | None = None
    constrained: bool = True
    detectors: TrainingConfig = field(default_factory=lambda: cnn_training(10, 0.1))
    forms: TrainingConfig = field(default_factory=lambda: cnn_training(1, 0.3))
    final: TrainingConfig = field(default_factory=lambda: cnn_training(20))
    multiple_of: int = 1
    keep: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(budget=self.budget, multiple_of=self.multiple_of, form_rows=self.form_rows)
        for name, known in (("cost", get_args(Cost)), ("inheritance", get_args(Inheritance))):
            if getattr(self, name) not in known:
                raise UserError(f"{name} must be {' or '.join(known)}, got {getattr(self, name)!r}")

    def identity(self) -> dict[str, Scalar | list[str]]:
        """What decides the features, the detectors and the result of each form, as JSON data."""
        return {
            "cost": self.cost,
            "inheritance": self.inheritance,
            "form_rows": self.form_rows,
            "constrained": self.constrained,
            "detectors": self.detectors.identity(),
            "forms": self.forms.identity(),
            "multiple_of": self.multiple_of,
            "keep": list(self.keep),
            "seed": self.seed,
        }
