"""The one training loop: devices, precision and processes by `accelerate`; resumes bit by bit after a kill."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nas.accuracy import PairedDifference, accuracy, logits_of, paired_difference, predict
from nas.checkpoint import Row, load_checkpoint, model_fingerprint, save_checkpoint
from nas.errors import UserError
from nas.seeds import generator, torch_seed
from nas.split import IntArray, Split

__all__ = [
    "History",
    "PairedDifference",
    "Step",
    "TrainingConfig",
    "TrainingFailed",
    "accuracy",
    "cross_entropy",
    "fine_tune",
    "fit",
    "logits_of",
    "paired_difference",
    "predict",
]

Batch = Mapping[str, Tensor]
LossOf = Callable[[Callable[..., Any], Batch, Tensor, int], Tensor]
"""(forward, keyword inputs, labels (rows,), step from 1) -> mean loss of the rows, a scalar."""


class TrainingFailed(RuntimeError):
    """The loss is no longer a number; the message names the step. The weights are those before that step."""


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Args:
        epochs: passes over the training rows, when `steps` is not given.
        steps: optimizer steps.
        batch_size: rows of a step, over all processes.
        learning_rate: highest one; it rises over the warm-up and then falls to zero, both linearly.
        weight_decay: of AdamW, on matrices only (not on biases and norms).
        warmup_share: part of the steps.
        clip_norm: largest norm of the gradient.
        freeze_embeddings: leave the parameters of every `nn.Embedding` as they are.
        seed: of batches, dropout and candidates.
        checkpoint_every_s: seconds between two checkpoints; has no influence on the result.
        mixed_precision: bf16 runs the forward pass in bfloat16 where that is safe; the weights stay float32.
        device: auto takes a GPU when there is one.
    """

    epochs: int = 4
    steps: int | None = None
    batch_size: int = 32
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warmup_share: float = 0.1
    clip_norm: float = 1.0
    freeze_embeddings: bool = False
    seed: int = 0
    checkpoint_every_s: float = 60.0
    mixed_precision: Literal["no", "bf16"] = "no"
    device: Literal["auto", "cpu"] = "auto"

    def __post_init__(self) -> None:
        lowest = {
            "epochs": 1,
            "batch_size": 1,
            "seed": 0,
            "weight_decay": 0,
            "warmup_share": 0,
            "checkpoint_every_s": 0,
        }
        if self.steps is not None:
            lowest["steps"] = 1
        for name, bound in lowest.items():
            if not getattr(self, name) >= bound:
                raise UserError(f"{name} must be at least {bound}, got {getattr(self, name)}")
        for name in ("learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.warmup_share > 1:
            raise UserError(f"warmup_share must be at most 1, got {self.warmup_share}")

    def total_steps(self, rows: int) -> int:
        """Optimizer steps over this many training rows."""
        return self.steps or self.epochs * -(-rows // self.batch_size)

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of a step (1 .. steps)."""
        warmup = round(self.warmup_share * steps)
        if step <= warmup:
            return self.learning_rate * step / warmup
        return self.learning_rate * (steps - step + 1) / (steps - warmup)


@dataclass(frozen=True)
class Step:
    """One optimizer step that is done: `step` of `steps`, its mean loss, learning rate and duration."""

    step: int
    steps: int
    loss: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class History:
    """All steps of a training run, those before a resume too."""

    steps: tuple[Step, ...]


def fit(
    module: nn.Module,
    train: Split,
    loss_of: LossOf,
    config: TrainingConfig,
    *,
    checkpoint: Path | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> History:
    """Train a module in place with AdamW.

    What happens in a step follows from (seed, step) alone, so a run that was killed and started again with the same
    arguments ends with the same bits (on a CPU with the same number of threads; some GPU kernels are not repeatable).

    Args:
        module: on any device; it comes back on the same, in its mode, frozen parameters as they were.
        train: the rows.
        loss_of: calls the forward once and makes the loss.
        config: all settings.
        checkpoint: folder to go on from and to write to.
        on_step: told about every new step, in the main process.

    Raises:
        UserError: no rows, or the checkpoint is damaged or belongs to another run.
        TrainingFailed: the loss or its gradient is not finite; the checkpoint holds the state before that step.
    """
    if not len(train):
        raise UserError("training needs at least one row, got none")
    with torch.random.fork_rng(devices=[]), _ready(module, config):
        run = _Run(module, train, loss_of, config, checkpoint)
        try:
            run.go(on_step)
        finally:
            run.release()
    steps = run.steps
    return History(tuple(Step(number, steps, *row) for number, row in enumerate(run.history, 1)))


class _Run:
    """The state of one training run."""

    def __init__(
        self, module: nn.Module, train: Split, loss_of: LossOf, config: TrainingConfig, checkpoint: Path | None
    ) -> None:
        self.module, self.train, self.loss_of, self.config, self.checkpoint = module, train, loss_of, config, checkpoint
        self.identity = _identity(module, train, config) if checkpoint else {}
        self.steps = config.total_steps(len(train))
        self.accelerator = _accelerator()
        self.device = torch.device("cpu") if config.device == "cpu" else self.accelerator.device
        self.forward = self.accelerator.prepare_model(module.to(self.device), device_placement=False)
        self.optimizer = _adamw(module, config)
        self.parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.history: list[Row] = []
        if checkpoint:
            self.history = load_checkpoint(checkpoint, module, self.optimizer, self.identity)

    def go(self, on_step: Callable[[Step], None] | None) -> None:
        """All steps that are not done yet."""
        saved = time.monotonic()
        for step, rows in self._batches():
            try:
                row = self._step(step, rows)
            except TrainingFailed:
                self._keep()
                raise
            self.history.append(row)
            if on_step and self.accelerator.is_main_process:
                on_step(Step(step, self.steps, *row))
            if step == self.steps or time.monotonic() - saved >= self.config.checkpoint_every_s:
                self._keep()
                saved = time.monotonic()
        self.accelerator.wait_for_everyone()

    def release(self) -> None:
        """Take off the mark that `accelerate` puts on the module, or it would not be prepared a second time."""
        self.module.__dict__.pop("_is_accelerate_prepared", None)
        self.optimizer.zero_grad(set_to_none=True)

    def _keep(self) -> None:
        if self.checkpoint and self.accelerator.is_main_process:
            save_checkpoint(self.checkpoint, self.module, self.optimizer, history=self.history, identity=self.identity)

    def _batches(self) -> Iterator[tuple[int, IntArray]]:
        """(step, row indices over all processes) of the steps to do."""
        per_epoch = -(-len(self.train) // self.config.batch_size)
        batches: list[IntArray] = []
        for done in range(len(self.history), self.steps):
            epoch, index = divmod(done, per_epoch)
            if not batches or index == 0:
                batches = self.train.batches(self.config.batch_size, generator(self.config.seed, "batches", epoch))
            yield done + 1, batches[index]

    def _step(self, step: int, rows: IntArray) -> Row:
        began, accelerator, config = time.perf_counter(), self.accelerator, self.config
        rank, ranks, device = accelerator.process_index, accelerator.num_processes, self.device
        own = rows[rank::ranks] if len(rows) >= ranks else rows
        share = len(own) * ranks / len(rows) if len(rows) >= ranks else 1.0
        batch = {name: tensor.to(device) for name, tensor in self.train.batch(own).items()}
        labels = torch.from_numpy(self.train.labels[own]).to(device)
        rate = config.rate(step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(torch_seed(config.seed, "dropout", step * ranks + rank))
        with torch.autocast(device.type, torch.bfloat16, enabled=config.mixed_precision == "bf16"):
            loss = self.loss_of(self.forward, batch, labels, step)
        # Gradients are averaged over the processes: unequal parts of a batch count by their rows.
        accelerator.backward(loss if share == 1 else loss * share)
        norm = nn.utils.clip_grad_norm_(self.parameters, config.clip_norm)
        value, size = torch.stack([loss.detach().float(), norm]).tolist()
        if not math.isfinite(value) or not math.isfinite(size):
            raise TrainingFailed(
                f"the loss or its gradient is not finite at step {step} of {self.steps}; lower the learning rate"
            )
        self.optimizer.step()
        return value, rate, time.perf_counter() - began


def _accelerator() -> Any:
    """Processes and devices; always made alike, since its state is shared by all runs of the process."""
    from accelerate import Accelerator, DistributedDataParallelKwargs

    # A backbone may have parameters that its head does not use, which plain data-parallel training refuses.
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    return Accelerator(mixed_precision="no", kwargs_handlers=handlers)


@contextlib.contextmanager
def _ready(module: nn.Module, config: TrainingConfig) -> Iterator[None]:
    """Train mode, embeddings frozen if asked; mode, frozen parameters and device as before afterwards."""
    modes = {each: each.training for each in module.modules()}
    home = next((parameter.device for parameter in module.parameters()), None)
    embeddings = [each for each in module.modules() if config.freeze_embeddings and isinstance(each, nn.Embedding)]
    frozen = [p for each in embeddings for p in each.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    module.train()
    try:
        yield
    finally:
        if home is not None:
            module.to(home)
        for parameter in frozen:
            parameter.requires_grad_(True)
        for each, mode in modes.items():
            each.training = mode


def _identity(module: nn.Module, train: Split, config: TrainingConfig) -> dict[str, str]:
    """What decides the outcome of a run, for the refusal of another run's checkpoint."""
    settings = {name: value for name, value in asdict(config).items() if name not in ("checkpoint_every_s", "device")}
    return {
        "configuration": json.dumps(settings, sort_keys=True),
        "data": train.fingerprint(),
        "model": model_fingerprint(module),
    }


def _adamw(module: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=config.learning_rate, fused=True)


def cross_entropy(forward: Callable[..., Any], batch: Batch, labels: Tensor, step: int) -> Tensor:
    """The loss of plain fine-tuning."""
    return nn.functional.cross_entropy(logits_of(forward(**batch)).float(), labels)


def fine_tune(
    module: nn.Module,
    train: Split,
    config: TrainingConfig,
    *,
    checkpoint: Path | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> History:
    """Plain fine-tuning of a module in place with cross-entropy; arguments and errors as `fit`."""
    return fit(module, train, cross_entropy, config, checkpoint=checkpoint, on_step=on_step)
