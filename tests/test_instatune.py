"""The super-network's fine-tuning: equation 1 term by term, and sub-networks that learn with the full network."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nas.data.accuracy import accuracy, predict
from nas.data.tasks import Classification
from nas.errors import UserError
from nas.learning.instatune import InstaTuneConfig, equation_one, instatune
from nas.learning.training import TrainingConfig, fine_tune
from nas.seeds import generator
from search_spaces import Space, Supernet, space
from tests import toy_task
from tests.toy_blocks import its_own_rows, two_stacks


def divergence(student: list[float], teacher: list[float], temperature: float) -> float:
    """Kullback-Leibler divergence of softened outputs of one row, in plain numbers."""

    def softened(logits: list[float]) -> list[float]:
        raised = [math.exp(logit / temperature) for logit in logits]
        return [each / sum(raised) for each in raised]

    return sum(t * math.log(t / s) for s, t in zip(softened(student), softened(teacher), strict=True))


def label_loss(logits: list[float], label: int, smoothing: float) -> float:
    total = math.log(sum(math.exp(logit) for logit in logits))
    every = [total - logit for logit in logits]
    return (1 - smoothing) * every[label] + smoothing * sum(every) / len(every)


FULL, SUBS, STRONG = [1.0, -0.5, 0.2], [[0.3, 0.1, -2.0], [2.0, 1.0, 0.0]], [3.0, 0.0, -1.0]


@pytest.mark.parametrize("gamma", [0, 1])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equation_one_in_plain_numbers(gamma: int, smoothing: float) -> None:
    alpha, weight, rho = 0.4, 0.7, 2.0
    expected = weight * label_loss(FULL, 2, smoothing)
    expected += gamma * (1 - alpha) * rho**2 * divergence(FULL, STRONG, rho)
    for sub in SUBS:
        expected += alpha * label_loss(sub, 2, smoothing)
        expected += (1 - alpha) * rho**2 * gamma * divergence(sub, STRONG, rho)
        expected += (1 - alpha) * rho**2 * (1 - gamma) * divergence(sub, FULL, rho)
    config = InstaTuneConfig(alpha=alpha, full_weight=weight, temperature=rho, label_smoothing=smoothing)
    outputs = [torch.tensor([logits]) for logits in (FULL, *SUBS)]
    strong = torch.tensor([STRONG]) if gamma else None
    loss, own = equation_one(Classification(), outputs, strong, torch.tensor([2]), config)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert [float(each) for each in own] == pytest.approx([label_loss(x, 2, smoothing) for x in (FULL, *SUBS)])


def test_no_gradient_reaches_a_teacher() -> None:
    config, targets = InstaTuneConfig(alpha=1e-9, full_weight=1e-9), torch.tensor([2])
    full, sub, strong = (torch.tensor([logits], requires_grad=True) for logits in (FULL, SUBS[0], STRONG))
    equation_one(Classification(), [full, sub], None, targets, config)[0].backward()
    assert float(full.grad.norm()) < 1e-6 < float(sub.grad.norm())
    full.grad = None
    equation_one(Classification(), [full, sub], strong, targets, config)[0].backward()
    assert strong.grad is None
    assert float(full.grad.norm()) > 1e-3


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


class Watched(nn.Module):
    """A teacher that notes how it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.calls = toy_task.bert(seed=1), []
        self.train()

    def forward(self, **batch: torch.Tensor) -> torch.Tensor:
        logits = self.inner(**batch).logits
        self.calls.append((self.inner.training, logits.requires_grad, torch.is_autocast_enabled("cpu")))
        return logits


@pytest.mark.parametrize(
    ("settings", "strong"),
    [({"distillation": "high-cost"}, 6), ({"distillation": "hybrid", "hybrid_share": 0.34}, 2)],
)
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_strong_teacher_teaches_the_first_steps_and_stays_as_it_is(
    settings: dict[str, str], strong: int, precision: str
) -> None:
    teacher = Watched()
    before = toy_task.weights(teacher)
    config = InstaTuneConfig(steps=6, batch_size=8, mixed_precision=precision, **settings)
    instatune(toy_task.supernet(), toy_task.split(20), config, teacher=teacher)
    # The first call only compares the outputs.
    assert teacher.calls[1:] == [(False, False, precision == "bf16")] * strong
    assert toy_task.same(before, toy_task.weights(teacher))
    assert teacher.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in teacher.parameters())


def test_hybrid_is_high_cost_first_and_low_cost_then() -> None:
    def losses(teacher: nn.Module | None = None, **settings: object) -> list[float]:
        config = InstaTuneConfig(steps=4, batch_size=8, **settings)
        history = instatune(toy_task.supernet(), toy_task.split(20), config, teacher=teacher)
        return [step.loss for step in history.steps]

    teacher = toy_task.bert(seed=1)
    high = losses(teacher, distillation="high-cost")
    assert losses(teacher, distillation="hybrid", hybrid_share=1.0) == high
    assert losses(teacher, distillation="hybrid", hybrid_share=0.0) == losses()
    mixed = losses(teacher, distillation="hybrid")
    assert mixed[:2] == high[:2]
    assert mixed[2] != high[2]


def test_a_strong_teacher_is_followed_against_the_labels() -> None:
    teacher = two_stacks(norm=False).model
    rows = its_own_rows(teacher)
    rows.labels[:] = 1 - rows.labels

    def agreement(teacher: nn.Module | None, **settings: object) -> list[float]:
        supernet = two_stacks(norm=False)
        torch.manual_seed(1)
        nn.init.normal_(supernet.model.head.weight)
        config = InstaTuneConfig(steps=80, batch_size=32, learning_rate=2e-2, alpha=1e-2, full_weight=1e-2, **settings)
        instatune(supernet, rows, config, teacher=teacher)
        ends = supernet.space.largest(), supernet.space.smallest()
        return [accuracy(predict(supernet.extract(each), rows), 1 - rows.labels) for each in ends]

    assert min(agreement(teacher, distillation="high-cost")) > 0.9
    assert max(agreement(None)) < 0.2


HIGH = InstaTuneConfig(steps=1, batch_size=8, distillation="high-cost")


def named(*names: str) -> nn.Module:
    teacher = toy_task.bert(seed=1)
    teacher.config.id2label = dict(enumerate(names))
    return teacher


def test_refuses_a_teacher_that_does_not_fit() -> None:
    supernet, train = toy_task.supernet(), toy_task.split(8)
    supernet.model.config.id2label = {0: "bad", 1: "good"}
    wide = toy_task.bert(seed=1)
    wide.classifier = nn.Linear(16, 3)
    for teacher, config, message in [
        (None, HIGH, "a teacher must be given for high-cost"),
        (None, replace(HIGH, distillation="hybrid"), "a teacher must be given for hybrid"),
        (named("bad", "good"), replace(HIGH, distillation="low-cost"), "must be high-cost or hybrid"),
        (named("good", "bad"), HIGH, "the teacher does not fit: .* output 0 is good"),
        (wide, HIGH, "as many outputs as the network, 2, got 3"),
        (supernet.model, HIGH, "shares weights"),
    ]:
        with pytest.raises(UserError, match=message):
            instatune(supernet, train, config, teacher=teacher)
    for teacher in (named("bad", "good"), named("LABEL_0", "LABEL_1")):
        instatune(supernet, train, HIGH, teacher=teacher)


class Killed(Exception):
    pass


MODES = {
    "low-cost": {},
    "high-cost": {"distillation": "high-cost"},
    "hybrid": {"distillation": "hybrid"},
    "sandwich": {"sampling": "sandwich"},
    "pareto": {"sampling": "pareto", "samples": 8},
}


@pytest.mark.parametrize("mode", MODES)
def test_a_resumed_run_is_bit_identical_in_every_mode(tmp_path: Path, mode: str) -> None:
    settings = {"samples": 2, "evaluate_every": 4} | MODES[mode]
    config = InstaTuneConfig(steps=14, batch_size=8, learning_rate=1e-3, checkpoint_every_s=0, **settings)

    def run(folder: Path | None, kill: int = 0):
        def on_step(step):
            if step.step == kill:
                raise Killed

        if config.sampling == "pareto":
            supernet, teacher = two_stacks(norm=True), None
            train = validation = its_own_rows(supernet.model)
        else:
            supernet, train, validation = toy_task.supernet(), toy_task.split(30), toy_task.split(6, seed=1)
            teacher = None if config.distillation == "low-cost" else toy_task.bert(seed=1)
        try:
            history = instatune(
                supernet,
                train,
                config,
                teacher=teacher,
                checkpoint=folder,
                on_step=on_step,
                validation=validation,
            )
        except Killed:
            return None
        return history, toy_task.weights(supernet)

    history, weights = run(None)
    assert run(tmp_path / "c", kill=5) is None
    assert run(tmp_path / "c", kill=12) is None
    resumed, again = run(tmp_path / "c")
    assert toy_task.same(weights, again)
    assert [step.loss for step in resumed.steps] == [step.loss for step in history.steps]
    assert resumed.probes == history.probes
    assert [probe.step for probe in history.probes] == [4, 8, 12, 14]


def test_refuses_the_checkpoint_of_another_teacher_or_space(tmp_path: Path) -> None:
    train = toy_task.split(8)
    instatune(toy_task.supernet(), train, HIGH, teacher=toy_task.bert(seed=1), checkpoint=tmp_path / "c")
    with pytest.raises(UserError, match="another teacher"):
        instatune(toy_task.supernet(), train, HIGH, teacher=toy_task.bert(seed=2), checkpoint=tmp_path / "c")
    model = toy_task.bert()
    other = Supernet(model, space(model, depth=(1, 2), heads=(1, 4), ffn=(8, 24)))
    with pytest.raises(UserError, match="another space"):
        instatune(other, train, HIGH, teacher=toy_task.bert(seed=1), checkpoint=tmp_path / "c")


def test_pareto_sampling_goes_by_losses_and_costs() -> None:
    """With one random network a step the same losses are seen; what is drawn then depends on what is dear."""

    def sizes(costs) -> list[int]:
        supernet, drawn = two_stacks(norm=True), []
        forward = supernet.forward

        def spy(candidates, **batch):
            drawn.extend(supernet.space.encode(candidates[1:]).sum(axis=1).tolist())
            return forward(candidates, **batch)

        supernet.forward = spy
        rows = its_own_rows(supernet.model)
        config = InstaTuneConfig(steps=20, batch_size=16, samples=8, sampling="pareto", learning_rate=1e-6)
        instatune(supernet, rows, config, costs=costs)
        return drawn

    small, large = (sizes(lambda encoded, sign=sign: sign * encoded.sum(axis=1)) for sign in (1.0, -1.0))
    # Uniform until there are 64 observations.
    assert small[:64] == large[:64]
    assert sum(small[64:]) < sum(large[64:])
    assert len(sizes(None)) == 160


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
    "wrong",
    [
        {"samples": -1},
        {"sampling": "worst"},
        {"distillation": "gamma"},
        {"hybrid_share": 1.5},
        {"alpha": 0.0},
        {"alpha": 1.1},
        {"temperature": 0.0},
        {"full_weight": 0.0},
        {"steps": 0},
    ],
)
def test_refuses_settings_that_cannot_work(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(wrong))} must be"):
        InstaTuneConfig(**wrong)
