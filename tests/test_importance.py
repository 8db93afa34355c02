"""Importance: the order changes no output, finds units that do nothing, and follows from its seed."""

import torch

from nas.importance import ImportanceConfig, importance, order_by_importance
from tests import toy_task

CONFIG = ImportanceConfig(warmup_steps=5, batches=4, batch_size=8)


def test_the_full_network_stays_and_its_training_state_too() -> None:
    supernet, train = toy_task.supernet().eval(), toy_task.split()
    batch = train.batch(range(10))
    before, weights = supernet.model(**batch).logits, toy_task.weights(supernet)
    order_by_importance(supernet, train, CONFIG)
    assert torch.allclose(supernet.model(**batch).logits, before, atol=1e-6)
    assert not toy_task.same(weights, toy_task.weights(supernet))
    assert not supernet.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in supernet.parameters())


def test_units_that_do_nothing_come_last() -> None:
    supernet = toy_task.supernet()
    layer = supernet.model.bert.encoder.layer[0]
    with torch.no_grad():
        layer.output.dense.weight[:, [3, 7]] = 0
        layer.intermediate.dense.weight[[3, 7]] = 0
        layer.intermediate.dense.bias[[3, 7]] = 0
        layer.attention.output.dense.weight[:, 4:8] = 0
        layer.attention.self.value.weight[4:8] = 0
        layer.attention.self.value.bias[4:8] = 0
    scores = importance(supernet, toy_task.split(), ImportanceConfig(warmup_steps=0, batches=3, batch_size=8))
    assert set(scores) == {"heads.0", "heads.1", "ffn.0", "ffn.1"}
    assert set(scores["ffn.0"].argsort()[:2].tolist()) == {3, 7}
    assert int(scores["heads.0"].argmin()) == 1
    order_by_importance(supernet, toy_task.split(), ImportanceConfig(warmup_steps=0, batches=3, batch_size=8))
    assert not layer.output.dense.weight[:, -2:].any()
    assert not layer.attention.output.dense.weight[:, 12:].any()


def test_the_seed_decides_everything() -> None:
    first, again = (importance(toy_task.supernet(), toy_task.split(), CONFIG) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
