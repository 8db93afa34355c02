"""Stop when the validation value does not get better, and end with the best weights."""

import math
from collections.abc import Sequence

from torch import nn

from nas.learning.checkpoint import Progress, put_tensors, trained_tensors


def stopped(evaluations: Sequence[tuple[int, float]], patience: int | None) -> bool:
    """Whether the last `patience` evaluations are not better than the best one before them (NaN is never better)."""
    if patience is None:
        return False
    best, waited = -float("inf"), 0
    for _, value in evaluations:
        best, waited = (value, 0) if value > best else (best, waited + 1)
    return waited >= patience


def add_evaluation(progress: Progress, module: nn.Module, step: int, value: float, *, keep: bool) -> None:
    """Note a value; with `keep`, keep a copy of the module's trained tensors when it is the best one so far."""
    if keep and not math.isnan(value) and not any(other >= value for _, other in progress.evaluations):
        progress.best = {name: tensor.detach().clone() for name, tensor in trained_tensors(module).items()}
    progress.evaluations.append((step, value))


def restore_best(progress: Progress, module: nn.Module) -> None:
    """Give the module the tensors of the best evaluation, where there are any."""
    put_tensors(module, progress.best)
