"""The three tasks: classification, regression and token classification, each with its loss and its metric.

Each split holds its task as a frozen value. Training, distillation and search call the methods of `Task`, so they are
written once for all tasks.
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
"""Target of a token without a tag: padding, special tokens, and all but the first sub-word of a word."""

Labels = npt.NDArray[np.int64] | npt.NDArray[np.float64]
"""Class indices (n,), numbers (n,), or the tags of each row's words (n, most words) with `IGNORED` as padding."""


@runtime_checkable
class WordInputs(Protocol):
    """Preprocessed rows of words, in which the tokens of each word are known."""

    def first_words(self, indices: npt.ArrayLike) -> IntArray:
        """For each token, the index of the word that it begins, or -1; shape (rows, longest)."""


class Labelled(Protocol):
    """The part of a split that a task uses."""

    @property
    def labels(self) -> Labels:
        """Labels of all rows."""

    @property
    def inputs(self) -> object:
        """The preprocessed rows; `WordInputs` where words have tags."""


class Task(Protocol):
    """Defines the labels, the targets, the loss and the metric of a kind of prediction."""

    @property
    def name(self) -> str:
        """Name on the command line: classification, regression or token-classification."""

    @property
    def metric(self) -> str:
        """Name of the objective that `score` computes: accuracy or r2; higher is better."""

    def labels(self, values: Sequence[Any] | npt.NDArray[Any]) -> Labels:
        """Convert labels to the array that a split holds; raises TypeError or ValueError for unsuitable values."""

    def targets(self, split: Labelled, indices: npt.ArrayLike) -> Tensor:
        """Targets of the given rows, in the form that `loss` takes."""

    def loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Mean loss, a float32 scalar.

        Args:
            logits: outputs of the network.
            targets: targets of the same rows, as `targets` returns them.
            smoothing: label smoothing, the share (0..1) of each target that is spread evenly over the classes; it has
                no effect on a regression.

        Raises:
            UserError: the network has no output for a label (found on a CPU only; a GPU reports it in its own way).
        """

    def distillation(self, student: Tensor, teacher: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Distillation loss between the outputs of two networks, a float32 scalar; the teacher gets no gradient.

        For classes and tags this is the Kullback-Leibler divergence of the softened outputs times the squared
        temperature, averaged over rows or over tokens that have a tag (Hinton et al., arXiv 1503.02531, section 2.1).
        For numbers it is the mean squared difference, which does not depend on the temperature.
        """

    def score(self, logits: npt.ArrayLike, split: Labelled) -> float:
        """Compute the metric.

        Args:
            logits: outputs for all rows of `split`, as `nas.data.accuracy.predict` returns them.
            split: the rows and their labels.

        Returns:
            The metric; NaN when an output is NaN or there are no rows.

        Raises:
            UserError: the network has fewer outputs than the labels need.
        """

    def correct(self, logits: npt.ArrayLike, split: Labelled) -> npt.NDArray[np.bool_] | None:
        """Which rows, or tokens with a tag, are predicted correctly (k,), for paired comparisons; None for numbers."""

    def strata(self, labels: Labels) -> IntArray | None:
        """Class of each row (n,) for stratified splitting, or None when rows have no class."""

    def fitted(self, labels: Labels) -> "Task":
        """The task fitted to the labels of the training rows; raises UserError for labels that it cannot use."""

    def to_json(self) -> dict[str, str | float]:
        """JSON values from which `task_of` restores the task."""


@dataclass(frozen=True)
class Classification:
    """One class per row: logits (rows, classes), targets (rows,) int64; the metric is the accuracy."""

    @property
    def name(self) -> str:
        """Always "classification"."""
        return "classification"

    @property
    def metric(self) -> str:
        """Always "accuracy"."""
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
        """Kullback-Leibler divergence of the softened outputs, averaged over rows."""
        inputs, soft = _softened(student, teacher, temperature)
        return temperature**2 * kl_div(inputs, soft, reduction="batchmean")

    def score(self, logits: npt.ArrayLike, split: Labelled) -> float:
        """Accuracy (0..1)."""
        _enough_outputs(logits, split.labels)
        return accuracy(logits, split.labels)

    def correct(self, logits: npt.ArrayLike, split: Labelled) -> npt.NDArray[np.bool_]:
        """Which rows are predicted correctly (n,)."""
        return _right(np.asarray(logits), split.labels)

    def strata(self, labels: Labels) -> IntArray:
        """The classes themselves."""
        return labels.astype(np.int64, copy=False)

    def fitted(self, labels: Labels) -> "Classification":
        """The task itself; it has nothing to fit."""
        return self

    def to_json(self) -> dict[str, str | float]:
        """The name of the task."""
        return {"name": self.name}


@dataclass(frozen=True)
class Regression:
    """One number per row: logits (rows, 1) or (rows,), targets (rows,) float32.

    The network predicts standardised numbers, (label - mean) / std; `values` converts its outputs back.
    The metric is R^2 = 1 - squared error / squared distance of the labels from their mean: 1 is perfect, 0 is as good
    as always predicting that mean, and there is no lower bound.

    Args:
        mean: mean of the labels of the training rows.
        std: standard deviation of the labels of the training rows, above 0.

    Raises:
        ValueError: a value that is not finite, or a `std` that is not positive.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ValueError(f"mean must be a number and std above 0, got {self.mean} and {self.std}")

    @property
    def name(self) -> str:
        """Always "regression"."""
        return "regression"

    @property
    def metric(self) -> str:
        """Always "r2"."""
        return "r2"

    def labels(self, values: Sequence[Any] | npt.NDArray[Any]) -> Labels:
        """Numbers (n,), float64."""
        return np.asarray(values, dtype=np.float64)

    def targets(self, split: Labelled, indices: npt.ArrayLike) -> Tensor:
        """Standardised numbers (rows,), float32."""
        labels = (split.labels[np.asarray(indices, dtype=np.int64)] - self.mean) / self.std
        return torch.from_numpy(labels.astype(np.float32))

    def values(self, logits: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Convert outputs (n, 1) or (n,) to the units of the labels (n,)."""
        return np.asarray(logits, dtype=np.float64).reshape(-1) * self.std + self.mean

    def loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Mean squared error of the standardised numbers; `smoothing` has no effect."""
        return mse_loss(_numbers(logits, len(targets)), targets)

    def distillation(self, student: Tensor, teacher: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Mean squared difference of the standardised numbers."""
        return mse_loss(_numbers(student, len(targets)), _numbers(teacher, len(targets)).detach())

    def score(self, logits: npt.ArrayLike, split: Labelled) -> float:
        """R^2; NaN also when all labels are equal."""
        labels, outputs = split.labels.astype(np.float64), np.asarray(logits)
        if outputs.size != len(labels):
            raise UserError(f"a regression needs one output a row, got {outputs.shape} for {len(labels)} rows")
        spread = float(np.square(labels - labels.mean()).sum()) if len(labels) else 0.0
        if spread == 0 or np.isnan(outputs).any():
            return math.nan
        return 1 - float(np.square(labels - self.values(outputs)).sum()) / spread

    def correct(self, logits: npt.ArrayLike, split: Labelled) -> None:
        """None: a predicted number is not simply right or wrong."""
        return

    def strata(self, labels: Labels) -> None:
        """None: the rows of a regression have no classes."""
        return

    def fitted(self, labels: Labels) -> "Regression":
        """A regression with mean and standard deviation of these labels (n,); UserError when all labels are equal."""
        mean, std = float(labels.mean()), float(labels.std())
        if not std > 0:
            raise UserError(f"the numbers of the training rows must differ, all are {mean}")
        return replace(self, mean=mean, std=std)

    def to_json(self) -> dict[str, str | float]:
        """Name, mean and standard deviation."""
        return {"name": self.name, "mean": self.mean, "std": self.std}


@dataclass(frozen=True)
class TokenClassification:
    """One tag per word: logits (rows, tokens, tags), targets (rows, longest) int64.

    The first sub-word of a word has the tag of the word as its target. All other tokens have the target -100 and count
    neither in the loss nor in the metric, which is the share of words with the right tag. Words lost to truncation do
    not count either.
    """

    @property
    def name(self) -> str:
        """Always "token-classification"."""
        return "token-classification"

    @property
    def metric(self) -> str:
        """Always "accuracy"."""
        return "accuracy"

    def labels(self, values: Sequence[Any] | npt.NDArray[Any]) -> Labels:
        """Tags (n, most words), int64, padded with -100; from lists of tags or from an array that is already padded.

        Words after the last one of all rows with a tag are left out: they have none.
        """
        rows = [np.asarray(tags, dtype=np.int64) for tags in values]
        padded = np.full((len(rows), max(map(len, rows), default=0)), IGNORED, dtype=np.int64)
        for number, tags in enumerate(rows):
            padded[number, : len(tags)] = tags
        used = np.flatnonzero((padded != IGNORED).any(axis=0))
        return padded[:, : used[-1] + 1 if len(used) else 0]

    def targets(self, split: Labelled, indices: npt.ArrayLike) -> Tensor:
        """Tags of tokens (rows, longest), int64, -100 for tokens without a tag."""
        rows = np.asarray(indices, dtype=np.int64)
        words = first_words(split.inputs, rows)
        # The last column stands for the tokens that begin no word, and for the words behind the last tag.
        tags = np.pad(split.labels[rows].astype(np.int64, copy=False), ((0, 0), (0, 1)), constant_values=IGNORED)
        none = tags.shape[1] - 1
        return torch.from_numpy(np.take_along_axis(tags, np.where((words < 0) | (words > none), none, words), axis=1))

    def loss(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Cross-entropy, averaged over the tokens that have a tag; 0 when none has."""
        total = _cross_entropy(logits.flatten(0, 1), targets.flatten(), smoothing, "sum")
        return total / _tagged(targets).sum().clamp(min=1)

    def distillation(self, student: Tensor, teacher: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Kullback-Leibler divergence, averaged over the tokens that have a tag; 0 when none has."""
        inputs, soft = _softened(student, teacher, temperature)
        tagged = _tagged(targets)
        each = kl_div(inputs, soft, reduction="none").sum(-1) * tagged
        return temperature**2 * each.sum() / tagged.sum().clamp(min=1)

    def score(self, logits: npt.ArrayLike, split: Labelled) -> float:
        """Share (0..1) of the words whose tag is predicted correctly."""
        outputs, labels = self._tagged(logits, split)
        _enough_outputs(outputs, labels)
        return accuracy(outputs, labels)

    def correct(self, logits: npt.ArrayLike, split: Labelled) -> npt.NDArray[np.bool_]:
        """Which words are tagged correctly (k,), row after row."""
        return _right(*self._tagged(logits, split))

    def _tagged(self, logits: npt.ArrayLike, split: Labelled) -> tuple[npt.NDArray[Any], IntArray]:
        """Outputs (k, tags) and targets (k,) of the tokens that have a tag."""
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
        """None: a row has many tags and so no single class."""
        return

    def fitted(self, labels: Labels) -> "TokenClassification":
        """The task itself; it has nothing to fit."""
        return self

    def to_json(self) -> dict[str, str | float]:
        """The name of the task."""
        return {"name": self.name}


CLASSIFICATION: Task = Classification()
TASKS: Mapping[str, Task] = {task.name: task for task in (CLASSIFICATION, Regression(), TokenClassification())}
"""Tasks by their name on the command line; the regression is not fitted yet."""


def task_of(values: object) -> Task:
    """Restore a task from what `to_json` returned; raises ValueError for anything else."""
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
    """`first_words` of preprocessed rows (rows, longest); raises UserError when the rows are not made of words."""
    if not isinstance(inputs, WordInputs):
        raise UserError("token classification needs rows of words, got inputs that are not made of words")
    return inputs.first_words(indices)


def accuracy(logits: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Share (0..1) of rows whose largest logit (n, classes) is at their label (n,); NaN if a logit is NaN or n is 0."""
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
        # Only the CPU kernel checks the targets; checking them here first would stall a GPU at each step.
        raise UserError(
            f"the network has {logits.shape[-1]} outputs, but the data has at least {int(targets.max()) + 1} labels"
        ) from error


def _softened(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the student and probabilities of the teacher, both at this temperature."""
    soft = softmax(teacher.detach().float() / temperature, dim=-1)
    return log_softmax(student.float() / temperature, dim=-1), soft


def _tagged(targets: Tensor) -> Tensor:
    return targets != IGNORED


def _numbers(logits: Tensor, rows: int) -> Tensor:
    if logits.numel() != rows:
        raise UserError(f"a regression needs one output a row, got {tuple(logits.shape)} for {rows} rows")
    return logits.float().reshape(rows)
