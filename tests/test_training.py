"""Laws of the training loop: it learns, it follows from its seed, and it leaves the module as a user expects it."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from accelerate import tracking
from accelerate.tracking import GeneralTracker
from torch import nn

from nas.data.accuracy import accuracy, logits_of, paired_difference, predict
from nas.data.split import Split
from nas.errors import UserError
from nas.learning.training import History, LossOf, Step, TrainingConfig, TrainingFailed, fine_tune, fit, plain_loss
from tests import toy_images, toy_tags, toy_task


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


def test_trainings_in_threads_are_those_of_trainings_alone() -> None:
    def train(module: nn.Module, seed: int) -> dict[str, torch.Tensor]:
        fine_tune(module, toy_images.split(), TrainingConfig(steps=8, batch_size=8, seed=seed, augment=True))
        return toy_task.weights(module)

    seeds, state = range(6), torch.get_rng_state()
    alone = [train(toy_images.network(), seed) for seed in seeds]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(train, [toy_images.network() for _ in seeds], seeds))
    assert all(map(toy_task.same, alone, together))
    assert torch.equal(torch.get_rng_state(), state)


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


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_stops_at_a_loss_that_is_no_number_with_the_weights_before_it(poison: str, precision: str) -> None:
    module, good, train = toy_images.network(), {}, toy_images.split(24)
    calls: list[int] = []

    def loss_of(forward, batch, targets, step):
        if step == 3 and not good:
            good.update(toy_task.weights(module))
        calls.append(step)
        loss = plain_loss(train)(forward, batch, targets, step)
        if step < 3 or calls.count(3) == 1:  # of step 3, only the second part is bad
            return loss
        return loss * float("nan") if poison == "loss" else loss + (loss - loss.detach()).abs().sqrt()

    config = TrainingConfig(steps=9, batch_size=8, accumulate=2, mixed_precision=precision)
    with pytest.raises(TrainingFailed, match="step 3 of 9"):
        fit(module, train, loss_of, config)
    assert calls == [1, 1, 2, 2, 3, 3]
    assert toy_task.same(good, toy_task.weights(module)), "running statistics too"


def test_rate_rises_and_falls_linearly() -> None:
    config = TrainingConfig(learning_rate=1.0, warmup_share=0.2)
    rates = [config.rate(step, 10) for step in range(1, 11)]
    assert rates[:2] == [0.5, 1.0]
    assert rates[2:] == pytest.approx([8 / 8, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert TrainingConfig(warmup_share=0).rate(1, 4) == TrainingConfig().learning_rate


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"warmup_share": 1.5},
        {"layer_decay": 0.0},
        {"layer_decay": 1.1},
        {"label_smoothing": -0.1},
        {"label_smoothing": 1.0},
        {"accumulate": 0},
        {"accumulate": 33},
        {"patience": 0},
        {"evaluate_every": 0},
    ],
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


def gradients(module: nn.Module, train: Split, loss_of: LossOf, **settings: object) -> tuple[dict, float]:
    """Gradients and loss of one step, before they are clipped."""
    found: dict[str, torch.Tensor] = {}

    def on_step(step: Step) -> None:
        found.update({name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None})

    config = TrainingConfig(steps=1, batch_size=len(train), clip_norm=1e9, **settings)
    history = fit(module, train, loss_of, config, on_step=on_step)
    return found, history.steps[0].loss


def test_accumulated_gradients_are_those_of_the_undivided_batch() -> None:
    train = toy_task.split(11)

    def loss_of(forward, batch, targets, step):
        full, small = forward([supernet.space.largest(), supernet.space.smallest()], **batch)
        return train.task.loss(full.logits, targets) + train.task.distillation(small.logits, full.logits, targets, 5.0)

    found = {}
    for parts in (1, 3, 11):
        supernet = toy_task.supernet(dropout=0.0)
        found[parts] = gradients(supernet, train, loss_of, accumulate=parts)
    for parts in (3, 11):
        torch.testing.assert_close(found[parts], found[1], rtol=1e-5, atol=1e-7)


def test_parts_count_by_their_tags_where_tokens_have_them() -> None:
    """Rows of 1, 2, 3 and 7 tags: a mean over rows of the parts' means would be another loss."""
    train = toy_tags.split((1, 2, 3, 7))
    whole, parts = (
        gradients(toy_tags.network(), train, plain_loss(train), accumulate=accumulate) for accumulate in (1, 3)
    )
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-7)


def test_label_smoothing_is_that_of_the_task() -> None:
    train, smoothing = toy_images.split(16), 0.2
    with torch.no_grad():
        logits = toy_images.network().train()(**train.batch(range(16)))
    expected = nn.functional.cross_entropy(logits, torch.from_numpy(train.labels), label_smoothing=smoothing)
    config = TrainingConfig(steps=1, batch_size=16, label_smoothing=smoothing)
    assert fine_tune(toy_images.network(), train, config).steps[0].loss == pytest.approx(float(expected), rel=1e-5)


def train_with(values: Sequence[float], **settings: object) -> tuple[History, nn.Module, list[dict]]:
    """A run whose evaluations give these values; with the weights that each was of."""
    module, seen = toy_images.network(), []
    given = iter(values)

    def validate(step: int) -> float:
        assert not module.training
        assert not torch.is_grad_enabled()
        seen.append(toy_task.weights(module))
        return next(given)

    history = fine_tune(module, toy_images.split(), TrainingConfig(batch_size=8, **settings), validate=validate)
    return history, module, seen


def test_stops_early_with_the_best_weights() -> None:
    nan = float("nan")
    history, module, seen = train_with([0.1, nan, 0.5, 0.5, 0.4, 0.3, 1.0], steps=40, evaluate_every=2, patience=3)
    assert [step for step, _ in history.evaluations] == [2, 4, 6, 8, 10, 12]
    assert [value for _, value in history.evaluations] == pytest.approx([0.1, nan, 0.5, 0.5, 0.4, 0.3], nan_ok=True)
    assert len(history.steps) == 12
    assert history.steps[-1].steps == 40
    assert toy_task.same(toy_task.weights(module), seen[2])


def test_ends_with_the_best_weights_when_patience_lasts() -> None:
    _, module, seen = train_with([0.1, 0.9, 0.5], steps=3, evaluate_every=1, patience=9)
    assert toy_task.same(toy_task.weights(module), seen[1])


def test_without_patience_evaluations_change_nothing() -> None:
    history, module, seen = train_with([0.9, 0.5, 0.1], epochs=3)
    assert history.evaluations == ((5, 0.9), (10, 0.5), (15, 0.1)), "once an epoch"
    assert toy_task.same(toy_task.weights(module), seen[2])
    other = toy_images.network()
    fine_tune(other, toy_images.split(), TrainingConfig(batch_size=8, epochs=3))
    assert toy_task.same(toy_task.weights(module), toy_task.weights(other))


def test_evaluates_after_the_last_step() -> None:
    assert [step for step, _ in train_with([0.1, 0.2, 0.3], steps=5, evaluate_every=2)[0].evaluations] == [2, 4, 5]


def test_patience_needs_rows_to_evaluate_on() -> None:
    with pytest.raises(UserError, match="patience needs rows to evaluate on"):
        fine_tune(toy_images.network(), toy_images.split(), TrainingConfig(patience=1))


class Recorder(GeneralTracker):
    """A tracker of the test's own, known to accelerate by its name."""

    name = "recorder"
    requires_logging_directory = False
    told: ClassVar[list[tuple]] = []

    def __init__(self, run_name: str, **kwargs: object) -> None:
        super().__init__()
        self.run_name = run_name

    @property
    def tracker(self) -> list[tuple]:
        return self.told

    def store_init_configuration(self, values: dict) -> None:
        self.told.append(("settings", values["batch_size"]))

    def log(self, values: dict, step: int | None = None, **kwargs: object) -> None:
        self.told.append((step, dict(values)))

    def finish(self) -> None:
        self.told.append(("finished",))


class FileRecorder(Recorder):
    name = "file_recorder"
    requires_logging_directory = True


def test_trackers_are_told_everything_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "recorder", Recorder)
    monkeypatch.setattr(Recorder, "told", [])
    config = TrainingConfig(batch_size=20, steps=2, learning_rate=1.0, trackers=("recorder",))
    tracked, plain = toy_images.network(), toy_images.network()
    history = fine_tune(tracked, toy_images.split(), config, validate=lambda step: 0.5 * step)
    one, two = history.steps
    assert Recorder.told == [
        ("settings", 20),
        (1, {"loss": one.loss, "learning_rate": one.learning_rate}),
        (2, {"loss": two.loss, "learning_rate": two.learning_rate}),
        (2, {"validation": 1.0}),
        ("finished",),
    ]
    fine_tune(plain, toy_images.split(), replace(config, trackers=()))
    assert toy_task.same(toy_task.weights(tracked), toy_task.weights(plain))


def test_refuses_trackers_that_cannot_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "file_recorder", FileRecorder)
    monkeypatch.setattr(tracking, "_available_trackers", [])
    for name, message in (
        ("notebook", "a tracker must be one of .*tensorboard.*, got 'notebook'"),
        ("tensorboard", "run: pip install tensorboard$"),
        ("comet_ml", "run: pip install comet-ml$"),
        ("file_recorder", "name a folder"),
    ):
        with pytest.raises(UserError, match=message):
            fine_tune(toy_images.network(), toy_images.split(), TrainingConfig(steps=1, trackers=(name,)))
