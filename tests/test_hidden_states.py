"""Hidden states as a second teacher: which are compared, how far apart they are, and what a training makes of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nas.errors import UserError
from nas.learning.instatune import InstaTuneConfig, instatune
from nas.learning.teachers.feature_order import order_alike
from nas.learning.teachers.hidden_distance import HiddenDistance, hidden_distance
from search_spaces import Candidate, Supernet, recorded, space, spread, stages_of
from search_spaces.inputs import split_inputs
from search_spaces.supernets.hidden_states import HiddenStates, Stages
from tests import families, toy_blocks, toy_images, toy_task, zoo

HIGH = InstaTuneConfig(steps=1, batch_size=8, distillation="high-cost", hidden_weight=10.0)


def states(supernet: Supernet, stages: Stages, candidate: Candidate, inputs: dict[str, Tensor]) -> HiddenStates:
    with recorded(supernet.model, stages) as found:
        supernet(candidate, **inputs)
    assert len(found) == 1
    return found[0]


def kept_blocks(supernet: Supernet, candidate: Candidate) -> list[int]:
    cut = supernet.space["depth"].cuts[0]
    return [index for index in range(cut.count) if index not in cut.dropped(int(candidate["depth"]))]


def of_transformers(name: str) -> tuple[Supernet, dict[str, Tensor], Stages]:
    model = families.build(name)
    inputs = dict(zoo.example_inputs(model))
    # Of the blocks of four, dropping spread ones leaves holes between those that are kept.
    supernet = Supernet(model, space(model, inputs, drop_order=spread, depth=(2, 3, 4), heads=(2, 4), ffn=(0.5, 1.0)))
    return supernet, inputs, stages_of(model, inputs)


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_the_states_are_those_that_transformers_gives(name: str) -> None:
    """Of the full network and of extracted sub-networks, whose hidden state 0 is that of the embeddings."""
    supernet, inputs, stages = of_transformers(name)
    smallest, largest = supernet.space.smallest(), supernet.space.largest()
    for candidate in (largest, smallest, Candidate({**largest, "depth": 3})):
        given = supernet.extract(candidate)(**inputs, output_hidden_states=True).hidden_states
        kept = kept_blocks(supernet, candidate)
        found = states(supernet, stages, candidate, inputs)
        assert set(found) == {(0, number) for number in (*kept[1:], 4)}
        for number, expected in zip((*kept[1:], 4), given[1:], strict=True):
            assert torch.equal(found[0, number], expected)


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_distance_and_gradient_equal_those_computed_from_transformers_states(name: str) -> None:
    supernet, inputs, stages = of_transformers(name)
    teacher = families.build(name)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
        theirs = teacher(**inputs, output_hidden_states=True).hidden_states
        of_teacher = states(Supernet(teacher, supernet.space), stages, supernet.space.largest(), inputs)
    mask = inputs.get("attention_mask", torch.ones(theirs[0].shape[:2])).bool()
    variances = {(0, number): float(theirs[number][mask].var(unbiased=False)) for number in range(1, 5)}
    candidate, parameters = supernet.space.smallest(), list(supernet.model.parameters())
    distance = HiddenDistance(stages, variances)(states(supernet, stages, candidate, inputs), of_teacher, inputs)
    gradients = torch.autograd.grad(distance, parameters, allow_unused=True)

    kept = kept_blocks(supernet, candidate)
    extracted = supernet.extract(candidate)
    ours = extracted(**inputs, output_hidden_states=True).hidden_states
    expected = torch.zeros(())
    for mine, number in zip(ours[1:], (*kept[1:], 4), strict=True):
        rows = [(mine[row][mask[row]] - theirs[number][row][mask[row]]).square().mean() for row in range(2)]
        expected = expected + sum(rows) / 2 / variances[0, number] / len(kept)
    assert distance.item() == pytest.approx(expected.item(), rel=1e-5)
    expected.backward()
    names = supernet.names(candidate)
    by_name = dict(zip((name for name, _ in supernet.model.named_parameters()), gradients, strict=True))
    for name, parameter in extracted.named_parameters():
        full = by_name[names[name]]
        if parameter.grad is None:
            assert full is None or not full.any()
        else:
            sliced = supernet._slicer.narrow(names[name], full, candidate)
            torch.testing.assert_close(sliced, parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", zoo.CASES)
def test_every_family_has_block_boundaries_and_no_distance_from_itself(name: str) -> None:
    supernet, inputs = zoo.made(name)
    assert not split_inputs(inputs)[0]
    stages = stages_of(supernet.model, inputs)
    if name in ("vgg", "concatenation"):
        assert stages == ()
        return
    with torch.no_grad():
        full = states(supernet, stages, supernet.space.full(), inputs)
        # All of them but those of stages whose blocks are lists in a list, which are not called as a whole.
        assert set(full) == {(s, number) for s, paths in enumerate(stages) for number in range(1, len(paths) + 1)}
        distance = HiddenDistance(stages, {boundary: float(state.var()) for boundary, state in full.items()})
        assert float(distance(full, full, inputs)) == 0
        smallest = states(supernet, stages, supernet.space.smallest(), inputs)
        assert set(smallest) <= set(full)
        assert all(2 in each.shape[:2] for each in smallest.values())
        assert torch.isfinite(distance(smallest, full, inputs))


def test_masked_tokens_do_not_matter_and_every_row_counts_alike() -> None:
    teacher, student = torch.randn(3, 5, 4), torch.randn(3, 5, 4)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    distance = HiddenDistance((("a", "b"),), {(0, 1): 2.0})

    def of(rows: slice = slice(None), padding: float = 0.0) -> float:
        spoiled = student + padding * (1 - mask[..., None])
        batch = {"attention_mask": mask[rows]}
        return float(distance({(0, 1): spoiled[rows]}, {(0, 1): teacher[rows]}, batch))

    assert of(padding=100.0) == of() > 0
    assert of() == pytest.approx((of(slice(0, 1)) + 2 * of(slice(1, 3))) / 3)


@pytest.mark.parametrize("mask", [None, torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]])])
def test_rows_count_by_their_weights(mask: Tensor | None) -> None:
    teacher, student, weights = torch.randn(4, 3, 5), torch.randn(4, 3, 5), torch.tensor([3.0, 0.0, 1.0, 2.0])
    distance, every = HiddenDistance((("a", "b"),), {(0, 1): 2.0}), torch.arange(4)

    def of(rows: Tensor, weights: Tensor | None) -> float:
        batch = {"x": rows} if mask is None else {"attention_mask": mask[rows]}
        return float(distance({(0, 1): student[rows]}, {(0, 1): teacher[rows]}, batch, weights))

    alone = [of(row[None], None) for row in every]
    assert of(every, None) == pytest.approx(sum(alone) / 4) == of(every, torch.ones(4))
    assert of(every, weights) == pytest.approx((3 * alone[0] + alone[2] + 2 * alone[3]) / 6)
    assert of(every[1:2], weights[1:2]) == 0


def test_boundaries_of_another_width_are_left_out() -> None:
    distance = HiddenDistance((("a", "b"),), {(0, 1): 1.0, (0, 2): 1.0})
    teacher = {(0, 1): torch.zeros(2, 4), (0, 2): torch.zeros(2, 4)}
    batch = {"x": torch.zeros(2)}
    assert float(distance({(0, 1): torch.ones(2, 4), (0, 2): 9 * torch.ones(2, 3)}, teacher, batch)) == 1
    assert float(distance({(0, 1): 9 * torch.ones(2, 3)}, teacher, batch)) == 0


def test_the_loss_has_the_distance_of_every_network(monkeypatch: pytest.MonkeyPatch) -> None:
    train, teacher = toy_task.split(8), toy_task.bert(seed=1, dropout=0.0)

    def loss(weight: float | None) -> float:
        config = replace(HIGH, samples=2, hidden_weight=weight)
        return instatune(toy_task.supernet(dropout=0.0), train, config, teacher=teacher).steps[0].loss

    without, supernet = loss(None), toy_task.supernet(dropout=0.0)
    distance = hidden_distance(supernet.model, teacher, train, HIGH.seed)
    drawn, batch = [], train.batch(range(8))
    monkeypatch.setattr(
        "search_spaces.Supernet.forward",
        lambda self, candidates, **inputs: drawn.extend(candidates) or _forward(self, candidates, **inputs),
    )
    found = loss(10.0)
    with torch.no_grad(), recorded(teacher, distance.stages) as of_teacher:
        teacher(**batch)
    with torch.no_grad():
        each = [distance(states(supernet, distance.stages, c, batch), of_teacher[0], batch) for c in drawn[:3]]
    assert len(each) == 3
    assert found - without == pytest.approx(10 * float(sum(each)), rel=1e-4)


_forward = Supernet.forward


def test_the_network_itself_is_no_teacher() -> None:
    with pytest.raises(UserError, match=r"needs a strong teacher .* every output would become one constant"):
        InstaTuneConfig(hidden_weight=10.0)
    supernet = toy_task.supernet()
    with pytest.raises(UserError, match="shares weights"):
        instatune(supernet, toy_task.split(8), HIGH, teacher=supernet.model)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="hidden_weight must be above 0"):
            replace(HIGH, hidden_weight=wrong)


def other_depth() -> nn.Module:
    from transformers import BertForSequenceClassification

    config = toy_task.bert().config
    config.num_hidden_layers = 3
    return BertForSequenceClassification(config)


def other_width() -> nn.Module:
    from transformers import BertForSequenceClassification

    config = toy_task.bert().config
    config.hidden_size = 32
    return BertForSequenceClassification(config)


class Constant(nn.Module):
    """The toy network with a teacher's blocks, whose hidden states are all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = toy_task.bert().bert
        with torch.no_grad():
            for block in self.bert.encoder.layer:
                block.output.LayerNorm.weight.zero_()
                block.output.LayerNorm.bias.zero_()
        self.head = nn.Linear(16, 2)

    def forward(self, **batch: Tensor) -> Tensor:
        return self.head(self.bert(**batch).last_hidden_state[:, 0])


class Blockless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, **batch: Tensor) -> Tensor:
        return self.head(batch["input_ids"][:, :4].float())


@pytest.mark.parametrize(
    ("teacher", "sentence"),
    [
        (other_depth, "needs a teacher with the network's blocks, .* others than those of bert.encoder.layer"),
        (Blockless, "needs a teacher with the network's blocks, Blockless has others"),
        (other_width, "hidden states vary and have the network's width"),
        (Constant, "hidden states vary and have the network's width"),
    ],
)
def test_refuses_a_teacher_without_such_states(teacher, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        instatune(toy_task.supernet(), toy_task.split(8), HIGH, teacher=teacher())


def test_refuses_a_network_without_blocks() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x).mean((2, 3))

    with pytest.raises(UserError, match="needs a network of repeated blocks, Plain has none"):
        hidden_distance(Plain(), Plain(), toy_images.split(8), 0)


class LengthFirst(nn.Module):
    """Blocks that take texts as (length, rows, features), as those of PyTorch do by default."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        self.table, self.blocks = nn.Embedding(16, 8), nn.Sequential(*[Square() for _ in range(3)])
        self.head, self.flat = nn.Linear(8, 2), flat

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.table(input_ids).transpose(0, 1)
        x = self.blocks(x.flatten(0, 1)).unflatten(0, x.shape[:2]) if self.flat else self.blocks(x)
        return self.head((x.transpose(0, 1) * attention_mask[..., None]).mean(1))


class Square(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


def test_rows_may_be_the_second_axis() -> None:
    train = toy_task.split(9)
    model, teacher = LengthFirst(flat=False), LengthFirst(flat=False)
    of, batch = hidden_distance(model, teacher, train, 0), train.batch(range(9))
    assert set(of.variances) == {(0, 1), (0, 2), (0, 3)} == of.turned
    with torch.no_grad(), of.recorded(model) as own, of.recorded(teacher) as of_teacher:
        model(**batch), teacher(**batch)
    whole = float(of(own[0], of_teacher[0], batch))
    parts = []
    for row in range(9):
        alone = train.batch([row])
        with torch.no_grad(), of.recorded(model) as own, of.recorded(teacher) as of_teacher:
            model(**alone), teacher(**alone)
        parts.append(float(of(own[0], of_teacher[0], alone)))
    assert whole == pytest.approx(sum(parts) / 9, rel=1e-5)


def test_states_without_an_axis_of_rows_are_left_out() -> None:
    with pytest.raises(UserError, match="hidden states vary and have"):
        hidden_distance(LengthFirst(flat=True), LengthFirst(flat=True), toy_task.split(9), 0)


def test_a_teacher_follows_the_order_of_the_features_between_blocks() -> None:
    """Else the full network would be far from a copy of itself as soon as its features were ordered."""
    model, teacher, train = toy_task.bert(), toy_task.bert(), toy_task.split(8)
    supernet = Supernet(model, space(model, depth=(1, 2), ffn=(8, 24), width=(0.5, 1.0)))
    orders = {c.name: torch.randperm(c.options[-1]) for c in supernet.space.choices if c.name != "depth"}
    before = teacher(**train.batch(range(8))).logits
    supernet.reorder(orders)

    def distance() -> float:
        of, batch = hidden_distance(model, teacher, train, 0), train.batch(range(8))
        with recorded(model, of.stages) as own, recorded(teacher, of.stages) as other, torch.no_grad():
            model(**batch), teacher(**batch)
        return float(of(own[0], other[0], batch))

    assert distance() > 0.1
    order_alike(teacher, supernet.space, orders)
    assert distance() < 1e-9
    torch.testing.assert_close(teacher(**train.batch(range(8))).logits, before)
    with pytest.raises(UserError, match="needs a teacher with the network's own features"):
        order_alike(toy_images.network(), supernet.space, orders)


def test_it_brings_hidden_states_nearer() -> None:
    """In two stages of blocks, of which some drop."""
    teacher = toy_blocks.two_stacks(norm=False).model
    rows = toy_blocks.its_own_rows(teacher)

    def distance(weight: float | None) -> float:
        supernet = toy_blocks.two_stacks(norm=False)
        with torch.no_grad():
            for parameter in supernet.model.parameters():
                parameter.mul_(0.5)
        config = replace(HIGH, steps=60, batch_size=32, learning_rate=1e-2, hidden_weight=weight)
        instatune(supernet, rows, config, teacher=teacher)
        of, batch = hidden_distance(supernet.model, teacher, rows, 0), rows.batch(range(64))
        with torch.no_grad(), recorded(teacher, of.stages) as of_teacher:
            teacher(**batch)
        with torch.no_grad():
            each = [
                states(supernet, of.stages, c, batch) for c in (supernet.space.largest(), supernet.space.smallest())
            ]
            return max(float(of(state, of_teacher[0], batch)) for state in each)

    assert distance(10.0) < 0.5 * distance(None)


class Killed(Exception):
    pass


@pytest.mark.parametrize("distillation", ["high-cost", "hybrid"])
def test_a_resumed_run_is_bit_identical(tmp_path: Path, distillation: str) -> None:
    config = replace(HIGH, steps=8, samples=2, learning_rate=1e-3, checkpoint_every_s=0, distillation=distillation)

    def run(folder: Path | None, kill: int = 0):
        def on_step(step):
            if step.step == kill:
                raise Killed

        supernet = toy_task.supernet()
        try:
            history = instatune(
                supernet,
                toy_task.split(30),
                config,
                teacher=toy_task.bert(seed=1),
                checkpoint=folder,
                on_step=on_step,
            )
        except Killed:
            return None
        return [step.loss for step in history.steps], toy_task.weights(supernet)

    losses, weights = run(None)
    assert run(tmp_path / "c", kill=3) is None
    assert run(tmp_path / "c", kill=6) is None
    resumed, again = run(tmp_path / "c")
    assert resumed == losses
    assert toy_task.same(weights, again)


def test_a_checkpoint_without_them_is_that_of_a_run_before_there_were_any(tmp_path: Path) -> None:
    assert "hidden_weight" not in InstaTuneConfig().identity()
    train, teacher = toy_task.split(8), toy_task.bert(seed=1)
    instatune(toy_task.supernet(), train, HIGH, teacher=teacher, checkpoint=tmp_path / "c")
    with pytest.raises(UserError, match="another configuration"):
        config = replace(HIGH, hidden_weight=None)
        instatune(toy_task.supernet(), train, config, teacher=teacher, checkpoint=tmp_path / "c")
