"""How to train: the settings of a training run, checked, and what follows from them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch

from nas.errors import UserError
from nas.learning.optimizer import AdamW, Optimizer
from nas.learning.schedule import Linear, Schedule
from nas.settings import TrainingSettings

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
_KINDS = {"optimizer": get_args(Optimizer), "schedule": get_args(Schedule)}
_WITHOUT_INFLUENCE = ("checkpoint_every_s", "device", "trackers")
"""Settings that may change when a run is resumed."""


@dataclass(frozen=True)
class TrainingConfig(TrainingSettings):
    """How to train: what `TrainingSettings` says, the seed and the device; `trackers` has no influence on the result.

    Raises:
        UserError: a number is out of its range, or the optimizer or the schedule is not one of this package.
    """

    once_constant: ClassVar[Mapping[str, Any]] = {"optimizer": AdamW(), "schedule": Linear()}
    """What all runs had before these were settings; the identity of a run says them only where they are others."""

    clip_norm: float = 1.0
    """Largest norm of the gradient; `math.inf`: any."""
    seed: int = 0
    """Of batches, dropout and candidates."""
    device: Literal["auto", "cpu"] = "auto"
    """Where the network is trained; auto takes a GPU when there is one."""
    optimizer: Optimizer = field(default_factory=AdamW)
    """What makes a step of the gradient: `AdamW()`, or e.g. `Sgd(momentum=0.9, nesterov=True)`."""
    schedule: Schedule = field(default_factory=Linear)
    """How the learning rate falls after it has warmed up (`warmup_share`): `Linear()` or `Cosine()`."""

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
        for name, kinds in _KINDS.items():
            if not isinstance(getattr(self, name), kinds):
                known = " or ".join(f"{kind.__name__}(...)" for kind in kinds)
                raise UserError(f"{name} must be {known} of nas.learning, got {getattr(self, name)!r}")

    def epoch_steps(self, rows: int) -> int:
        """Optimizer steps of one pass over this many training rows."""
        return -(-rows // self.batch_size)

    def total_steps(self, rows: int) -> int:
        """Optimizer steps over this many training rows."""
        return self.steps or self.epochs * self.epoch_steps(rows)

    def device_of(self, process: torch.device) -> torch.device:
        """Where networks compute in a process whose own device is `process`."""
        return torch.device("cpu") if self.device == "cpu" else process

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context in which networks compute on a device in `mixed_precision`."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.mixed_precision == "bf16")

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step (1 .. steps)."""
        warmup = round(self.warmup_share * steps)
        if step <= warmup:
            return self.learning_rate * step / warmup
        return self.schedule.rate(self.learning_rate, step - warmup, steps - warmup)

    def identity(self) -> str:
        """The settings that decide the outcome of a run, as JSON."""
        kept = {name: value for name, value in vars(self).items() if name not in _WITHOUT_INFLUENCE}
        for name, constant in self.once_constant.items():
            value = kept.pop(name)
            if value != constant:
                kept[name] = repr(value)
        return json.dumps(kept, sort_keys=True)
