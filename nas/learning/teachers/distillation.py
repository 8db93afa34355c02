"""Distillation from a strong teacher: it runs at every step, or once for every row, with its outputs cached on disk."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from nas.data.rows import Rows
from nas.data.split import Split
from nas.learning import processes
from nas.learning.checkpoint import model_fingerprint
from nas.learning.teachers.cached_outputs import CachedOutputs, Identity, RowsWithOutputs, cached_bytes, unpacked
from nas.learning.teachers.frozen import frozen_teacher
from nas.learning.teachers.hidden_distance import NO_HIDDEN_STATES, HiddenDistance, hidden_distance
from nas.learning.teachers.outputs import OutputsOf, TeacherOutputs, with_hidden_states
from nas.learning.training import Batch, TrainingConfig

__all__ = ["Distillation", "DistillationPlan", "distilling", "planned_bytes"]

_GIB = 1 << 30


@dataclass(frozen=True)
class DistillationPlan:
    """What is asked of a strong teacher.

    Args:
        training: how its students are trained.
        hidden: whether its hidden states teach too.
        steps: number of first steps in which it teaches.
        most_gib: what is cached on disk at most.
    """

    training: TrainingConfig
    hidden: bool
    steps: int
    most_gib: float

    def cached_bytes(self, outputs_of: OutputsOf, train: Split) -> int:
        """Bytes of the teacher's outputs that are cached; 0 where it is run at every step instead.

        That is where rows do not repeat or are augmented, so that no output is needed twice, where padding cannot be
        told from what is cached, and where the outputs are larger than is allowed.
        """
        if self.training.augment or self.steps <= self.training.epoch_steps(len(train)):
            return 0
        batch = train.batch([0, len(train) - 1])
        found = cached_bytes(outputs_of(batch), batch, train)
        return 0 if found is None or found > self.most_gib * _GIB else found


@dataclass(frozen=True)
class Distillation:
    """What a training gets from a strong teacher; without one, nothing.

    Attributes:
        rows: the rows to train on.
        distance: that of hidden states from the teacher's; without stages where they do not teach.
        outputs_of: runs the teacher on a batch; None where there is none.
        steps: number of first steps in which it teaches.
    """

    rows: Rows
    distance: HiddenDistance = NO_HIDDEN_STATES
    outputs_of: OutputsOf | None = None
    steps: int = 0

    def unpacked(self, batch: Batch, step: int) -> tuple[Batch, TeacherOutputs | None]:
        """The inputs of a batch of the rows, and the teacher's outputs for it if it teaches at a step (from 1)."""
        inputs, cached = unpacked(batch)
        if self.outputs_of is None or step > self.steps:
            return inputs, None
        return inputs, self.outputs_of(inputs) if cached is None else cached


@contextlib.contextmanager
def distilling(
    model: nn.Module, teacher: nn.Module, train: Split, plan: DistillationPlan, folder: Path | None = None
) -> Iterator[Distillation]:
    """Context in which a strong teacher teaches; its mode and device are restored.

    Args:
        model: the full network that is trained.
        teacher: a network that was fine-tuned on the same rows.
        train: the training rows.
        plan: what is asked of the teacher.
        folder: where its outputs are cached, if that saves anything (`DistillationPlan.cached_bytes`); None: nowhere.

    Raises:
        UserError: the teacher does not fit.
    """
    with frozen_teacher(teacher, model, train) as logits_of:
        seed = plan.training.seed
        distance = hidden_distance(model, teacher, train, seed) if plan.hidden else NO_HIDDEN_STATES
        outputs_of = with_hidden_states(teacher, logits_of, distance)
        rows: Rows = train
        if folder is not None and plan.cached_bytes(outputs_of, train):
            identity = _identity(teacher, train, distance, plan.training)
            rows = RowsWithOutputs(train, _cached(folder, train, identity, outputs_of, plan.training))
        yield Distillation(rows, distance, outputs_of, plan.steps)


def planned_bytes(
    model: nn.Module, teacher: nn.Module, train: Split, plan: DistillationPlan, distance: HiddenDistance
) -> int:
    """Bytes that `distilling` would cache, with the distance of hidden states that it would find; errors as there."""
    with frozen_teacher(teacher, model, train) as logits_of:
        return plan.cached_bytes(with_hidden_states(teacher, logits_of, distance), train)


def _cached(
    folder: Path, train: Split, identity: Identity, outputs_of: OutputsOf, config: TrainingConfig
) -> CachedOutputs:
    """The outputs for all rows, computed as far as they are missing; all processes have a part of that."""
    accelerator = processes.make_accelerator()
    device = config.device_of(accelerator.device)

    def placed(batch: Batch) -> TeacherOutputs:
        with config.autocast(device):
            return outputs_of({name: tensor.to(device) for name, tensor in batch.items()})

    # A folder of another teacher is removed, which only one process may do.
    with accelerator.main_process_first():
        outputs = CachedOutputs(folder, train, identity)
    outputs.fill(placed, (accelerator.process_index, accelerator.num_processes))
    accelerator.wait_for_everyone()
    return outputs


def _identity(teacher: nn.Module, train: Split, distance: HiddenDistance, config: TrainingConfig) -> dict[str, str]:
    # Written to `outputs.json`: with another text in it, the outputs of a run that was stopped would be computed again.
    return {
        "teacher": model_fingerprint(teacher),
        "rows": train.fingerprint(),
        "hidden states": str(distance.stages),
        "precision": config.mixed_precision,
    }
