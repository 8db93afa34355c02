"""A step of InstaTune is the same however its rows are divided, for rows with one target and for rows with many."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from test_hidden_states import HIGH
from torch import Tensor, nn

from nas.data.rows import terms
from nas.data.split import Split
from nas.learning.instatune import instatune
from search_spaces import Supernet, space
from tests import toy_task


def test_terms_are_what_a_loss_is_a_mean_of() -> None:
    train = toy_task.tagged(9)
    counts = terms(train.targets(range(9)))
    assert sorted(set(counts.tolist()))[0] == 1 < counts.max()
    logits = torch.randn(*train.targets(range(9)).shape, 2)
    each = torch.stack([train.task.loss(logits[[row]], train.targets(range(9))[[row]]) for row in range(9)])
    torch.testing.assert_close(train.task.loss(logits, train.targets(range(9))), (each * counts).sum() / counts.sum())
    assert terms(torch.tensor([0, 1, 1])).tolist() == terms(torch.randn(3, 4)).tolist() == [1, 1, 1]


def classified() -> tuple[Supernet, nn.Module, Split]:
    return toy_task.supernet(dropout=0.0), toy_task.bert(seed=1), toy_task.split(9)


def tagged() -> tuple[Supernet, nn.Module, Split]:
    model = toy_task.tagger(dropout=0.0)
    return Supernet(model, space(model, depth=(1, 2), ffn=(8, 24))), toy_task.tagger(seed=1), toy_task.tagged(9)


@pytest.mark.parametrize("made", [classified, tagged])
def test_a_step_is_the_same_however_its_rows_are_divided(
    made: Callable[[], tuple[Supernet, nn.Module, Split]],
) -> None:
    def weights(accumulate: int) -> dict[str, Tensor]:
        supernet, teacher, train = made()
        config = replace(HIGH, batch_size=9, accumulate=accumulate, learning_rate=1e-3, clip_norm=1e9)
        gradients: dict[str, Tensor] = {}

        def on_step(step) -> None:
            gradients.update({n: p.grad.clone() for n, p in supernet.model.named_parameters() if p.grad is not None})

        instatune(supernet, train, config, teacher=teacher, on_step=on_step)
        return gradients

    whole, parts = weights(1), weights(4)
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-6)
