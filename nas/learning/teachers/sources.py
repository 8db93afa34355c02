"""Where the strong teacher of a run comes from: a folder of the user's, or the plain fine-tuning of its network."""

import copy
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nas.data.split import Data, Preprocessor
from nas.errors import UserError
from nas.files import read_json
from nas.learning.plain_training import train_in
from nas.learning.training import TrainingConfig
from nas.networks.pretrained import load_pretrained, same_labels

_COMPARED_ROWS = 8


def train_teacher(folder: Path, model: nn.Module, data: Data, config: TrainingConfig) -> nn.Module:
    """A copy of the network, fine-tuned plainly in a folder of its own, or read from there when that is done.

    Args:
        folder: of the teacher.
        model: before its fine-tuning as a super-network; left as it is.
        data: of the run.
        config: of the plain fine-tuning.

    Raises:
        UserError: what is in the folder is damaged.
        TrainingFailed: the loss is not finite.
    """
    teacher = copy.deepcopy(model)
    train_in(folder, teacher, data.train, data.validation, config, "Fine-tuning the teacher")
    return teacher


def load_teacher(folder: Path, data: Data) -> nn.Module:
    """The user's own teacher, from a folder of `transformers`.

    UserError when it is no such folder, has no trained head, gives its outputs for other labels, or reads rows in
    another way than the network of the run.
    """
    config = folder / "config.json"
    try:
        values = read_json(config)
        names = values.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
        labels = [str(names[key]) for key in sorted(names, key=int)]
        classes = [str(name) for name in values.get("architectures") or []]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"--teacher must be a folder with the config.json of a network, {folder} is not: {error}"
        ) from error
    teacher, preprocessor = load_pretrained(folder, labels, data.kind, task=data.task)
    if classes != [type(teacher).__name__]:
        raise UserError(
            f"--teacher must be a network that was fine-tuned for this task ({type(teacher).__name__}), {folder} holds "
            f"{', '.join(classes) or 'one of no named class'}"
        )
    try:
        same_labels(teacher, data.classes)
    except UserError as error:
        raise UserError(f"--teacher {folder}: {error}") from error
    _same_inputs(folder, preprocessor, data)
    return teacher


def _same_inputs(folder: Path, preprocessor: Preprocessor, data: Data) -> None:
    rows = np.arange(min(_COMPARED_ROWS, len(data.train)))
    ours = data.train.batch(rows)
    theirs = preprocessor.prepare([data.train.rows[row] for row in rows], data.max_tokens).batch(rows)
    if ours.keys() != theirs.keys() or not all(torch.equal(ours[name], theirs[name]) for name in ours):
        raise UserError(
            f"--teacher must read rows as the model does, {folder} has another tokenizer or image size; take a teacher "
            "of the same kind, or none: then the model itself is fine-tuned plainly first"
        )
