"""Tasks: losses and scores against plain formulas, targets aligned with tokens, and labels without an output."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from nas.data.accuracy import predict
from nas.data.split import Split
from nas.data.tasks import IGNORED, TASKS, Classification, Regression, TokenClassification, accuracy, task_of
from nas.errors import UserError


@dataclass(frozen=True)
class Words:
    """Rows of 1, 3 and 2 words; the second word of row 1 has two tokens; every row has a token before and behind."""

    words = ((-1, 0, -1), (-1, 0, 1, -1, 2, -1), (-1, 0, 1, -1))

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(row) for row in self.words])

    def _padded(self, indices) -> np.ndarray:
        rows = [self.words[i] for i in np.asarray(indices)]
        width = max(len(row) for row in rows)
        return np.array([[*row, *[-1] * (width - len(row))] for row in rows])

    def batch(self, indices) -> dict[str, torch.Tensor]:
        return {"ids": torch.from_numpy(self._padded(indices)), "rows": torch.as_tensor(np.asarray(indices))}

    def first_words(self, indices) -> np.ndarray:
        return self._padded(indices)


TAGS = np.array([[2, IGNORED, IGNORED], [0, 1, 2], [1, 1, IGNORED]])
TOKENS = Split(("a", "b", "c"), TAGS, Words(), TokenClassification())


def split(labels, task) -> Split:
    return Split(tuple("abcdefgh"[: len(labels)]), np.asarray(labels), Words(), task)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Classification ------------------------------------------------------------------------------------------------------


def test_classification() -> None:
    rows, logits = split([0, 2, 1, 2], Classification()), normal(4, 3)
    targets = rows.targets([1, 3])
    assert (targets.dtype, targets.tolist()) == (torch.int64, [2, 2])
    task = rows.task
    assert torch.equal(task.loss(logits, rows.targets(range(4))), cross_entropy(logits, rows.targets(range(4))))
    smooth = task.loss(logits, rows.targets(range(4)), smoothing=0.2)
    uniform = -logits.log_softmax(-1).mean()
    assert smooth.item() == pytest.approx((0.8 * task.loss(logits, rows.targets(range(4))) + 0.2 * uniform).item())
    right = logits.argmax(1).numpy() == rows.labels
    assert task.score(logits, rows) == right.mean()
    assert task.correct(logits.numpy(), rows).tolist() == right.tolist()


def test_a_nan_or_no_rows_score_nan() -> None:
    rows = split([0, 1], Classification())
    assert math.isnan(rows.task.score([[0.0, math.nan], [1.0, 0.0]], rows))
    assert math.isnan(accuracy(np.zeros((0, 0)), []))
    numbers = split([0.5, 1.5], Regression())
    assert math.isnan(numbers.task.score([[0.0], [math.nan]], numbers))
    assert math.isnan(numbers.task.score([[1.0], [2.0]], split([1.0, 1.0], Regression())))


# Regression ----------------------------------------------------------------------------------------------------------


def test_regression_learns_standardised_numbers() -> None:
    labels = np.array([3.0, 5.0, 10.0, 6.0])
    task = Regression().fitted(labels)
    rows = split(labels, task)
    targets = rows.targets(range(4))
    assert targets.dtype == torch.float32
    assert targets.mean().item() == pytest.approx(0, abs=1e-6)
    assert targets.std(unbiased=False).item() == pytest.approx(1)
    assert task.values(targets.numpy()) == pytest.approx(labels, rel=1e-6)
    logits = normal(4, 1)
    assert task.loss(logits, targets).item() == pytest.approx(((logits[:, 0] - targets) ** 2).mean().item())
    assert torch.equal(task.loss(logits[:, 0], targets), task.loss(logits, targets, smoothing=0.5))


def test_r2_is_1_for_the_truth_0_for_the_mean_and_that_of_the_formula_between() -> None:
    labels = np.array([3.0, 5.0, 10.0, 6.0])
    task = Regression(2.0, 4.0)
    rows = split(labels, task)
    assert task.score((labels - 2) / 4, rows) == pytest.approx(1)
    assert task.score(np.full((4, 1), (labels.mean() - 2) / 4), rows) == pytest.approx(0)
    guess = np.array([4.0, 5.0, 8.0, 6.0])
    expected = 1 - ((guess - labels) ** 2).sum() / ((labels - labels.mean()) ** 2).sum()
    assert task.score((guess - 2) / 4, rows) == pytest.approx(expected)
    assert task.correct(guess, rows) is None


def test_regression_refuses_what_it_cannot_use() -> None:
    with pytest.raises(UserError, match=r"must differ, all are 2\.0"):
        Regression().fitted(np.array([2.0, 2.0]))
    with pytest.raises(UserError, match="one output a row"):
        Regression().loss(normal(4, 3), torch.zeros(4))
    with pytest.raises(UserError, match="one output a row"):
        Regression().score(np.zeros((2, 2)), split([0.0, 1.0], Regression()))
    with pytest.raises(ValueError, match="std above 0"):
        Regression(0.0, 0.0)


# Tokens --------------------------------------------------------------------------------------------------------------


def test_tags_stand_on_the_first_token_of_their_word() -> None:
    n = IGNORED
    assert TOKENS.targets([0, 1]).tolist() == [[n, 2, n, n, n, n], [n, 0, 1, n, 2, n]]
    assert TOKENS.targets([2]).tolist() == [[n, 1, 1, n]]
    some = TOKENS.take(2, np.random.default_rng(1))
    kept = [TOKENS.rows.index(row) for row in some.rows]
    assert some.targets([1, 0]).equal(TOKENS.targets(kept[::-1]))


def test_token_losses_are_means_over_the_words() -> None:
    targets, logits, teacher = TOKENS.targets(range(3)), normal(3, 6, 4), normal(3, 6, 4, seed=1)
    tagged, task = targets != IGNORED, TOKENS.task
    plain = Classification()
    assert task.loss(logits, targets).item() == pytest.approx(plain.loss(logits[tagged], targets[tagged]).item())
    smooth = plain.loss(logits[tagged], targets[tagged], 0.1).item()
    assert task.loss(logits, targets, 0.1).item() == pytest.approx(smooth)
    distilled = task.distillation(logits, teacher, targets, 2.0).item()
    assert distilled == pytest.approx(
        plain.distillation(logits[tagged], teacher[tagged], targets[tagged], 2.0).item(), rel=1e-5
    )
    nothing = torch.full((2, 3), IGNORED)
    assert task.loss(normal(2, 3, 4), nothing).item() == 0
    assert task.distillation(normal(2, 3, 4), normal(2, 3, 4), nothing, 1.0).item() == 0


def test_token_logits_of_batches_of_unequal_width_are_put_together() -> None:
    table = normal(3, 6, 4).numpy()

    def forward(ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(table[rows.numpy(), : ids.shape[1]])

    logits = predict(forward, TOKENS, batch_size=1)
    assert logits.shape == (3, 6, 4)
    for number, length in enumerate(Words().lengths):
        assert np.array_equal(logits[number, :length], table[number, :length])
    right = [table[0, 1].argmax() == 2, table[1, 1].argmax() == 0, table[1, 2].argmax() == 1, table[1, 4].argmax() == 2]
    right += [table[2, 1].argmax() == 1, table[2, 2].argmax() == 1]
    assert TOKENS.task.correct(logits, TOKENS).tolist() == right
    assert TOKENS.task.score(logits, TOKENS) == pytest.approx(np.mean(right))


# Distillation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_distillation_is_zero_between_equals_and_teaches_the_student_alone(task) -> None:
    shape = {"classification": (5, 3), "regression": (5, 1), "token-classification": (3, 6, 3)}[task.name]
    targets = TOKENS.targets(range(3)) if len(shape) == 3 else torch.zeros(5)
    student, teacher = normal(*shape).requires_grad_(), normal(*shape, seed=1).requires_grad_()
    assert task.distillation(student, student.detach(), targets, 3.0).item() == pytest.approx(0, abs=1e-6)
    loss = task.distillation(student, teacher, targets, 3.0)
    assert loss.item() > 0
    loss.backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_distillation_is_the_divergence_of_the_softened_rows() -> None:
    student, teacher = normal(4, 3), normal(4, 3, seed=1)
    p, q = (teacher / 5).softmax(1), (student / 5).softmax(1)
    expected = 25 * (p * (p / q).log()).sum(1).mean()
    found = Classification().distillation(student, teacher, torch.zeros(4), 5.0)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


# Records and bad input -----------------------------------------------------------------------------------------------


def test_a_task_comes_back() -> None:
    for task in (Classification(), Regression(1.5, 0.25), TokenClassification()):
        assert task_of(task.to_json()) == task


@pytest.mark.parametrize("values", [None, "classification", {}, {"name": "x"}, {"name": "regression", "mean": "1"}])
def test_a_record_that_is_no_task_is_refused(values: object) -> None:
    with pytest.raises(ValueError, match=r"a task is one of|has a mean and a std"):
        task_of(values)


def test_more_labels_than_outputs_are_refused() -> None:
    message = "has 2 outputs, but the data has at least 3 labels"
    rows = split([0, 2], Classification())
    with pytest.raises(UserError, match=message):
        rows.task.loss(normal(2, 2), rows.targets([0, 1]))
    with pytest.raises(UserError, match=message):
        rows.task.score(normal(2, 2), rows)
    with pytest.raises(UserError, match=message):
        TOKENS.task.loss(normal(3, 6, 2), TOKENS.targets(range(3)))
    with pytest.raises(UserError, match=message):
        TOKENS.task.score(np.zeros((3, 6, 2)), TOKENS)


def test_tags_need_outputs_for_every_token_and_rows_of_words() -> None:
    with pytest.raises(UserError, match="outputs for every token"):
        TOKENS.task.score(np.zeros((3, 2)), TOKENS)

    class Pixels:
        lengths = np.ones(3)

    with pytest.raises(UserError, match="rows of words"):
        Split(("a",), TAGS, Pixels(), TokenClassification()).targets([0])
