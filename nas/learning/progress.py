"""What a progress bar shows of a fine-tuning."""

from nas.console import Bar
from nas.learning.training import Step

_SMOOTHING = 0.95


class TrainingFigures:
    """Called with every step: shows the loss, smoothed, and the learning rate.

    Args:
        bar: that shows them.
        then: what follows the last step before the bar ends, which is shown with it; empty: nothing.
    """

    def __init__(self, bar: Bar, then: str = "") -> None:
        self._bar, self._then = bar, then
        self._loss: float | None = None

    def __call__(self, step: Step) -> None:
        """One more step is done."""
        before = step.loss if self._loss is None else self._loss
        self._loss = _SMOOTHING * before + (1 - _SMOOTHING) * step.loss
        then = f"; {self._then}" if self._then and step.step == step.steps else ""
        self._bar.update(step.step, f"loss {self._loss:.3f}, learning rate {step.learning_rate:.1e}{then}")
