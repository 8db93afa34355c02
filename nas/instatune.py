"""InstaTune (arXiv 2308.15609): one fine-tuning that makes a pre-trained network a super-network.

Equation 1 in its low-cost form (gamma = 0): every step trains the full network and `samples` random sub-networks, and
the full network teaches the sub-networks of the same step; no second teacher network.

Differs: the distillation term is multiplied by the squared temperature, and the temperature is 5, as in the authors'
code for BEiT-3 (the equation names a temperature and gives neither); gamma = 1 (a strong teacher) is left out; the full
network's cross-entropy has weight 1, where the equation has alpha: with alpha, a short fine-tuning can fall into the
distillation's other minimum, one output for every row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from nas.errors import UserError
from nas.sampling import Sampling, Sandwich, Uniform
from nas.split import Split
from nas.training import Batch, History, Step, TrainingConfig, fit, logits_of
from search_spaces import Supernet


@dataclass(frozen=True)
class InstaTuneConfig(TrainingConfig):
    """How to fine-tune a super-network: everything of `TrainingConfig`, and the loss.

    `samples=0` with uniform sampling is plain fine-tuning of the full network through the same loop.

    Args:
        samples: random sub-networks a step (M of the paper).
        sampling: uniform is the paper's; sandwich trains the smallest sub-network at every step too.
        alpha: weight of a sub-network's cross-entropy, in 0..1; the rest is distillation.
        full_weight: weight of the full network's cross-entropy; alpha in the paper.
        temperature: of the distillation (the paper is silent; its code has 5).
    """

    samples: int = 1
    sampling: Literal["uniform", "sandwich"] = "uniform"
    alpha: float = 0.3
    full_weight: float = 1.0
    temperature: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 0:
            raise UserError(f"samples must be at least 0, got {self.samples}")
        if not 0 < self.alpha <= 1:
            raise UserError(f"alpha must be above 0 and at most 1, got {self.alpha}")
        if not self.full_weight > 0:
            raise UserError(f"full_weight must be above 0, got {self.full_weight}")
        if not self.temperature > 0:
            raise UserError(f"temperature must be above 0, got {self.temperature}")


def instatune(
    supernet: Supernet,
    train: Split,
    config: InstaTuneConfig | None = None,
    *,
    checkpoint: Path | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> History:
    """Fine-tune a super-network in place; it is never searched here.

    Args:
        supernet: with its units already in order of importance.
        train: the training rows.
        config: None: the defaults.
        checkpoint: folder to go on from and to write to; the result is bit-identical to that of a run never killed.
        on_step: told about every new step.

    Raises:
        UserError: no rows, or the checkpoint is damaged or belongs to another run.
        TrainingFailed: the loss is not finite.
    """
    config = config or InstaTuneConfig()
    largest = supernet.space.largest()
    sampling = _sampling(supernet, config)

    def loss_of(forward: Callable[..., Any], batch: Batch, labels: Tensor, step: int) -> Tensor:
        # 1. Draw the sub-networks, equal on all processes.
        candidates = [largest, *sampling.draw(step)]
        # 2. One call for all of them; the full network first.
        full, *subs = (logits_of(output).float() for output in forward(candidates, **batch))
        # 3. Equation 1 with gamma = 0, and a weight of its own for the full network.
        loss = config.full_weight * cross_entropy(full, labels)
        teacher = softmax(full.detach() / config.temperature, dim=-1)
        for sub in subs:
            student = log_softmax(sub / config.temperature, dim=-1)
            distilled = config.temperature**2 * kl_div(student, teacher, reduction="batchmean")
            loss = loss + config.alpha * cross_entropy(sub, labels) + (1 - config.alpha) * distilled
        return loss

    return fit(supernet, train, loss_of, config, checkpoint=checkpoint, on_step=on_step)


def _sampling(supernet: Supernet, config: InstaTuneConfig) -> Sampling:
    kind = {"uniform": Uniform, "sandwich": Sandwich}[config.sampling]
    return kind(supernet.space, config.samples, config.seed)
