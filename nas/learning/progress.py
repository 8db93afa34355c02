"""What a progress bar shows of a fine-tuning."""

from nas.console import Bar
from nas.learning.training import Step

_SMOOTHING = 0.95


class TrainingFigures:
    """Called with every step: shows the loss, smoothed, and the learning rate."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._loss: float | None = None

    def __call__(self, step: Step) -> None:
        """One more step is done."""
        before = step.loss if self._loss is None else self._loss
        self._loss = _SMOOTHING * before + (1 - _SMOOTHING) * step.loss
        self._bar.update(step.step, f"loss {self._loss:.3f}, learning rate {step.learning_rate:.1e}")
