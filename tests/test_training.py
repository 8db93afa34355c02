"""Laws of the training loop: it learns, it follows from its seed, and it leaves the module as a user expects it."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from nas.errors import UserError
from nas.instatune import InstaTuneConfig, instatune
from nas.training import (
    TrainingConfig,
    TrainingFailed,
    accuracy,
    fine_tune,
    fit,
    logits_of,
    paired_difference,
    predict,
)
from tests import toy_task


def test_learns_a_task_and_reports_every_step() -> None:
    module, train, seen = toy_task.bert(), toy_task.split(80), []
    history = fine_tune(module, train, TrainingConfig(epochs=6, batch_size=8, learning_rate=5e-3), on_step=seen.append)
    assert len(history.steps) == 60
    assert tuple(seen) == history.steps
    assert [step.step for step in seen] == list(range(1, 61))
    assert history.steps[-1].loss < history.steps[0].loss
    test = toy_task.split(50, seed=1)
    assert accuracy(predict(module, test), test.labels) > 0.95


def test_the_seed_decides_everything() -> None:
    def train(seed: int) -> dict[str, torch.Tensor]:
        module = toy_task.bert()
        fine_tune(module, toy_task.split(), TrainingConfig(steps=5, batch_size=8, seed=seed))
        torch.rand(3)  # the state of the global generator must not matter
        return toy_task.weights(module)

    first = train(0)
    assert toy_task.same(first, train(0))
    assert not toy_task.same(first, train(1))


def test_leaves_modes_gradients_and_the_global_generator_alone() -> None:
    module = toy_task.bert()
    module.bert.pooler.train()
    state = torch.get_rng_state()
    names = set(module.__dict__)
    fine_tune(module, toy_task.split(), TrainingConfig(steps=2, batch_size=8, freeze_embeddings=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert not module.training
    assert module.bert.pooler.training
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
    assert set(module.__dict__) == names


def test_frozen_embeddings_stay_and_the_rest_moves() -> None:
    module = toy_task.bert()
    before = toy_task.weights(module)
    fine_tune(module, toy_task.split(), TrainingConfig(steps=3, batch_size=8, freeze_embeddings=True))
    moved = {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not any("_embeddings." in name for name in moved)
    assert {"bert.embeddings.LayerNorm.weight", "classifier.weight"} <= moved


def test_bfloat16_trains_float32_weights() -> None:
    module = toy_task.bert()
    names = set(module.__dict__)
    history = fine_tune(module, toy_task.split(), TrainingConfig(steps=3, batch_size=8, mixed_precision="bf16"))
    assert all(np.isfinite(step.loss) for step in history.steps)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert set(module.__dict__) == names


def test_decay_spares_biases_and_norms() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    before = toy_task.weights(module)

    def no_gradient(forward: object, batch: object, labels: torch.Tensor, step: int) -> torch.Tensor:
        return sum((p * 0).sum() for p in module.parameters())

    fit(
        module,
        toy_task.split(),
        no_gradient,
        TrainingConfig(steps=1, weight_decay=0.5, learning_rate=0.1, warmup_share=0),
    )
    after = module.state_dict()
    assert torch.allclose(after["0.weight"], before["0.weight"] * 0.95)
    assert all(torch.equal(after[name], before[name]) for name in ("0.bias", "1.weight", "1.bias"))


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_stops_at_a_loss_that_is_no_number_with_the_weights_before_it(poison: str) -> None:
    module, good = toy_task.bert(), {}

    def loss_of(forward, batch, labels, step):
        loss = nn.functional.cross_entropy(forward(**batch).logits, labels)
        if step < 3:
            return loss
        good.update(toy_task.weights(module))
        return loss * float("nan") if poison == "loss" else loss + (loss - loss.detach()).abs().sqrt()

    with pytest.raises(TrainingFailed, match="step 3 of 9"):
        fit(module, toy_task.split(), loss_of, TrainingConfig(steps=9, batch_size=8))
    assert toy_task.same(good, toy_task.weights(module))


def test_rate_rises_and_falls_linearly() -> None:
    config = TrainingConfig(learning_rate=1.0, warmup_share=0.2)
    rates = [config.rate(step, 10) for step in range(1, 11)]
    assert rates[:2] == [0.5, 1.0]
    assert rates[2:] == pytest.approx([8 / 8, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert TrainingConfig(warmup_share=0).rate(1, 4) == TrainingConfig().learning_rate


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"warmup_share": 1.5}],
)
def test_refuses_settings_that_cannot_work(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(wrong))} must be"):
        TrainingConfig(**wrong)


def test_refuses_no_rows() -> None:
    with pytest.raises(UserError, match="at least one row"):
        fine_tune(toy_task.bert(), toy_task.split(0), TrainingConfig())


def test_predictions_come_in_the_order_of_the_rows() -> None:
    module, rows = toy_task.bert(), toy_task.split(23)
    together = predict(module, rows, batch_size=4)
    with torch.no_grad():
        alone = [module(**rows.batch([row])).logits[0].numpy() for row in range(23)]
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_finds_logits_in_what_modules_return() -> None:
    logits = torch.zeros(2, 3)
    output = toy_task.bert()(**toy_task.split(2).batch([0, 1]))
    assert logits_of(logits) is logits
    assert logits_of((logits, None)) is logits
    assert logits_of({"logits": logits}) is logits
    assert logits_of(output) is output.logits
    with pytest.raises(TypeError, match="must return logits"):
        logits_of({"scores": logits})


def test_accuracy() -> None:
    logits = [[0.0, 1.0], [2.0, 1.0], [0.0, 3.0], [1.0, 0.0]]
    assert accuracy(logits, [1, 0, 0, 0]) == 0.75
    assert np.isnan(accuracy([[np.nan, 1.0]], [1]))


def test_paired_difference_covers_the_truth() -> None:
    rng, covered = np.random.default_rng(0), 0
    for _ in range(300):
        draws = rng.random(400)
        ours, theirs = draws < 0.8, (draws > 0.03) & (draws < 0.85)
        difference = paired_difference(ours, theirs)
        assert difference.points == pytest.approx(100 * (ours.mean() - theirs.mean()))
        covered += difference.low <= -2.0 <= difference.high
    assert 0.92 <= covered / 300 <= 0.99


def test_paired_difference_is_unsure_of_networks_that_never_differ() -> None:
    same = np.ones(100, dtype=bool)
    difference = paired_difference(same, same)
    assert difference.points == 0
    assert -3 < difference.low < 0 < difference.high < 3
    with pytest.raises(ValueError, match="same rows"):
        paired_difference(same, same[:5])


PROGRAM = """
import sys
from safetensors.torch import save_model
from nas.instatune import InstaTuneConfig, instatune
from tests import toy_task
supernet, seen = toy_task.supernet(dropout=0.0), []
instatune(supernet, toy_task.split(43), InstaTuneConfig(steps=8, batch_size=9, device="cpu"), on_step=seen.append)
if seen:
    save_model(supernet, sys.argv[1])
"""


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path / f"{rank}.safetensors")],
            cwd=Path(__file__).parent.parent,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["0.safetensors"]
    alone = toy_task.supernet(dropout=0.0)
    instatune(alone, toy_task.split(43), InstaTuneConfig(steps=8, batch_size=9, device="cpu"))
    for name, tensor in load_file(tmp_path / "0.safetensors").items():
        torch.testing.assert_close(tensor, alone.state_dict()[name], rtol=1e-4, atol=1e-5)
