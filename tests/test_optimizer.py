"""Laws of the parameter groups: who decays, and how the learning rate falls from the head to the embeddings."""

import math
import re

import pytest
import torch
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
)

from nas.errors import UserError
from nas.learning.optimizer import AdamW, Sgd, layer_depths
from nas.learning.schedule import Cosine
from nas.learning.training import TrainingConfig, fit
from nas.seeds import generator
from search_spaces.families.beit3 import Beit3Config, Beit3ForVisualQuestionAnswering
from tests import families, networks, toy_images, toy_rows, toy_task

_BLOCK = re.compile(r"layers?\.(\d+)\.")


def depth_of(module: nn.Module, part: str) -> set[int]:
    """Depths of the parameters whose name holds `part`."""
    found = {depth for name, depth in layer_depths(module).items() if part in name}
    assert found, part
    return found


@pytest.mark.parametrize("family", families.NAMES)
def test_a_transformer_has_embeddings_blocks_and_a_head(family: str) -> None:
    module = families.build(family)
    count = module.config.num_hidden_layers
    depths = layer_depths(module)
    assert set(depths) == {name for name, _ in module.named_parameters()}
    assert depth_of(module, "embeddings") == {0}
    assert depth_of(module, "classifier") == {count + 1}
    numbered = {(int(found[1]), depth) for name, depth in depths.items() if (found := _BLOCK.search(name))}
    assert numbered == {(block, block + 1) for block in range(count)}


def test_blocks_of_stages_count_through() -> None:
    module = SwinForImageClassification(
        SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[2, 3], num_heads=[2, 2], window_size=2)
    )
    found = [
        depth_of(module, f"layers.{stage}.blocks.{block}.")
        for stage, blocks in ((0, 2), (1, 3))
        for block in range(blocks)
    ]
    assert found == [{1}, {2}, {3}, {4}, {5}]
    assert depth_of(module, "downsample") == {2}
    assert depth_of(module, "embeddings") == {0}
    assert depth_of(module, "classifier") == {6}


def test_residual_blocks_count_where_stages_hold_lists_of_layers() -> None:
    module = ResNetForImageClassification(
        ResNetConfig(embedding_size=4, hidden_sizes=[4, 8, 12], depths=[1, 3, 2], layer_type="basic")
    )
    places = [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]
    found = [depth_of(module, f"stages.{stage}.layers.{layer}.") for stage, layer in places]
    assert found == [{1}, {2}, {3}, {4}, {5}, {6}]
    assert depth_of(module, "embedder.embedder") == {0}
    assert depth_of(module, "classifier") == {7}


def test_a_block_that_is_used_again_and_again_is_one() -> None:
    config = AlbertConfig(
        vocab_size=9, embedding_size=4, hidden_size=8, num_attention_heads=2, intermediate_size=8, num_hidden_layers=3
    )
    module = AlbertForSequenceClassification(config)
    assert depth_of(module, "embeddings") == {0}
    assert depth_of(module, "albert_layers") == {1}
    assert depth_of(module, "pooler") == depth_of(module, "classifier") == {2}


def test_beit3_counts_both_experts_of_a_block_once() -> None:
    config = Beit3Config(width=8, layers=3, heads=2, ffn=8, image_size=8, patch_size=4, vocabulary=9, text_rows=9)
    module = Beit3ForVisualQuestionAnswering(config, 3)
    assert [depth_of(module, f"layers.{block}.") for block in range(3)] == [{1}, {2}, {3}]
    assert depth_of(module, "embed") == {0}
    assert depth_of(module, "pooler") == depth_of(module, "head") == {4}


def test_networks_that_no_library_knows() -> None:
    mobile = networks.MobileLike()
    assert depth_of(mobile, "stem") == {0}
    assert [depth_of(mobile, f"blocks.{block}.") for block in range(3)] == [{1}, {2}, {3}]
    assert depth_of(mobile, "head") == {4}
    supernet = toy_task.supernet()
    assert list(layer_depths(supernet).values()) == list(layer_depths(supernet.model).values())


def test_a_plain_chain_counts_its_layers() -> None:
    chain = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    assert list(layer_depths(chain).values()) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_an_embedding_is_lowest_wherever_it_stands() -> None:
    module = nn.ModuleDict({"model": networks.PlainTransformer(networks.FusedBlock), "relative": nn.Embedding(4, 2)})
    assert depth_of(module, "relative") == {0}
    assert depth_of(module, "head") == {4}


def test_a_step_moves_each_depth_by_its_share() -> None:
    """The first step of AdamW without weight decay moves every weight with a gradient by the learning rate."""
    module = toy_images.network()
    before = toy_task.weights(module)

    def everything(forward: object, batch: object, targets: object, step: int) -> torch.Tensor:
        return sum(p.sum() for p in module.parameters())

    config = TrainingConfig(steps=1, learning_rate=1e-2, layer_decay=0.5, weight_decay=0, warmup_share=0)
    fit(module, toy_images.split(8), everything, config)
    shares = {"stem": 1 / 8, "blocks.0": 1 / 4, "blocks.1": 1 / 2, "head": 1}
    for name, parameter in module.named_parameters():
        share = next(value for part, value in shares.items() if name.startswith(part))
        torch.testing.assert_close(
            before[name] - parameter, torch.full_like(parameter, 1e-2 * share), rtol=1e-2, atol=1e-5
        )


@pytest.mark.parametrize("optimizer", [AdamW(), Sgd()])
def test_groups_hold_every_trainable_parameter_once(optimizer: AdamW | Sgd) -> None:
    module = toy_task.bert()
    module.classifier.bias.requires_grad_(False)
    for decay in (1.0, 0.9):
        groups = optimizer.make(module, 1e-3, 0.1, decay).param_groups
        held = [id(p) for group in groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in module.parameters() if p.requires_grad)
        assert all(group["weight_decay"] == (0.1 if group["params"][0].ndim > 1 else 0) for group in groups)
    assert len(optimizer.make(module, 1e-3, 0.1, 1.0).param_groups) == 2


SETTINGS = {
    "plain": Sgd(momentum=0.0, decay_all=True),
    "momentum": Sgd(momentum=0.8, decay_all=True),
    "nesterov": Sgd(momentum=0.9, nesterov=True, decay_all=True),
}


@pytest.mark.parametrize("how", SETTINGS)
@pytest.mark.parametrize("warmup", [0, 3])
def test_sgd_and_cosine_train_as_a_plain_loop_does(how: str, warmup: int) -> None:
    """Bit by bit, over two epochs and a half."""
    sgd, rows, steps = SETTINGS[how], toy_rows.pairs(), 10
    config = TrainingConfig(
        steps=steps,
        batch_size=16,
        learning_rate=0.1,
        weight_decay=0.01,
        warmup_share=warmup / steps,
        clip_norm=math.inf,
        optimizer=sgd,
        schedule=Cosine(),
    )
    fitted = toy_rows.network()
    history = fit(fitted, rows, toy_rows.squared_error, config)

    module, losses = toy_rows.network().train(), []
    optimizer = torch.optim.SGD(
        module.parameters(), lr=0.1, momentum=sgd.momentum, nesterov=sgd.nesterov, weight_decay=0.01
    )
    batches = [batch for epoch in range(3) for batch in rows.batches(16, generator(0, "batches", epoch))]
    for number, indices in enumerate(batches[:steps]):
        falling = (1 + math.cos(math.pi * (number - warmup) / (steps - warmup))) / 2
        optimizer.param_groups[0]["lr"] = 0.1 * (number + 1) / warmup if number < warmup else 0.1 * falling
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(module(rows.batch(indices)["x"]), rows.targets(indices))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert [step.loss for step in history.steps] == losses
    assert toy_task.same(toy_task.weights(fitted), toy_task.weights(module))


def test_cosine_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler, rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20), []
    for _ in range(20):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    config = TrainingConfig(learning_rate=0.3, warmup_share=0, schedule=Cosine())
    assert [config.rate(step, 20) for step in range(1, 21)] == pytest.approx(rates)


@pytest.mark.parametrize("decay_all", [False, True])
def test_sgd_decays_biases_and_norms_where_it_is_told_to(decay_all: bool) -> None:
    module = toy_rows.network()
    before = toy_task.weights(module)

    def no_gradient(forward: object, batch: object, targets: object, step: int) -> torch.Tensor:
        return sum((p * 0).sum() for p in module.parameters())

    config = TrainingConfig(
        steps=1, learning_rate=0.1, weight_decay=0.5, warmup_share=0, optimizer=Sgd(decay_all=decay_all)
    )
    fit(module, toy_rows.pairs(), no_gradient, config)
    for name, parameter in module.named_parameters():
        share = 0.95 if decay_all or parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter, before[name] * share)


def test_sgd_has_learning_rates_by_depth() -> None:
    module = toy_images.network()
    groups = Sgd().make(module, 1e-3, 0.1, 0.5).param_groups
    assert sorted({group["scale"] for group in groups}) == [1 / 8, 1 / 4, 1 / 2, 1]


@pytest.mark.parametrize("momentum", [-0.1, 1.0, float("nan")])
def test_refuses_a_momentum_that_cannot_work(momentum: float) -> None:
    with pytest.raises(UserError, match="momentum must be at least 0 and below 1"):
        Sgd(momentum=momentum)


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(UserError, match="momentum must be above 0"):
        Sgd(momentum=0, nesterov=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"optimizer": "sgd"}, r"optimizer must be AdamW\(...\) or Sgd\(...\) of nas.learning, got 'sgd'"),
        ({"schedule": Cosine}, r"schedule must be Linear\(...\) or Cosine\(...\) of nas.learning, got <class"),
    ],
)
def test_refuses_optimizers_and_schedules_that_it_does_not_know(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainingConfig(**wrong)
