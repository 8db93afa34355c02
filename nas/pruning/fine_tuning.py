"""The last training of a pruned network as a whole: the labels, and the original as its teacher."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from nas.data.accuracy import logits_of
from nas.data.tasks import Task
from nas.learning.teachers.frozen import LogitsOf
from nas.learning.training import LossOf

ALPHA, TEMPERATURE = 0.3, 4.0
"""Weight of the labels, and temperature of the distillation."""


def distilled_loss(task: Task, teacher: LogitsOf, alpha: float = ALPHA, temperature: float = TEMPERATURE) -> LossOf:
    """Loss of a network that learns from labels and from a frozen teacher (Hinton et al., arXiv 1503.02531).

    Args:
        task: of the rows.
        teacher: gives the logits of a batch.
        alpha: weight (0..1) of the loss of the labels; that of the distillation is the rest.
        temperature: of the distillation.
    """

    def loss_of(forward: Callable[..., Any], batch: Mapping[str, Tensor], targets: Tensor, step: int) -> Tensor:
        logits = logits_of(forward(**batch))
        distillation = task.distillation(logits, teacher(batch), targets, temperature)
        return alpha * task.loss(logits, targets) + (1 - alpha) * distillation

    return loss_of
