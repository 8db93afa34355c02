"""A strong teacher during InstaTune: run at every step, or once for every row, whose outputs are then kept on disk."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from nas.data.rows import Rows
from nas.data.split import Split
from nas.learning import processes
from nas.learning.checkpoint import model_fingerprint
from nas.learning.hidden_states import NO_HIDDEN_STATES, HiddenDistance, Taught, hidden_distance, observed
from nas.learning.kept_outputs import Identity, KeptOutputs, TaughtRows, kept_bytes, taken
from nas.learning.teacher import strong_teacher
from nas.learning.training import Batch, TrainingConfig

__all__ = ["Lessons", "Plan", "planned_bytes", "teaching"]

_GIB = 1 << 30


@dataclass(frozen=True)
class Plan:
    """What is asked of a strong teacher.

    Args:
        training: how its pupils are trained.
        hidden: whether its hidden states teach too.
        steps: number of first steps in which it teaches.
        most_gib: what is kept on disk at most.
    """

    training: TrainingConfig
    hidden: bool
    steps: int
    most_gib: float

    def kept_bytes(self, taught: Callable[[Batch], Taught], train: Split) -> int:
        """Bytes of the teacher's outputs that are kept; 0 where it is run at every step instead.

        That is where rows do not repeat or are augmented, so that no output is needed twice, where padding cannot be
        told from what is kept, and where the outputs are larger than is allowed.
        """
        if self.training.augment or self.steps <= self.training.epoch_steps(len(train)):
            return 0
        batch = train.batch([0, len(train) - 1])
        found = kept_bytes(taught(batch), batch, train)
        return 0 if found is None or found > self.most_gib * _GIB else found


@dataclass(frozen=True)
class Lessons:
    """What a strong teacher says; without one, nothing.

    Attributes:
        rows: the rows to train on.
        distance: that of hidden states from the teacher's; without stages where they do not teach.
        taught: runs the teacher on a batch; None where there is none.
        steps: number of first steps in which it teaches.
    """

    rows: Rows
    distance: HiddenDistance = NO_HIDDEN_STATES
    taught: Callable[[Batch], Taught] | None = None
    steps: int = 0

    def of(self, batch: Batch, step: int) -> tuple[Batch, Taught | None]:
        """The inputs of a batch of the rows, and the teacher's outputs for it if it teaches at a step (from 1)."""
        inputs, kept = taken(batch)
        if self.taught is None or step > self.steps:
            return inputs, None
        return inputs, self.taught(inputs) if kept is None else kept


@contextlib.contextmanager
def teaching(
    model: nn.Module, teacher: nn.Module, train: Split, plan: Plan, folder: Path | None = None
) -> Iterator[Lessons]:
    """Context in which a strong teacher teaches; its mode and device are restored.

    Args:
        model: the full network that is trained.
        teacher: a network that was fine-tuned on the same rows.
        train: the training rows.
        plan: what is asked of the teacher.
        folder: where its outputs are kept, if that saves anything (`Plan.kept_bytes`); None: nowhere.

    Raises:
        UserError: the teacher does not fit.
    """
    with strong_teacher(teacher, model, train) as teach:
        seed = plan.training.seed
        distance = hidden_distance(model, teacher, train, seed) if plan.hidden else NO_HIDDEN_STATES
        taught = observed(teacher, teach, distance)
        if folder is None or not plan.kept_bytes(taught, train):
            yield Lessons(train, distance, taught, plan.steps)
        else:
            outputs = _kept(folder, train, _identity(teacher, train, distance, plan.training), taught, plan.training)
            yield Lessons(TaughtRows(train, outputs), distance, taught, plan.steps)


def planned_bytes(model: nn.Module, teacher: nn.Module, train: Split, plan: Plan, distance: HiddenDistance) -> int:
    """Bytes that `teaching` would keep, with the distance of hidden states that it would find; errors as there."""
    with strong_teacher(teacher, model, train) as teach:
        return plan.kept_bytes(observed(teacher, teach, distance), train)


def _kept(
    folder: Path, train: Split, identity: Identity, taught: Callable[[Batch], Taught], config: TrainingConfig
) -> KeptOutputs:
    """The outputs for all rows, computed as far as they are missing; all processes have a part of that."""
    accelerator = processes.make_accelerator()
    device = config.device_of(accelerator.device)

    def placed(batch: Batch) -> Taught:
        with config.autocast(device):
            return taught({name: tensor.to(device) for name, tensor in batch.items()})

    # A folder of another teacher is removed, which only one process may do.
    with accelerator.main_process_first():
        outputs = KeptOutputs(folder, train, identity)
    outputs.fill(placed, (accelerator.process_index, accelerator.num_processes))
    accelerator.wait_for_everyone()
    return outputs


def _identity(teacher: nn.Module, train: Split, distance: HiddenDistance, config: TrainingConfig) -> dict[str, str]:
    return {
        "teacher": model_fingerprint(teacher),
        "rows": train.fingerprint(),
        "hidden states": str(distance.stages),
        "precision": config.mixed_precision,
    }
