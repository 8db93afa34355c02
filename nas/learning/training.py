"""The training loop that plain fine-tuning, warm-ups and InstaTune share.

`fit` runs it for any loss. Devices, several processes and trackers come from `accelerate` (see `processes.py`),
checkpoints from `checkpoint.py`. A run that is killed and resumed ends with the same bits as one that was not, because
each step draws its random numbers from (seed, step) and the checkpoint holds everything else.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from nas.bounded import in_bounds
from nas.data.accuracy import logits_of
from nas.data.rows import Rows, terms
from nas.data.split import Split
from nas.errors import UserError
from nas.learning import processes
from nas.learning.checkpoint import Progress, StepRecord, load_checkpoint, model_fingerprint, save_checkpoint
from nas.learning.early_stop import add_evaluation, restore_best, stopped
from nas.learning.randomness import keeping_generator, seed_generator
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


class TrainingFailed(RuntimeError):
    """The loss or its gradient is not finite. The message names the step; the weights are those before that step."""


class Resumable(Protocol):
    """An object whose state a loss or a validation changes between steps, and which is saved with the checkpoint."""

    def state(self) -> dict[str, Any]:
        """The current state as a new dictionary of JSON values."""

    def restore(self, state: dict[str, Any]) -> None:
        """Set the state to one that `state` returned."""


def _restore(memory: Resumable, state: dict[str, Any]) -> None:
    """Set the state to that of a checkpoint, whose JSON may be damaged although its tensors are whole."""
    try:
        memory.restore(state)
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"the checkpoint is damaged ({str(error)[:200]}); remove it to start anew") from error


@dataclass(frozen=True)
class Step:
    """A completed optimizer step.

    Attributes:
        step: number of the step, from 1.
        steps: number of steps of the whole run.
        loss: mean loss over the rows of all processes.
        learning_rate: learning rate before layer-wise decay.
        seconds: wall time of the step.
    """

    step: int
    steps: int
    loss: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class History:
    """The course of a training run, including the steps before it was resumed.

    Attributes:
        steps: all steps.
        evaluations: (step, value) of each call of `validate`; NaN where the value was not finite.
        restored: the step whose weights the module has at the end, where `patience` is set and an evaluation gave a
            number; None: it has those of the last step.
    """

    steps: tuple[Step, ...]
    evaluations: tuple[tuple[int, float], ...] = ()
    restored: int | None = None


def fit(
    module: nn.Module,
    train: Rows,
    loss_of: LossOf,
    config: TrainingConfig,
    *,
    checkpoint: Path | None = None,
    on_step: Callable[[Step], None] | None = None,
    validate: Callable[[int], float] | None = None,
    memory: Resumable | None = None,
    tracking: Path | None = None,
) -> History:
    """Train a module in place.

    A step depends on (seed, step) and the state before it only. So a run that was killed and started again with the
    same arguments ends with the same bits, on a CPU with the same number of threads (some GPU kernels are not
    deterministic).

    Several processes divide the rows of each step. The batch norms of each process see its own rows, and at the end all
    processes take the running statistics of the main process.

    Trainings may run side by side in the threads of a process, each of a module that shares no part with the others.
    But PyTorch has one random generator for all threads: where forward, loss or `validate` draw from it (dropout),
    threads take each other's numbers, and the result is not that of the training alone. Use processes for these.

    Args:
        module: the module to train, on any device. Afterwards its device and mode and which parameters are frozen are
            as before.
        train: the training rows: a `Split`, or others that give inputs and targets by index.
        loss_of: calls the forward once and returns the loss; called once for each part of a step (`accumulate`).
        config: all settings.
        checkpoint: folder from which to resume and to which to write checkpoints; None: no checkpoints.
        on_step: called in the main process after each new step.
        validate: called in the main process with the number of the step, every `evaluate_every` steps and after the
            last one, while the module is in evaluation mode and gradients are off. It returns a value, higher is
            better, and must not change the module.
        memory: the state that `loss_of` and `validate` keep between steps, if any.
        tracking: folder for trackers that write files.

    Returns:
        All steps and evaluations, including those before a resume.

    Raises:
        UserError: there are no rows, `patience` is set without `validate`, a tracker is unknown, rows are to be
            augmented that cannot be, or the checkpoint is damaged or belongs to another run.
        TrainingFailed: the loss or its gradient is not finite in a process; the checkpoint holds the state before that
            step.
    """
    if not len(train):
        raise UserError("training needs at least one row, got none")
    if config.patience is not None and validate is None:
        raise UserError("patience needs rows to evaluate on while training; give them, or leave patience out")
    accelerator = processes.make_accelerator(config.trackers, tracking)
    # Each step seeds the global generator, for dropout; afterwards the caller's random numbers are as they were.
    with keeping_generator(), _ready(module, config):
        run = _Run(accelerator, module, train, loss_of, config, checkpoint, memory)
        try:
            run.go(on_step, validate)
        finally:
            run.release()
    steps = run.steps
    rows = enumerate(run.progress.history, 1)
    taken = tuple(Step(number, steps, *row) for number, row in rows)
    return History(taken, tuple(run.progress.evaluations), run.restored)


class _Run:
    """A training run: the module, its optimizer, and the progress that checkpoints save."""

    def __init__(
        self,
        accelerator: Any,
        module: nn.Module,
        train: Rows,
        loss_of: LossOf,
        config: TrainingConfig,
        checkpoint: Path | None,
        memory: Resumable | None,
    ) -> None:
        self.accelerator, self.module, self.train, self.loss_of = accelerator, module, train, loss_of
        self.config, self.checkpoint, self.memory = config, checkpoint, memory
        # Before the checkpoint is loaded: the identity holds the fingerprint of the weights that training began with.
        self.identity = _identity(module, train, config) if checkpoint else {}
        self.steps = config.total_steps(len(train))
        self.device = config.device_of(accelerator.device)
        module.to(self.device)
        self.optimizer = config.optimizer.make(module, config.learning_rate, config.weight_decay, config.layer_decay)
        self.parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        # Running statistics of batch norms and their counters: the buffers that a forward pass may change.
        self.statistics = [b for b in module.buffers() if b.is_floating_point() or b.ndim == 0]
        self.progress = Progress()
        self.restored: int | None = None
        if checkpoint:
            # Loading may first put back a folder whose replacement was interrupted; only one process may do that.
            with accelerator.main_process_first():
                self.progress = load_checkpoint(checkpoint, module, self.optimizer, self.identity)
        if memory and self.progress.memory is not None:
            _restore(memory, self.progress.memory)
        # Last, because it marks the module, and a refused checkpoint must leave the module unchanged.
        self.forward = accelerator.prepare_model(module, device_placement=False)

    def go(self, on_step: Callable[[Step], None] | None, validate: Callable[[int], float] | None) -> None:
        """Run the remaining steps, evaluating and saving checkpoints in between."""
        config, progress, main = self.config, self.progress, self.accelerator.is_main_process
        processes.start_trackers(self.accelerator, vars(config))
        every = config.evaluate_every or config.epoch_steps(len(self.train))
        saved = time.monotonic()
        for step, rows in self._batches():
            row = self._guarded(step, rows)
            progress.history.append(row)
            self._track({"loss": row[0], "learning_rate": row[1]}, step)
            if on_step and main:
                on_step(Step(step, self.steps, *row))
            # Evaluate before saving, so that a resumed run does not lose the evaluation of the step it resumes from.
            if validate and (step % every == 0 or step == self.steps):
                self._evaluate(step, validate)
            last = step == self.steps or stopped(progress.evaluations, config.patience)
            if last or time.monotonic() - saved >= config.checkpoint_every_s:
                self._keep()
                saved = time.monotonic()
            if last:
                break
        if config.patience is not None:
            self.restored = restore_best(progress, self.module)
        processes.share(self.accelerator, self.statistics)
        self.accelerator.wait_for_everyone()

    def release(self) -> None:
        """Remove the mark that `accelerate` puts on the module; a marked module cannot be prepared again."""
        self.module.__dict__.pop("_is_accelerate_prepared", None)
        self.optimizer.zero_grad(set_to_none=True)
        processes.stop_trackers(self.accelerator)

    def _guarded(self, step: int, rows: IntArray) -> StepRecord:
        """Run one step; if it fails, restore the state before it and save that as a checkpoint."""
        # A failed step stops before the optimizer, so the parameters are unchanged. The forward has already changed
        # the running statistics and the state of the loss.
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
        """Yield the number of each remaining step and the indices of its rows over all processes."""
        per_epoch = self.config.epoch_steps(len(self.train))
        batches: Sequence[IntArray] = ()
        done = len(self.progress.history)
        if stopped(self.progress.evaluations, self.config.patience):
            return
        for number in range(done, self.steps):
            epoch, index = divmod(number, per_epoch)
            # The batches of an epoch follow from (seed, epoch), so a resumed run makes those of its epoch again.
            if not batches or index == 0:
                batches = self._epoch(epoch, per_epoch)
            yield number + 1, batches[index]

    def _epoch(self, epoch: int, steps: int) -> Sequence[IntArray]:
        batches = self.train.batches(self.config.batch_size, generator(self.config.seed, "batches", epoch))
        if len(batches) != steps:
            raise ValueError(f"the rows must be divided into {steps} batches, got {len(batches)}")
        return batches

    def _step(self, step: int, rows: IntArray) -> StepRecord:
        """Run one optimizer step; raises TrainingFailed before the weights change."""
        began, config = time.perf_counter(), self.config
        rate = config.rate(step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        self.optimizer.zero_grad(set_to_none=True)
        loss = processes.mean_over_processes(self.accelerator, self._gradients(step, rows))
        norm = nn.utils.clip_grad_norm_(self.parameters, config.clip_norm)
        # Loss and norm are the same in all processes, so all of them stop at the same step. One transfer for both
        # numbers, because each makes the program wait for the GPU.
        value, size = torch.stack([loss, norm]).tolist()
        # A checkpoint holds usual numbers only.
        if not in_bounds(value) or not math.isfinite(size):
            raise TrainingFailed(
                f"the loss or its gradient is not finite at step {step} of {self.steps}; lower the learning rate"
            )
        self.optimizer.step()
        return value, rate, time.perf_counter() - began

    def _gradients(self, step: int, rows: IntArray) -> Tensor:
        """Compute the gradients of the mean loss over the rows of all processes.

        Gradients are summed over the parts of this process and averaged over the processes. To give the gradient of the
        mean over all rows, the loss of each part is weighted (`_weights`).

        Returns:
            The weighted loss of this process; its average over the processes is the mean loss.
        """
        accelerator = self.accelerator
        # With fewer rows than processes all of them compute the same rows: an idle process would block the others.
        ranks = accelerator.num_processes if len(rows) >= accelerator.num_processes else 1
        own = np.arange(accelerator.process_index if ranks > 1 else 0, len(rows), ranks)
        parts = np.array_split(own, min(self.config.accumulate, len(rows) // ranks))
        weights = self._weights(rows, parts, ranks)
        total = torch.zeros((), device=self.device)
        for number, (part, weight) in enumerate(zip(parts, weights, strict=True)):
            batch, targets = self._inputs(step, rows, part), self.train.targets(rows[part]).to(self.device)
            seed = (step * accelerator.num_processes + accelerator.process_index) * self.config.accumulate + number
            seed_generator(torch_seed(self.config.seed, "dropout", seed), self.device)
            last = number == len(parts) - 1
            # Processes exchange gradients in the backward of the last part only, when the sum over parts is complete.
            with contextlib.nullcontext() if last else accelerator.no_sync(self.forward):
                with self.config.autocast(self.device):
                    loss = self.loss_of(self.forward, batch, targets, step)
                accelerator.backward(loss if weight == 1 else loss * weight)
            total += loss.detach().float() * weight
        return total

    def _weights(self, rows: IntArray, parts: Sequence[IntArray], ranks: int) -> list[float]:
        """Share of each part in the terms of the mean (rows, or tokens with a tag), times the number of processes."""
        if len(parts) == ranks == 1:
            return [1.0]
        counts = terms(self.train.targets(rows))
        return [ranks * float(counts[part].sum()) / max(1.0, float(counts.sum())) for part in parts]

    def _inputs(self, step: int, rows: IntArray, part: IntArray) -> dict[str, Tensor]:
        batch = self.train.batch(rows[part])
        if self.config.augment:
            # The draws are made for all rows of the step, so they do not depend on the number of processes or parts.
            batch = self.train.augment(batch, len(rows), part, generator(self.config.seed, "augment", step))
        return {name: tensor.to(self.device) for name, tensor in batch.items()}


@contextlib.contextmanager
def _ready(module: nn.Module, config: TrainingConfig) -> Iterator[None]:
    """Put a module in training mode and freeze its embeddings if configured; undo this and the device afterwards."""
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


def _identity(module: nn.Module, train: Rows, config: TrainingConfig) -> dict[str, str]:
    """Fingerprints of everything that determines the outcome of a run; a checkpoint with others is refused."""
    return {
        "configuration": config.identity(),
        "data": train.fingerprint(),
        "model": model_fingerprint(module),
    }


def plain_loss(train: Split, smoothing: float = 0.0) -> LossOf:
    """The loss of plain fine-tuning: the loss of the task with label smoothing `smoothing` (0..1)."""

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
    """Fine-tune a module in place with the loss of its task; arguments, result and errors as for `fit`."""
    loss_of = plain_loss(train, config.label_smoothing)
    return fit(
        module, train, loss_of, config, checkpoint=checkpoint, on_step=on_step, validate=validate, tracking=tracking
    )
