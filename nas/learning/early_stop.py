"""Early stopping: stop training when the validation value no longer improves, and restore the best weights."""

import math
from collections.abc import Sequence

from torch import nn

from nas.learning.checkpoint import Progress, put_tensors, trained_tensors


def stopped(evaluations: Sequence[tuple[int, float]], patience: int | None) -> bool:
    """Whether training should stop.

    Args:
        evaluations: (step, value) of all evaluations so far; higher is better and NaN is never better.
        patience: number of evaluations in a row without improvement after which training stops; None: never.
    """
    if patience is None:
        return False
    best, waited = -float("inf"), 0
    for _, value in evaluations:
        best, waited = (value, 0) if value > best else (best, waited + 1)
    return waited >= patience


def add_evaluation(progress: Progress, module: nn.Module, step: int, value: float, *, keep: bool) -> None:
    """Record an evaluation.

    Args:
        progress: the progress of the run; it is changed.
        module: the module that was evaluated.
        step: number of the step.
        value: the validation value; higher is better.
        keep: whether to copy the module's trained tensors if the value is the best one so far.
    """
    if keep and not math.isnan(value) and not any(other >= value for _, other in progress.evaluations):
        progress.best = {name: tensor.detach().clone() for name, tensor in trained_tensors(module).items()}
    progress.evaluations.append((step, value))


def restore_best(progress: Progress, module: nn.Module) -> None:
    """Load the trained tensors of the best evaluation into the module; without such tensors, leave it unchanged."""
    put_tensors(module, progress.best)
