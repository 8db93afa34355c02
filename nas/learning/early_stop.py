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
    best = best_step(evaluations)
    waited = sum(best is None or step > best for step, _ in evaluations)
    return waited >= patience


def best_step(evaluations: Sequence[tuple[int, float]]) -> int | None:
    """The step of the best evaluation, of equal ones the first; None where no value is a number."""
    numbers = [(step, value) for step, value in evaluations if not math.isnan(value)]
    return max(numbers, key=lambda evaluation: evaluation[1])[0] if numbers else None


def add_evaluation(progress: Progress, module: nn.Module, step: int, value: float, *, keep: bool) -> None:
    """Record an evaluation.

    Args:
        progress: the progress of the run; it is changed.
        module: the module that was evaluated.
        step: number of the step.
        value: the validation value; higher is better.
        keep: whether to copy the module's trained tensors if the value is the best one so far.
    """
    progress.evaluations.append((step, value))
    if keep and best_step(progress.evaluations) == step:
        progress.best = {name: tensor.detach().clone() for name, tensor in trained_tensors(module).items()}


def restore_best(progress: Progress, module: nn.Module) -> int | None:
    """Load the trained tensors of the best evaluation into the module; without such tensors, leave it unchanged.

    Returns:
        The step of that evaluation, or None.
    """
    put_tensors(module, progress.best)
    return best_step(progress.evaluations)
