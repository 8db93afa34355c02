"""How to train: the settings that every training run has."""

from dataclasses import dataclass
from typing import Literal

from nas.errors import UserError

_LOWEST = {
    "epochs": 1,
    "steps": 1,
    "batch_size": 1,
    "accumulate": 1,
    "patience": 1,
    "evaluate_every": 1,
    "seed": 0,
    "weight_decay": 0,
    "warmup_share": 0,
    "label_smoothing": 0,
    "checkpoint_every_s": 0,
}
_ABOVE_ZERO = ("learning_rate", "clip_norm", "layer_decay")
_HIGHEST = {"warmup_share": 1, "layer_decay": 1}


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Args:
        epochs: passes over the training rows, when `steps` is not given.
        steps: optimizer steps.
        batch_size: rows of a step, over all processes.
        accumulate: parts in which a process computes its rows of a step, one after the other, to save memory; the
            gradient is that of the undivided rows (batch norms see the parts, as they see the processes).
        learning_rate: highest one; it rises over the warm-up and then falls to zero, both linearly.
        layer_decay: a block has the learning rate of the block above it times this (1: all the same).
        weight_decay: of AdamW, on matrices only (not on biases and norms).
        warmup_share: part of the steps.
        clip_norm: largest norm of the gradient.
        label_smoothing: part of a label's weight that goes to all classes alike, in 0 .. 1 (1 excluded).
        freeze_embeddings: leave the parameters of every `nn.Embedding` as they are.
        augment: mirror and shift images at random while training.
        patience: stop after so many evaluations in a row that are not better than the best one, and end with the best
            weights; None: go on to the end, with the last weights.
        evaluate_every: steps between two evaluations; None: once an epoch.
        seed: of batches, dropout and candidates.
        checkpoint_every_s: seconds between two checkpoints; has no influence on the result.
        mixed_precision: bf16 runs the forward pass in bfloat16 where that is safe; the weights stay float32.
        trackers: where accelerate reports to, e.g. ("tensorboard",); has no influence on the result.
        device: auto takes a GPU when there is one.

    Raises:
        UserError: a number is out of its range.
    """

    epochs: int = 4
    steps: int | None = None
    batch_size: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-4
    layer_decay: float = 1.0
    weight_decay: float = 0.01
    warmup_share: float = 0.1
    clip_norm: float = 1.0
    label_smoothing: float = 0.0
    freeze_embeddings: bool = False
    augment: bool = False
    patience: int | None = None
    evaluate_every: int | None = None
    seed: int = 0
    checkpoint_every_s: float = 60.0
    mixed_precision: Literal["no", "bf16"] = "no"
    trackers: tuple[str, ...] = ()
    device: Literal["auto", "cpu"] = "auto"

    def __post_init__(self) -> None:
        given = {name: value for name in _LOWEST if (value := getattr(self, name)) is not None}
        for name, value in given.items():
            if not value >= _LOWEST[name]:
                raise UserError(f"{name} must be at least {_LOWEST[name]}, got {value}")
        for name in _ABOVE_ZERO:
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0, got {getattr(self, name)}")
        for name, bound in _HIGHEST.items():
            if getattr(self, name) > bound:
                raise UserError(f"{name} must be at most {bound}, got {getattr(self, name)}")
        if self.label_smoothing >= 1:
            raise UserError(f"label_smoothing must be below 1, got {self.label_smoothing}")
        if self.accumulate > self.batch_size:
            raise UserError(f"accumulate must be at most batch_size ({self.batch_size}), got {self.accumulate}")

    def epoch_steps(self, rows: int) -> int:
        """Optimizer steps of one pass over this many training rows."""
        return -(-rows // self.batch_size)

    def total_steps(self, rows: int) -> int:
        """Optimizer steps over this many training rows."""
        return self.steps or self.epochs * self.epoch_steps(rows)

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step (1 .. steps)."""
        warmup = round(self.warmup_share * steps)
        if step <= warmup:
            return self.learning_rate * step / warmup
        return self.learning_rate * (steps - step + 1) / (steps - warmup)
