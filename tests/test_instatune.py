"""The super-network's fine-tuning: equation 1 term by term, and sub-networks that learn with the full network."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from nas.errors import UserError
from nas.instatune import InstaTuneConfig, instatune
from nas.seeds import generator
from nas.training import TrainingConfig, accuracy, fine_tune, predict
from search_spaces import Space
from tests import toy_task


@pytest.mark.parametrize("full_weight", [1.0, 0.3])
def test_loss_is_equation_one_with_a_weight_for_the_full_network(full_weight: float) -> None:
    supernet, train = toy_task.supernet(dropout=0.0), toy_task.split(8)
    config = InstaTuneConfig(steps=1, batch_size=8, samples=2, full_weight=full_weight)
    labels, batch = torch.from_numpy(train.labels), train.batch(range(8))
    rng = generator(0, "candidates", 1)
    with torch.no_grad():
        full = supernet(supernet.space.largest(), **batch).logits
        subs = [supernet(supernet.space.sample(rng), **batch).logits for _ in range(2)]
    teacher = torch.softmax(full / 5, -1)
    expected = full_weight * cross_entropy(full, labels)
    for sub in subs:
        divergence = (teacher * (teacher.log() - torch.log_softmax(sub / 5, -1))).sum(-1).mean()
        expected += 0.3 * cross_entropy(sub, labels) + 0.7 * 25 * divergence
    history = instatune(supernet, train, config)
    assert history.steps[0].loss == pytest.approx(float(expected), rel=1e-5)


def test_distillation_does_not_move_the_teacher() -> None:
    """With almost no weight on labels, weights outside of every sub-network get almost no gradient."""
    supernet, seen = toy_task.supernet(), {}
    outside = supernet.model.bert.encoder.layer[0].intermediate.dense.weight
    outside.register_post_accumulate_grad_hook(lambda weight: seen.update(norm=float(weight.grad[16:].norm())))
    smallest = supernet.space.smallest()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Space, "sample", lambda space, rng: smallest)
        instatune(supernet, toy_task.split(8), InstaTuneConfig(steps=1, batch_size=8, alpha=1e-9, full_weight=1e-9))
    assert seen["norm"] < 1e-6


def test_without_samples_it_is_plain_fine_tuning() -> None:
    supernet, module, train = toy_task.supernet(), toy_task.bert(), toy_task.split()
    instatune(supernet, train, InstaTuneConfig(steps=6, batch_size=8, samples=0, alpha=1.0))
    fine_tune(module, train, TrainingConfig(steps=6, batch_size=8))
    assert toy_task.same(toy_task.weights(supernet.model), toy_task.weights(module))


def test_full_network_and_sub_networks_learn() -> None:
    supernet, test = toy_task.supernet(), toy_task.split(60, seed=1)
    instatune(supernet, toy_task.split(100), InstaTuneConfig(epochs=8, batch_size=10, learning_rate=5e-3))
    for candidate in (supernet.space.largest(), supernet.space.smallest()):
        extracted = supernet.extract(candidate).eval()
        assert accuracy(predict(extracted, test), test.labels) > 0.9


@pytest.mark.parametrize(
    "wrong", [{"samples": -1}, {"alpha": 0.0}, {"alpha": 1.1}, {"temperature": 0.0}, {"full_weight": 0.0}, {"steps": 0}]
)
def test_refuses_settings_that_cannot_work(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(wrong))} must be"):
        InstaTuneConfig(**wrong)
