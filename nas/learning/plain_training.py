"""Plain fine-tuning of one network in a folder of its own: it goes on where it stopped, and the result is kept there.

The folder holds `checkpoint/` while the training is under way, `weights/` when it is done, and what trackers write.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from torch import nn

from nas.bounded import finite
from nas.console import Bar, say
from nas.data.accuracy import predict
from nas.data.split import Split
from nas.errors import UserError
from nas.files import replace_folder
from nas.learning.finetuned import Finetuned
from nas.learning.progress import TrainingFigures
from nas.learning.training import History, Step, TrainingConfig, TrainingFailed, fine_tune
from nas.memory import peak_memory_mib
from nas.networks.described import check_weights
from nas.records import read_record, write_record
from search_spaces.weights import save_weights

_LAST_STEPS = 20


def train_in(
    folder: Path, module: nn.Module, train: Split, validation: Split, config: TrainingConfig, title: str
) -> Finetuned:
    """Fine-tune a module in place, or give it the weights of a training in `folder` that is done.

    Args:
        folder: of this training.
        module: always the same one when a training goes on.
        train: its rows.
        validation: rows that the result is scored on, and that early stop goes by.
        config: its settings.
        title: of the progress bar.

    Returns:
        How the training ended; the module is in evaluation mode.

    Raises:
        UserError: what is in `folder` is damaged or of another training.
        TrainingFailed: the loss is not finite; the message says where the checkpoint is.
    """
    weights, checkpoint = folder / "weights", folder / "checkpoint"
    if not weights.exists():
        with Bar(title, config.total_steps(len(train))) as bar, naming_checkpoint(checkpoint):
            history = fine_tune(
                module,
                train,
                config,
                checkpoint=checkpoint,
                on_step=TrainingFigures(bar),
                validate=None if config.patience is None else lambda _: score(module, validation),
                tracking=folder / "tracking",
            )
        finetuned = ended(history, said_score(module.eval(), validation), validation)
        replace_folder(weights, partial(_save, module, finetuned))
    shutil.rmtree(checkpoint, ignore_errors=True)
    _load(module, weights)
    check_weights(module, str(weights))
    module.eval()
    return read_record(weights / "finetuned.json", Finetuned)


@contextmanager
def naming_checkpoint(checkpoint: Path) -> Iterator[None]:
    """Say of a training that failed where the state before the failure is kept."""
    try:
        yield
    except TrainingFailed as error:
        kept = f"the checkpoint before it is kept in {checkpoint}; begin anew elsewhere with other settings"
        raise TrainingFailed(f"{error}; {kept}" if checkpoint.exists() else str(error)) from error


def score(module: nn.Module, rows: Split) -> float:
    """The score that the task has for a network, on the device that it is on; it must be in evaluation mode."""
    return rows.task.score(predict(module, rows, device=next(module.parameters()).device), rows)


def said_score(module: nn.Module, rows: Split) -> float:
    """As `score`, of all validation rows after a training, which may take long: so it is said."""
    say(f"Scoring the network on {len(rows):,} validation rows")
    return score(module, rows)


def ended(history: History, value: float, validation: Split) -> Finetuned:
    """The record of a fine-tuning; its loss is the mean of the last steps.

    Args:
        history: of the training.
        value: the score on the validation rows.
        validation: those rows.
    """
    last = [step.loss for step in history.steps[-_LAST_STEPS:]]
    return Finetuned(
        steps=len(history.steps),
        loss=sum(last) / len(last),
        metric=validation.task.metric,
        validation_score=finite(value),
        seconds=sum(step.seconds for step in history.steps),
    )


def noting_seconds(seconds: list[float]) -> Callable[[Step], None]:
    """Called with every step: keeps how long it took, for an estimate."""
    return lambda step: seconds.append(step.seconds)


def estimate_of(seconds: Sequence[float], steps: int) -> dict[str, float]:
    """Time and memory of a fine-tuning of so many steps, from the seconds of the first ones."""
    return {
        "steps": steps,
        "seconds_a_step": min(seconds),
        "seconds": steps * sum(seconds) / len(seconds),
        "peak_memory_mib": peak_memory_mib(),
    }


def _save(module: nn.Module, finetuned: Finetuned, folder: Path) -> None:
    save_weights(module, folder / "model.safetensors")
    write_record(folder / "finetuned.json", finetuned)


def _load(module: nn.Module, folder: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    try:
        load_model(module, str(folder / "model.safetensors"))
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"the weights in {folder} cannot be read ({reason}); remove it to begin anew") from error
