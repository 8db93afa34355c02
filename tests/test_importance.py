"""Importance: the order changes no output, finds units that do nothing, and follows from its seed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from nas.data.split import make_split
from nas.errors import UserError
from nas.learning.importance import ImportanceConfig, importance, order_by_importance
from search_spaces import AxisCut, Choice, Space, Supernet, space
from tests import toy_images, toy_task

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


def still(kind: str, **settings) -> ImportanceConfig:
    """Judge the network as it is."""
    return ImportanceConfig(kind=kind, warmup_steps=0, batches=3, batch_size=8, **settings)


KINDS = ("taylor", "magnitude", "activation")


def silence(supernet: Supernet) -> None:
    """Features 3 and 7, and head 1, of block 0 do nothing."""
    layer = supernet.model.bert.encoder.layer[0]
    with torch.no_grad():
        layer.output.dense.weight[:, [3, 7]] = 0
        layer.intermediate.dense.weight[[3, 7]] = 0
        layer.intermediate.dense.bias[[3, 7]] = 0
        for part in (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value):
            part.weight[4:8] = 0
            part.bias[4:8] = 0
        layer.attention.output.dense.weight[:, 4:8] = 0


@pytest.mark.parametrize("kind", KINDS)
def test_units_that_do_nothing_come_last(kind: str) -> None:
    supernet = toy_task.supernet()
    silence(supernet)
    scores = importance(supernet, toy_task.split(), still(kind))
    assert set(scores) == {"heads.0", "heads.1", "ffn.0", "ffn.1"}
    assert all(score.dtype == torch.float64 and (score >= 0).all() for score in scores.values())
    assert set(scores["ffn.0"].argsort()[:2].tolist()) == {3, 7}
    assert int(scores["heads.0"].argmin()) == 1
    order_by_importance(supernet, toy_task.split(), still(kind))
    layer = supernet.model.bert.encoder.layer[0]
    assert not layer.output.dense.weight[:, -2:].any()
    assert not layer.attention.output.dense.weight[:, 12:].any()


def test_magnitude_is_the_norm_of_all_weights_of_a_unit() -> None:
    supernet = toy_task.supernet()
    layer = supernet.model.bert.encoder.layer[1]
    weights = torch.cat([layer.intermediate.dense.weight, layer.intermediate.dense.bias[:, None]], dim=1)
    weights = torch.cat([weights, layer.output.dense.weight.T], dim=1).double()
    for norm in (1, 2):
        scores = importance(supernet, toy_task.split(), still("magnitude", norm=norm))
        torch.testing.assert_close(scores["ffn.1"], weights.norm(p=norm, dim=1))


def test_activations_of_gpt2_are_read_along_the_other_axis() -> None:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    sizes = {"n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 24, "pad_token_id": 0}
    model = GPT2ForSequenceClassification(GPT2Config(vocab_size=len(toy_task.WORDS), **sizes)).eval()
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight[:, [3, 7]] = 0
        model.transformer.h[0].mlp.c_fc.bias[[3, 7]] = 0
        model.transformer.h[1].attn.c_attn.weight[:, 72:80] = 0
        model.transformer.h[1].attn.c_attn.bias[72:80] = 0
    supernet = Supernet(model, space(model, depth=(1, 2), heads=(2, 4), ffn=(0.5,)))
    scores = importance(supernet, toy_task.split(), still("activation"))
    assert set(scores["ffn.0"].argsort()[:2].tolist()) == {3, 7}
    assert int(scores["heads.1"].argmin()) == 1


def test_activation_is_what_the_next_layer_reads() -> None:
    supernet, train = toy_task.supernet(), toy_task.split(24)
    scores = importance(supernet, train, ImportanceConfig("activation", warmup_steps=0, batches=1, batch_size=24))
    seen = {}
    layer = supernet.model.bert.encoder.layer[1]
    layer.output.dense.register_forward_pre_hook(lambda module, args: seen.update(ffn=args[0]))
    layer.attention.output.dense.register_forward_pre_hook(lambda module, args: seen.update(heads=args[0]))
    supernet.model(**train.batch(range(24)))
    torch.testing.assert_close(scores["ffn.1"], seen["ffn"].abs().double().mean((0, 1)))
    heads = seen["heads"].abs().double().mean((0, 1)).reshape(4, 4).sum(1)
    torch.testing.assert_close(scores["heads.1"], heads)


def test_activation_counts_the_channels_of_grouped_convolutions() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 3, groups=2), nn.Flatten(), nn.Linear(16, 2))
    inside = AxisCut("2.weight", 1, 0, 1, 4, 1)
    made = tuple(AxisCut(name, 0, 0, 2, 4, 1) for name in ("0.weight", "0.bias"))
    out = (AxisCut("2.weight", 0, 0, 1, 4, 1), AxisCut("4.weight", 1, 0, 1, 4, 4))
    space = Space((Choice("inside", (2, 4), cuts=(*made, inside)), Choice("out", (2, 4), cuts=out)))
    rows = make_split(["x"] * 6, [0, 1] * 3, Pixels())
    scores = importance(Supernet(model, space), rows, ImportanceConfig("activation", 1, 0, batches=1, batch_size=6))
    hidden = model[:2](rows.batch(range(6))["input"]).detach().double()
    torch.testing.assert_close(scores["inside"], hidden.reshape(6, 2, 4, 16).mean((0, 3)).sum(0))
    read = model[:4](rows.batch(range(6))["input"]).detach().abs().double()
    torch.testing.assert_close(scores["out"], read.mean(0).reshape(4, 4).sum(1))


class Pixels:
    """Six random images."""

    kind = "image"
    lengths = np.ones(6, dtype=np.int64)

    def prepare(self, rows, max_tokens):
        return self

    def batch(self, indices):
        pixels = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        return {"input": pixels[torch.as_tensor(np.asarray(indices))]}

    def save(self, folder): ...


def test_units_that_no_layer_reads_have_no_activation() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    choice = Choice("ffn", (2, 4), cuts=(AxisCut("0.weight", 0, 0, 1, 4, 1),))
    with pytest.raises(UserError, match="take the kind taylor or magnitude"):
        importance(Supernet(model, Space((choice,))), make_split(["x"] * 6, [0, 1] * 3, Pixels()), still("activation"))


@pytest.mark.parametrize("kind", ["activation", "taylor"])
def test_what_is_judged_stays_as_it_is(kind: str) -> None:
    supernet, train = toy_task.supernet(), toy_task.split()
    before = toy_task.weights(supernet)
    importance(supernet, train, replace(CONFIG, kind=kind))
    assert toy_task.same(before, toy_task.weights(supernet))
    assert not any(module._forward_pre_hooks for module in supernet.modules())


def test_none_leaves_the_order() -> None:
    supernet = toy_task.supernet()
    before = toy_task.weights(supernet)
    order_by_importance(supernet, toy_task.split(), ImportanceConfig(kind="none"))
    assert toy_task.same(before, toy_task.weights(supernet))


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_everything(kind: str) -> None:
    config = replace(CONFIG, kind=kind)
    first, again = (importance(toy_task.supernet(), toy_task.split(), config) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("wrong", [{"kind": "random"}, {"norm": 3}, {"batches": 0}, {"warmup_steps": -1}])
def test_refuses_settings_that_cannot_work(wrong: dict) -> None:
    with pytest.raises(UserError, match=f"{next(iter(wrong))} must be"):
        ImportanceConfig(**wrong)


def test_refuses_to_judge_without_rows() -> None:
    with pytest.raises(UserError, match="at least one training row"):
        importance(toy_task.supernet(), toy_task.split(4).take(0, np.random.default_rng(0)), still("taylor"))


@pytest.mark.parametrize("kind", KINDS)
def test_channels_and_widths_of_convolutions_are_ordered_and_the_outputs_stay(kind: str) -> None:
    supernet, rows = toy_images.supernet(), toy_images.split(16)
    with torch.no_grad():
        block = supernet.model.blocks[1]
        for parameter in (block.first.weight, block.first.bias, block.norm.weight, block.norm.bias):
            parameter[2] = 0
        block.second.weight[:, 2] = 0
        before = supernet.model(**rows.batch(range(8)))
    scores = importance(supernet, rows, still(kind))
    assert {name.partition(".")[0] for name in scores} == {"width", "channels"}
    assert int(scores["channels.blocks.1.first"].argmin()) == 2
    order_by_importance(supernet, rows, still(kind))
    with torch.no_grad():
        torch.testing.assert_close(supernet.model(**rows.batch(range(8))), before, rtol=1e-4, atol=1e-6)
        assert not block.second.weight[:, -1].any()
