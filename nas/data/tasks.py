"""What a network is trained for: classes, a number, or a tag for every word; the loss and the score of each.

A task is a frozen value that a split carries, so that training, distillation and search are written once.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, mse_loss, softmax

from nas.errors import UserError
from search_spaces.arrays import IntArray

IGNORED = -100
"""The target of a token that has no tag: padding, special tokens, and all but the first sub-word of a word."""

Labels = npt.NDArray[np.int64] | npt.NDArray[np.float64]
"""Class indices (n,), numbers (n,), or the tags of every row's words (n, most words), `IGNORED` behind the last one."""


@runtime_checkable
class WordInputs(Protocol):
    """Rows of words as the model reads them."""

    def first_words(self, indices: npt.ArrayLike) -> IntArray:
        """The number of the word whose first token this is, -1 elsewhere (rows, longest of them)."""


class Labelled(Protocol):
    """What a task reads of a split."""

    @property
    def labels(self) -> Labels:
        """Those of all rows."""

    @property
    def inputs(self) -> object:
        """The rows as the model reads them; `WordInputs` where words have tags."""


class Task(Protocol):
    """What the outputs of a network mean."""

    @property
    def name(self) -> str:
        """As the command line has it: classification, regression or token-classification."""

    @property
    def metric(self) -> str:
        """Name of the objective that `score` measures: accuracy or r2, higher is better."""

    def labels(self, values: Sequence[Any] | npt.NDArray[Any]) -> Labels:
        """The labels of the rows as a split holds them; TypeError or ValueError for values of another kind."""

    def targets(self, split: Labelled, indices: npt.ArrayLike) -> Tensor:
        """What `loss` compares the outputs of these rows with."""

    def loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Mean loss, a float32 scalar.

        Args:
            logits: outputs of the network.
            targets: of the same rows.
            smoothing: share (0..1) of the target that is spread evenly over the classes; a number has none.

        Raises:
            UserError: a label that the network has no output for (on a CPU; a GPU reports it otherwise).
        """

    def distillation(self, student: Tensor, teacher: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """How far the student's outputs are from the teacher's, a float32 scalar; no gradient to the teacher.

        Classes and tags: the Kullback-Leibler divergence of the softened outputs, times the squared temperature, mean
        over rows or over tokens that have a tag (Hinton et al., arXiv 1503.02531). Numbers: mean squared difference,
        whatever the temperature.
        """

    def score(self, logits: npt.ArrayLike, split: Labelled) -> float:
        """The metric of what `nas.data.accuracy.predict` gives for all rows; NaN for a NaN among them, or no rows.

        Raises:
            UserError: the network has fewer outputs than the labels need.
        """

    def correct(self, logits: npt.ArrayLike, split: Labelled) -> npt.NDArray[np.bool_] | None:
        """Which rows, or tokens that have a tag, are right (k,), to compare two networks; None for numbers."""

    def strata(self, labels: Labels) -> IntArray | None:
        """The class of every row (n,), kept in proportion when rows are split; None: rows have none."""

    def fitted(self, labels: Labels) -> "Task":
        """The task with what it takes from the labels of the training rows; UserError for labels it cannot use."""

    def to_json(self) -> dict[str, str | float]:
        """What `task_of` reads again."""


@dataclass(frozen=True)
class Classification:
    """One class a row; logits (rows, classes), targets (rows,) int64. The metric is the share of right rows."""

    @property
    def name(self) -> str:
        """classification."""
        return "classification"

    @property
    def metric(self) -> str:
        """accuracy."""
        return "accuracy"

    def labels(self, values: Sequence[Any] | npt.NDArray[Any]) -> Labels:
        """Class indices (n,), int64."""
        return np.asarray(values, dtype=np.int64)

    def targets(self, split: Labelled, indices: npt.ArrayLike) -> Tensor:
        """Class indices (rows,), int64."""
        return torch.from_numpy(split.labels[np.asarray(indices, dtype=np.int64)])

    def loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy."""
        return _cross_entropy(logits, targets, smoothing, "mean")

    def distillation(self, student: Tensor, teacher: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Divergence, mean over rows."""
        inputs, soft = _softened(student, teacher, temperature)
        return temperature**2 * kl_div(inputs, soft, reduction="batchmean")

    def score(self, logits: npt.ArrayLike, split: Labelled) -> float:
        """Accuracy (0..1)."""
        _enough_outputs(logits, split.labels)
        return accuracy(logits, split.labels)

    def correct(self, logits: npt.ArrayLike, split: Labelled) -> npt.NDArray[np.bool_]:
        """Which rows are right (n,)."""
        return _right(np.asarray(logits), split.labels)

    def strata(self, labels: Labels) -> IntArray:
        """The classes themselves."""
        return labels.astype(np.int64, copy=False)

    def fitted(self, labels: Labels) -> "Classification":
        """The same: nothing is taken from the labels."""
        return self

    def to_json(self) -> dict[str, str | float]:
        """The name."""
        return {"name": self.name}


@dataclass(frozen=True)
class Regression:
    """One number a row; logits (rows, 1) or (rows,), targets (rows,) float32.

    The network learns, and gives, standardised numbers: (label - mean) / std. `values` turns its outputs back.
    The metric is R^2 = 1 - squared error / squared distance of the labels from their mean: 1 is perfect, 0 is as good
    as always saying that mean, and there is no lower end.

    Args:
        mean: of the labels of the training rows.
        std: their standard deviation, above 0.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ValueError(f"mean must be a number and std above 0, got {self.mean} and {self.std}")

    @property
    def name(self) -> str:
        """regression."""
        return "regression"

    @property
    def metric(self) -> str:
        """r2."""
        return "r2"

    def labels(self, values: Sequence[Any] | npt.NDArray[Any]) -> Labels:
        """Numbers (n,), float64."""
        return np.asarray(values, dtype=np.float64)

    def targets(self, split: Labelled, indices: npt.ArrayLike) -> Tensor:
        """Standardised numbers (rows,), float32."""
        labels = (split.labels[np.asarray(indices, dtype=np.int64)] - self.mean) / self.std
        return torch.from_numpy(labels.astype(np.float32))

    def values(self, logits: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The outputs (n, 1) or (n,) in the units of the labels (n,)."""
        return np.asarray(logits, dtype=np.float64).reshape(-1) * self.std + self.mean

    def loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Mean squared error of the standardised numbers; smoothing has no meaning here."""
        return mse_loss(_numbers(logits, len(targets)), targets)

    def distillation(self, student: Tensor, teacher: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Mean squared difference of the standardised numbers."""
        return mse_loss(_numbers(student, len(targets)), _numbers(teacher, len(targets)).detach())

    def score(self, logits: npt.ArrayLike, split: Labelled) -> float:
        """R^2; NaN too when all labels are equal."""
        labels, outputs = split.labels.astype(np.float64), np.asarray(logits)
        if outputs.size != len(labels):
            raise UserError(f"a regression needs one output a row, got {outputs.shape} for {len(labels)} rows")
        spread = float(np.square(labels - labels.mean()).sum()) if len(labels) else 0.0
        if spread == 0 or np.isnan(outputs).any():
            return math.nan
        return 1 - float(np.square(labels - self.values(outputs)).sum()) / spread

    def correct(self, logits: npt.ArrayLike, split: Labelled) -> None:
        """None: a number is near or far, not right or wrong."""
        return

    def strata(self, labels: Labels) -> None:
        """None: rows have no classes."""
        return

    def fitted(self, labels: Labels) -> "Regression":
        """With mean and standard deviation of these labels (n,)."""
        mean, std = float(labels.mean()), float(labels.std())
        if not std > 0:
            raise UserError(f"the numbers of the training rows must differ, all are {mean}")
        return replace(self, mean=mean, std=std)

    def to_json(self) -> dict[str, str | float]:
        """Name, mean and standard deviation."""
        return {"name": self.name, "mean": self.mean, "std": self.std}


@dataclass(frozen=True)
class TokenClassification:
    """One tag a word; logits (rows, tokens, tags), targets (rows, longest) int64.

    The first sub-word of a word carries its tag; the others, special tokens and padding have the target -100 and count
    neither in the loss nor in the metric, the share of words that are right. Words cut off do not count either.
    """

    @property
    def name(self) -> str:
        """token-classification."""
        return "token-classification"

    @property
    def metric(self) -> str:
        """accuracy."""
        return "accuracy"

    def labels(self, values: Sequence[Any] | npt.NDArray[Any]) -> Labels:
        """Tags (n, most words), int64, -100 behind the last word of a row; from lists or from such an array."""
        rows = [np.asarray(tags, dtype=np.int64) for tags in values]
        rows = [tags[tags != IGNORED] for tags in rows]
        padded = np.full((len(rows), max(map(len, rows), default=0)), IGNORED, dtype=np.int64)
        for number, tags in enumerate(rows):
            padded[number, : len(tags)] = tags
        return padded

    def targets(self, split: Labelled, indices: npt.ArrayLike) -> Tensor:
        """Tags of tokens (rows, longest of them), int64, -100 where there is none."""
        rows = np.asarray(indices, dtype=np.int64)
        words = first_words(split.inputs, rows)
        tags = np.take_along_axis(split.labels[rows].astype(np.int64, copy=False), np.maximum(words, 0), axis=1)
        return torch.from_numpy(np.where(words < 0, IGNORED, tags))

    def loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy, mean over the tokens that have a tag; 0 where none has."""
        total = _cross_entropy(logits.flatten(0, 1), targets.flatten(), smoothing, "sum")
        return total / _tagged(targets).sum().clamp(min=1)

    def distillation(self, student: Tensor, teacher: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Divergence, mean over the tokens that have a tag; 0 where none has."""
        inputs, soft = _softened(student, teacher, temperature)
        tagged = _tagged(targets)
        each = kl_div(inputs, soft, reduction="none").sum(-1) * tagged
        return temperature**2 * each.sum() / tagged.sum().clamp(min=1)

    def score(self, logits: npt.ArrayLike, split: Labelled) -> float:
        """Share (0..1) of the words that are right."""
        outputs, labels = self._tagged(logits, split)
        _enough_outputs(outputs, labels)
        return accuracy(outputs, labels)

    def correct(self, logits: npt.ArrayLike, split: Labelled) -> npt.NDArray[np.bool_]:
        """Which words are right (k,), row after row."""
        return _right(*self._tagged(logits, split))

    def _tagged(self, logits: npt.ArrayLike, split: Labelled) -> tuple[npt.NDArray[Any], IntArray]:
        """Outputs (k, tags) and tags (k,) of the tokens that have one."""
        targets = self.targets(split, np.arange(len(split.labels))).numpy()
        outputs = np.asarray(logits)
        if not len(targets):
            return np.zeros((0, 1)), np.zeros(0, dtype=np.int64)
        if outputs.ndim != 3 or outputs.shape[:2] != targets.shape:
            raise UserError(
                f"token classification needs outputs for every token {targets.shape}, got {outputs.shape[:-1]}"
            )
        return outputs[targets != IGNORED], targets[targets != IGNORED]

    def strata(self, labels: Labels) -> None:
        """None: a row has many tags."""
        return

    def fitted(self, labels: Labels) -> "TokenClassification":
        """The same: nothing is taken from the labels."""
        return self

    def to_json(self) -> dict[str, str | float]:
        """The name."""
        return {"name": self.name}


CLASSIFICATION: Task = Classification()
TASKS: Mapping[str, Task] = {task.name: task for task in (CLASSIFICATION, Regression(), TokenClassification())}
"""By name, as the command line has them; a regression not fitted yet."""


def task_of(values: object) -> Task:
    """The task that `to_json` wrote; ValueError for anything else."""
    task = TASKS.get(str(values.get("name"))) if isinstance(values, Mapping) else None
    if task is None or not isinstance(values, Mapping):
        raise ValueError(f"a task is one of {', '.join(TASKS)}, got {str(values)[:60]}")
    if isinstance(task, Regression):
        mean, std = values.get("mean"), values.get("std")
        if not isinstance(mean, int | float) or not isinstance(std, int | float):
            raise ValueError(f"a regression has a mean and a std, got {str(values)[:60]}")
        return Regression(float(mean), float(std))
    return task


def first_words(inputs: object, indices: npt.ArrayLike) -> IntArray:
    """`first_words` of inputs that are words (rows, longest); UserError for others."""
    if not isinstance(inputs, WordInputs):
        raise UserError("token classification needs rows of words, got inputs that are not made of words")
    return inputs.first_words(indices)


def accuracy(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Share (0..1) of rows whose largest logit (n, classes) is their label (n,); NaN when a logit is NaN or n is 0."""
    array = np.asarray(logits)
    if not array.size or np.isnan(array).any():
        return math.nan
    return float(np.mean(_right(array, np.asarray(labels))))


def _right(logits: npt.NDArray[Any], labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    return np.asarray(logits.argmax(axis=1) == labels, dtype=np.bool_)


def _enough_outputs(logits: npt.ArrayLike, labels: Labels) -> None:
    outputs, highest = np.shape(logits)[-1], int(labels.max(initial=0))
    if np.size(logits) and highest >= outputs:
        raise UserError(f"the network has {outputs} outputs, but the data has at least {highest + 1} labels")


def _cross_entropy(logits: Tensor, targets: Tensor, smoothing: float, reduction: str) -> Tensor:
    try:
        return cross_entropy(
            logits.float(), targets, label_smoothing=smoothing, reduction=reduction, ignore_index=IGNORED
        )
    except IndexError as error:
        raise UserError(
            f"the network has {logits.shape[-1]} outputs, but the data has at least {int(targets.max()) + 1} labels"
        ) from error


def _softened(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Logarithms of the student's and the teacher's own probabilities at this temperature."""
    soft = softmax(teacher.detach().float() / temperature, dim=-1)
    return log_softmax(student.float() / temperature, dim=-1), soft


def _tagged(targets: Tensor) -> Tensor:
    return targets != IGNORED


def _numbers(logits: Tensor, rows: int) -> Tensor:
    if logits.numel() != rows:
        raise UserError(f"a regression needs one output a row, got {tuple(logits.shape)} for {rows} rows")
    return logits.float().reshape(rows)
