"""The one training loop: devices, precision and processes by `accelerate`; resumes bit by bit after a kill."""

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from nas.data.accuracy import logits_of
from nas.data.split import Split
from nas.data.tasks import IGNORED
from nas.errors import UserError
from nas.learning import processes
from nas.learning.augmentation import augment
from nas.learning.checkpoint import Progress, StepRecord, load_checkpoint, model_fingerprint, save_checkpoint
from nas.learning.early_stop import add_evaluation, restore_best, stopped
from nas.learning.optimizer import adamw
from nas.learning.training_config import TrainingConfig
from nas.networks.modes import keeping_modes
from nas.seeds import generator, torch_seed
from search_spaces.arrays import IntArray

__all__ = [
    "Batch",
    "History",
    "LossOf",
    "Resumable",
    "Step",
    "TrainingConfig",
    "TrainingFailed",
    "fine_tune",
    "fit",
    "plain_loss",
]

Batch = Mapping[str, Tensor]
LossOf = Callable[[Callable[..., Any], Batch, Tensor, int], Tensor]
"""(forward, keyword inputs, targets (rows, ...), step from 1) -> mean loss of the rows, a scalar."""

_WITHOUT_INFLUENCE = ("checkpoint_every_s", "device", "trackers")


class TrainingFailed(RuntimeError):
    """The loss is no longer a number; the message names the step. The weights are those before that step."""


class Resumable(Protocol):
    """What a loss or a validation keeps between steps; it is saved with the checkpoint."""

    def state(self) -> dict[str, Any]:
        """A new dictionary of JSON values that `restore` makes the same memory of."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to what `state` gave."""


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
    """A training run, with what came before a resume.

    Attributes:
        steps: all steps.
        evaluations: (step, value) of each call of `validate`; NaN where it gave no finite number.
    """

    steps: tuple[Step, ...]
    evaluations: tuple[tuple[int, float], ...] = ()


def fit(
    module: nn.Module,
    train: Split,
    loss_of: LossOf,
    config: TrainingConfig,
    *,
    checkpoint: Path | None = None,
    on_step: Callable[[Step], None] | None = None,
    validate: Callable[[int], float] | None = None,
    memory: Resumable | None = None,
    tracking: Path | None = None,
) -> History:
    """Train a module in place with AdamW.

    What happens in a step follows from (seed, step) alone, so a run that was killed and started again with the same
    arguments ends with the same bits (on a CPU with the same number of threads; some GPU kernels are not repeatable).

    Several processes divide the rows of each step; batch norms of each see its own rows, and the running statistics of
    the main process count.

    Args:
        module: on any device; it comes back on the same, in its mode, frozen parameters as they were.
        train: the rows.
        loss_of: calls the forward once and makes the loss; called for each part of a step (`accumulate`) anew.
        config: all settings.
        checkpoint: folder to go on from and to write to.
        on_step: told about every new step, in the main process.
        validate: called with the step in the main process, every `evaluate_every` steps and after the last one, with
            the module in eval mode and without gradients; higher is better. It must not change the module.
        memory: what `loss_of` and `validate` keep between steps, if anything.
        tracking: folder for the trackers that write files.

    Raises:
        UserError: no rows, no `validate` for the patience, a tracker that is not there, no images to augment, or the
            checkpoint is damaged or belongs to another run.
        TrainingFailed: the loss or its gradient is not finite, in any process; the checkpoint holds the state before
            that step.
    """
    if not len(train):
        raise UserError("training needs at least one row, got none")
    if config.patience is not None and validate is None:
        raise UserError("patience needs rows to evaluate on while training; give them, or leave patience out")
    accelerator = processes.make_accelerator(config.trackers, tracking)
    with torch.random.fork_rng(devices=[]), _ready(module, config):
        run = _Run(accelerator, module, train, loss_of, config, checkpoint, memory)
        try:
            run.go(on_step, validate)
        finally:
            run.release()
    steps = run.steps
    rows = enumerate(run.progress.history, 1)
    return History(tuple(Step(number, steps, *row) for number, row in rows), tuple(run.progress.evaluations))


class _Run:
    """The state of one training run."""

    def __init__(
        self,
        accelerator: Any,
        module: nn.Module,
        train: Split,
        loss_of: LossOf,
        config: TrainingConfig,
        checkpoint: Path | None,
        memory: Resumable | None,
    ) -> None:
        self.accelerator, self.module, self.train, self.loss_of = accelerator, module, train, loss_of
        self.config, self.checkpoint, self.memory = config, checkpoint, memory
        self.identity = _identity(module, train, config) if checkpoint else {}
        self.steps = config.total_steps(len(train))
        self.device = torch.device("cpu") if config.device == "cpu" else accelerator.device
        module.to(self.device)
        self.optimizer = adamw(module, config.learning_rate, config.weight_decay, config.layer_decay)
        self.parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        # Running statistics and their counts: what a forward pass may change.
        self.statistics = [b for b in module.buffers() if b.is_floating_point() or b.ndim == 0]
        self.progress = Progress()
        if checkpoint:
            with accelerator.main_process_first():
                self.progress = load_checkpoint(checkpoint, module, self.optimizer, self.identity)
        if memory and self.progress.memory is not None:
            memory.restore(self.progress.memory)
        # Last, since it marks the module, and a refused checkpoint must leave the module as it was.
        self.forward = accelerator.prepare_model(module, device_placement=False)

    def go(self, on_step: Callable[[Step], None] | None, validate: Callable[[int], float] | None) -> None:
        """All steps that are not done yet."""
        config, progress, main = self.config, self.progress, self.accelerator.is_main_process
        processes.start_trackers(self.accelerator, asdict(config))
        every = config.evaluate_every or config.epoch_steps(len(self.train))
        saved = time.monotonic()
        for step, rows in self._batches():
            row = self._guarded(step, rows)
            progress.history.append(row)
            self._track({"loss": row[0], "learning_rate": row[1]}, step)
            if on_step and main:
                on_step(Step(step, self.steps, *row))
            if validate and (step % every == 0 or step == self.steps):
                self._evaluate(step, validate)
            last = step == self.steps or stopped(progress.evaluations, config.patience)
            if last or time.monotonic() - saved >= config.checkpoint_every_s:
                self._keep()
                saved = time.monotonic()
            if last:
                break
        if config.patience is not None:
            restore_best(progress, self.module)
        processes.share(self.accelerator, self.statistics)
        self.accelerator.wait_for_everyone()

    def release(self) -> None:
        """Take off the mark that `accelerate` puts on the module, or it would not be prepared a second time."""
        self.module.__dict__.pop("_is_accelerate_prepared", None)
        self.optimizer.zero_grad(set_to_none=True)
        processes.stop_trackers(self.accelerator)

    def _guarded(self, step: int, rows: IntArray) -> StepRecord:
        """One step; where it fails, everything is again as before it, and kept."""
        before = [tensor.clone() for tensor in self.statistics]
        remembered = self.memory.state() if self.memory and self.checkpoint else None
        try:
            return self._step(step, rows)
        except TrainingFailed:
            for tensor, old in zip(self.statistics, before, strict=True):
                tensor.copy_(old)
            if self.memory and remembered is not None:
                self.memory.restore(remembered)
            self._keep()
            raise

    def _keep(self) -> None:
        if self.checkpoint and self.accelerator.is_main_process:
            self.progress.memory = self.memory.state() if self.memory else None
            save_checkpoint(
                self.checkpoint, self.module, self.optimizer, progress=self.progress, identity=self.identity
            )

    def _track(self, values: Mapping[str, float], step: int) -> None:
        if self.config.trackers:
            self.accelerator.log(dict(values), step=step)

    @torch.no_grad()
    def _evaluate(self, step: int, validate: Callable[[int], float]) -> None:
        value = math.nan
        if self.accelerator.is_main_process:
            self.module.eval()
            value = float(validate(step))
            self.module.train()
        value = processes.of_main_process(self.accelerator, value if math.isfinite(value) else math.nan)
        self._track({"validation": value}, step)
        add_evaluation(self.progress, self.module, step, value, keep=self.config.patience is not None)

    def _batches(self) -> Iterator[tuple[int, IntArray]]:
        """(step, row indices over all processes) of the steps to do."""
        per_epoch = self.config.epoch_steps(len(self.train))
        batches: list[IntArray] = []
        done = len(self.progress.history)
        if stopped(self.progress.evaluations, self.config.patience):
            return
        for number in range(done, self.steps):
            epoch, index = divmod(number, per_epoch)
            if not batches or index == 0:
                batches = self.train.batches(self.config.batch_size, generator(self.config.seed, "batches", epoch))
            yield number + 1, batches[index]

    def _step(self, step: int, rows: IntArray) -> StepRecord:
        began, config = time.perf_counter(), self.config
        rate = config.rate(step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        self.optimizer.zero_grad(set_to_none=True)
        loss = processes.mean_over_processes(self.accelerator, self._gradients(step, rows))
        norm = nn.utils.clip_grad_norm_(self.parameters, config.clip_norm)
        value, size = torch.stack([loss, norm]).tolist()
        if not math.isfinite(value) or not math.isfinite(size):
            raise TrainingFailed(
                f"the loss or its gradient is not finite at step {step} of {self.steps}; lower the learning rate"
            )
        self.optimizer.step()
        return value, rate, time.perf_counter() - began

    def _gradients(self, step: int, rows: IntArray) -> Tensor:
        """Leave the gradients of the mean loss over all rows; returns this process's share of that loss, times ranks.

        Gradients are summed over the parts of this process and averaged over the processes, so each part counts by its
        share of what the loss is a mean of, times the number of processes that divide the rows.
        """
        accelerator = self.accelerator
        ranks = accelerator.num_processes if len(rows) >= accelerator.num_processes else 1
        own = np.arange(accelerator.process_index if ranks > 1 else 0, len(rows), ranks)
        parts = np.array_split(own, min(self.config.accumulate, len(rows) // ranks))
        counts = _counts(self.train.targets(rows))
        total = torch.zeros((), device=self.device)
        for number, part in enumerate(parts):
            batch, targets = self._inputs(step, rows, part), self.train.targets(rows[part]).to(self.device)
            seed = (step * accelerator.num_processes + accelerator.process_index) * self.config.accumulate + number
            torch.manual_seed(torch_seed(self.config.seed, "dropout", seed))
            last = number == len(parts) - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(self.forward):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.mixed_precision == "bf16"):
                    loss = self.loss_of(self.forward, batch, targets, step)
                weight = ranks * float(counts[part].sum()) / max(1.0, float(counts.sum()))
                accelerator.backward(loss if weight == 1 else loss * weight)
            total += loss.detach().float() * weight
        return total

    def _inputs(self, step: int, rows: IntArray, part: IntArray) -> dict[str, Tensor]:
        batch = self.train.batch(rows[part])
        if self.config.augment:
            batch = augment(batch, len(rows), part, generator(self.config.seed, "augment", step))
        return {name: tensor.to(self.device) for name, tensor in batch.items()}


def _counts(targets: Tensor) -> Tensor:
    """How much each row counts in a mean over the targets: its tokens that are not ignored, or 1."""
    if targets.ndim < 2 or targets.is_floating_point():
        return torch.ones(len(targets))
    return (targets != IGNORED).sum(1).float()


@contextlib.contextmanager
def _ready(module: nn.Module, config: TrainingConfig) -> Iterator[None]:
    """Train mode, embeddings frozen if asked; mode, frozen parameters and device as before afterwards."""
    home = next((parameter.device for parameter in module.parameters()), None)
    embeddings = [each for each in module.modules() if config.freeze_embeddings and isinstance(each, nn.Embedding)]
    frozen = [p for each in embeddings for p in each.parameters() if p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    with keeping_modes(module):
        module.train()
        try:
            yield
        finally:
            if home is not None:
                module.to(home)
            for parameter in frozen:
                parameter.requires_grad_(True)


def _identity(module: nn.Module, train: Split, config: TrainingConfig) -> dict[str, str]:
    """What decides the outcome of a run, for the refusal of another run's checkpoint."""
    settings = {name: value for name, value in asdict(config).items() if name not in _WITHOUT_INFLUENCE}
    return {
        "configuration": json.dumps(settings, sort_keys=True),
        "data": train.fingerprint(),
        "model": model_fingerprint(module),
    }


def plain_loss(train: Split, smoothing: float = 0.0) -> LossOf:
    """The loss of plain fine-tuning for the task of these rows."""

    def loss_of(forward: Callable[..., Any], batch: Batch, targets: Tensor, step: int) -> Tensor:
        return train.task.loss(logits_of(forward(**batch)), targets, smoothing)

    return loss_of


def fine_tune(
    module: nn.Module,
    train: Split,
    config: TrainingConfig,
    *,
    checkpoint: Path | None = None,
    on_step: Callable[[Step], None] | None = None,
    validate: Callable[[int], float] | None = None,
    tracking: Path | None = None,
) -> History:
    """Plain fine-tuning of a module in place with the loss of its task; arguments and errors as `fit`."""
    loss_of = plain_loss(train, config.label_smoothing)
    return fit(
        module, train, loss_of, config, checkpoint=checkpoint, on_step=on_step, validate=validate, tracking=tracking
    )
