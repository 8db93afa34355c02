"""EMO-PMS on a small trained network: stages that go on, laws of what it makes, and its losses."""

import copy
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from toy_pyramid import SIDE, split, trained

import nas
from hardware.cost import cost
from nas.data.split import make_split
from nas.data.tasks import TASKS
from nas.errors import UserError
from nas.learning.optimizer import Sgd
from nas.learning.schedule import Cosine
from nas.learning.training import TrainingConfig
from nas.pruning.boundaries import INPUT, OUTPUT, around, cached_features
from nas.pruning.candidates import constrained_loss, judged
from nas.pruning.emo_pms import OutOfReach, Pruned, emo_pms, fine_tuned, parts_of
from nas.pruning.inheritance import inherited, random_orders
from nas.searching.measurement import Measurement
from nas.workers import Workers
from search_spaces import Supernet

SGD = Sgd(0.9, nesterov=True, decay_all=True)
TRAINING = TrainingConfig(
    epochs=1, batch_size=32, learning_rate=0.05, warmup_share=0.0, optimizer=SGD, schedule=Cosine(), device="cpu"
)
CONFIG = nas.EmoPmsConfig(
    budget=8, nsga2=nas.Nsga2Config(population=4, offspring=2), detectors=TRAINING, forms=TRAINING, final=TRAINING
)


def pruned(folder: Path, config: nas.EmoPmsConfig = CONFIG, **more: Any) -> Pruned:
    return emo_pms(trained(), split(96), split(60, seed=1), folder, config, **more)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Pruned:
    return pruned(tmp_path_factory.mktemp("pruning"))


def contents(result: Pruned) -> list[tuple[str, dict[str, float]]]:
    return [(name, dict(m.values)) for name, study in result.studies.items() for m in study.measurements]


def weights(result: Pruned) -> list[Tensor]:
    return [tensor for scheme in result.schemes() for tensor in result.network(scheme).state_dict().values()]


def same(one: Pruned, other: Pruned) -> None:
    assert contents(one) == contents(other)
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


def test_features_are_those_of_the_original(tmp_path: Path) -> None:
    model, rows = trained(), split(40)
    parts = parts_of(model, rows, CONFIG)
    cached = cached_features(parts, rows, tmp_path / "features", "weights")
    assert [each.name for each in parts.subnetworks] == ["0", "1"]
    with torch.no_grad():
        expected = around(parts, rows.batch(np.arange(40)))
    for number, each in enumerate(cached):
        batch = each.batch([3, 1, 7])
        assert torch.equal(batch[INPUT], expected[number][[3, 1, 7]])
        assert torch.equal(batch[OUTPUT], expected[number + 1][[3, 1, 7]])
    # Workers get the paths of the features and not the features.
    assert len(pickle.dumps(cached[0])) < 2_000 < cached[0].before.stat().st_size


def test_features_of_other_rows_or_weights_are_computed_anew(tmp_path: Path) -> None:
    model = trained()
    parts = parts_of(model, split(40), CONFIG)
    first = cached_features(parts, split(40), tmp_path, "one")[0].batch([0])[INPUT]
    assert torch.equal(cached_features(parts, split(40), tmp_path, "one")[0].batch([0])[INPUT], first)
    assert not torch.equal(cached_features(parts, split(40, seed=5), tmp_path, "one")[0].batch([0])[INPUT], first)


def test_the_loss_of_equation_9() -> None:
    torch.manual_seed(0)
    before, after, made = torch.randn(5, 3, 4, 4), torch.randn(5, 2, 4, 4), torch.randn(5, 2, 4, 4)
    targets, detector = torch.tensor([0, 1, 1, 0, 1]), nn.Sequential(nn.Flatten(), nn.Linear(32, 2))
    batch = {INPUT: before, OUTPUT: after}
    norms = [((made[i] - after[i]) ** 2).sum().sqrt() for i in range(5)]
    entropy = -torch.log_softmax(detector(made), 1)[torch.arange(5), targets].mean()
    expected = 0.5 * (sum(norms) / 5 + entropy)
    torch.testing.assert_close(constrained_loss(detector, True, lambda x: made, batch, targets, 1), expected)
    torch.testing.assert_close(constrained_loss(detector, False, lambda x: made, batch, targets, 1), entropy)


def test_features_that_are_no_numbers_have_no_error(tmp_path: Path) -> None:
    """A class is found for them too, and it may be the right one."""
    model, rows = trained(), split(40)
    parts = parts_of(model, rows, CONFIG)
    cached, each = cached_features(parts, rows, tmp_path, "weights")[0], parts.subnetworks[0]
    detector = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
    detector(cached.batch([0])[OUTPUT])
    error, change = judged(each.module, detector, cached)
    assert 0 <= error <= 1 and change == pytest.approx(0, abs=1e-5)
    spoiled = copy.deepcopy(each.module)
    next(spoiled.parameters()).data[0] = torch.nan
    assert np.isnan(judged(spoiled, detector, cached)).all()


def test_random_channels_follow_from_the_candidate() -> None:
    model, rows = trained(), split(40)
    part = parts_of(model, rows, CONFIG).subnetworks[0]
    one, other = part.space.smallest(), part.space.full()
    orders = [random_orders(part.space, each, 0) for each in (one, one, other)]
    assert all(torch.equal(orders[0][name], orders[1][name]) for name in orders[0])
    assert any(not torch.equal(orders[0][name], orders[2][name]) for name in orders[0])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    # All channels in another order compute the same; the original is left as it is.
    features = torch.rand(4, 3, SIDE, SIDE)
    form = inherited(part.module, part.space, part.space.full(), orders[2])
    with torch.no_grad():
        torch.testing.assert_close(form(features), part.module(features))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_original_is_the_first_scheme_and_costs_are_exact(found: Pruned) -> None:
    row = split(4).batch([0, 1])
    schemes = found.schemes()
    with torch.no_grad():
        assert torch.equal(found.network(schemes[0])(**row), found.parts.model(**row))
    assert found.rate(schemes[0], "parameters") == 0
    for scheme in schemes:
        exact = cost(found.network(scheme), row)
        assert (found.cost(scheme, "parameters"), found.cost(scheme, "macs")) == (exact.parameters, exact.macs)
    rates = [found.rate(scheme, "parameters") for scheme in schemes]
    assert rates == sorted(rates)


def test_sub_networks_keep_what_is_around_them(found: Pruned) -> None:
    """The network of a scheme with one form computes the original's other sub-networks, on what the form gives."""
    row = split(4).batch([0, 1])
    form = next(form for form in found.forms if form.subnetwork == "0" and form.cost < found.bases["0"].cost)
    network = found.network({**dict.fromkeys(found.bases), "0": form})
    own = network.state_dict()
    assert all(
        torch.equal(own[name], tensor) for name, tensor in found.parts.model.deep.state_dict(prefix="deep.").items()
    )  # type: ignore[union-attr]
    with torch.no_grad():
        assert network(**row).shape == (2, 3)


def test_any_rate_without_another_search(found: Pruned) -> None:
    most = found.rate(found.schemes()[-1], "macs")
    whole = found.cost(dict.fromkeys(found.bases), "macs")
    for rate in (0.1, 0.9 * most):
        scheme = found.first_within((1 - rate) * whole, "macs")
        assert found.rate(scheme, "macs") >= rate
        best = found.best_within((1 - rate) * whole, "macs")
        assert found.rate(best, "macs") >= rate

        def rise(each: Any) -> float:
            return sum(0.0 if f is None else f.error - found.bases[n].error for n, f in each.items())

        assert rise(best) <= rise(scheme) + 1e-12
    with pytest.raises(OutOfReach, match="must cost at most 1,"):
        found.first_within(1, "macs")
    with pytest.raises(OutOfReach):
        found.best_within(1, "parameters")


def test_the_order_as_printed_is_searched_as_a_whole(found: Pruned) -> None:
    """It falls and rises again: the first scheme that is small enough is not found by halving."""
    schemes = found.schemes("literal")
    costs = [found.cost(scheme, "parameters") for scheme in schemes]
    for most in sorted(set(costs)):
        first = next(scheme for scheme, cost in zip(schemes, costs, strict=True) if cost <= most)
        assert found.first_within(most, "parameters", "literal") == first


def test_a_measured_cost_is_asked_for_few_schemes(found: Pruned) -> None:
    asked: list[Any] = []

    def measure(scheme: Any) -> float:
        asked.append(scheme)
        return found.cost(scheme, "parameters")

    schemes = found.schemes()
    costs = [found.cost(scheme, "parameters") for scheme in schemes]
    for most in costs[:-1]:
        asked.clear()
        assert found.first_below(most, measure) == schemes[costs.index(next(c for c in costs if c <= most))]
        assert len(asked) <= len(schemes).bit_length() + 1


def test_damaged_stages(tmp_path: Path) -> None:
    result = pruned(tmp_path)
    errors = tmp_path / "detectors" / "errors.json"
    for damage in (
        "[]",
        "{",
        '{"version": 1, "errors": {"0": null, "1": 0.1}}',
        '{"version": 1, "errors": {"0": 0.1}}',
    ):
        errors.write_text(damage)
        with pytest.raises(UserError, match="detectors"):
            pruned(tmp_path)
    shutil.rmtree(errors.parent)
    same(pruned(tmp_path), result)
    for name in ("searches/0/kept/*/model.safetensors", "detectors/*.safetensors"):
        path = next(tmp_path.glob(name))
        whole, before = path.read_bytes(), sorted(tmp_path.rglob("*"))
        path.write_bytes(whole[:-40])
        # Before more is trained: a larger budget goes on with the searches.
        with pytest.raises(UserError, match=r"cannot be read .*; remove .* anew"):
            pruned(tmp_path, replace(CONFIG, budget=CONFIG.budget + 2))
        assert sorted(tmp_path.rglob("*")) == before
        for wrong in (float("nan"), float("inf"), 1e30):
            tensors = load(whole)
            next(each for each in tensors.values() if each.is_floating_point()).view(-1)[0] = wrong
            path.write_bytes(save(tensors))
            with pytest.raises(UserError, match=r"must hold weights of usual size, .*; remove .* anew"):
                pruned(tmp_path, replace(CONFIG, budget=CONFIG.budget + 2))
        path.write_bytes(whole)
    kept = next(tmp_path.glob("searches/0/kept/*/model.safetensors"))
    kept.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"cannot be read .*; remove .* anew"):
        pruned(tmp_path)
    (tmp_path / "elsewhere").rename(kept)
    journal = tmp_path / "searches" / "0" / "study.journal"
    whole, before = journal.read_bytes(), sorted(tmp_path.rglob("*"))
    begun, identity, *trials = whole.splitlines(keepends=True)
    of_others = {**json.loads(identity), "user_attr": {"supersieve": True}}
    journal.write_bytes(b"".join([begun, json.dumps(of_others).encode() + b"\n", *trials]))
    with pytest.raises(UserError, match="must be of version 1"):
        pruned(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    journal.write_bytes(whole)
    shutil.copy(tmp_path / "searches" / "0" / "study.journal", tmp_path / "searches" / "1" / "study.journal")
    with pytest.raises(UserError, match="must be the search of this network's sub-network 1"):
        pruned(tmp_path)


def test_the_files_are_those_of_the_fronts(found: Pruned) -> None:
    for name, study in found.studies.items():
        kept = {path.name for path in found.files[name].folder.iterdir()}
        assert kept == {found.files[name].of(member.candidate).name for member in study.front()}
        assert all("feature_change" in m.extras for m in study.measurements)


class Stop:
    """Interrupts a pruning after so many results."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, name: str, measurement: Measurement, number: int) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [1, 6, 12])
def test_an_interrupted_pruning_goes_on(found: Pruned, tmp_path: Path, after: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        pruned(tmp_path, on_result=Stop(after))
    same(pruned(tmp_path), found)
    assert not (tmp_path / "features").exists()


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_any_number_of_workers_gives_the_same(found: Pruned, tmp_path: Path, count: int) -> None:
    same(pruned(tmp_path, workers=Workers(count, ray=True)), found)


def test_fine_tuning_goes_on_and_teaches(found: Pruned, tmp_path: Path) -> None:
    scheme, rows = found.schemes()[-1], split(96)
    whole, cut = found.network(scheme), found.network(scheme)
    original = {name: tensor.clone() for name, tensor in found.parts.model.state_dict().items()}
    history = fine_tuned(whole, found.parts.model, rows, TRAINING)

    def stop(step: nas.learning.training.Step) -> None:  # type: ignore[name-defined]
        if step.step == 2:
            raise KeyboardInterrupt

    often = TrainingConfig(**{**vars(TRAINING), "checkpoint_every_s": 0.0})
    with pytest.raises(KeyboardInterrupt):
        fine_tuned(cut, found.parts.model, rows, often, checkpoint=tmp_path / "checkpoint", on_step=stop)
    again = found.network(scheme)
    fine_tuned(again, found.parts.model, rows, often, checkpoint=tmp_path / "checkpoint")
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    assert all(torch.equal(tensor, original[name]) for name, tensor in found.parts.model.state_dict().items())
    assert len(history.steps) == 3


class Flat(nn.Module):
    """A network without anything inside of it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * SIDE * SIDE, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(pixels.flatten(1))  # type: ignore[no-any-return]


def regression() -> Any:
    rows = split(12)
    return make_split(rows.rows, [float(label) for label in rows.labels], _pixels(), task=TASKS["regression"])


def _pixels() -> Any:
    from nas.data.pixels import PlainImages

    return PlainImages("pixels", (SIDE, SIDE), (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: {"train": split(96).take(1, np.random.default_rng(0))}, "needs training rows, at least two, got 1"),
        (lambda: {"validation": regression()}, "needs rows with classes, the validation rows are of r2"),
        (lambda: {"config": nas.EmoPmsConfig(keep=("nothing.*",))}, "nothing"),
        (lambda: {"model": Flat()}, "must have channels that can be pruned inside of it"),
    ],
)
def test_what_cannot_be_pruned(tmp_path: Path, change: Callable[[], dict[str, Any]], message: str) -> None:
    given = {"model": trained(), "train": split(96), "validation": split(30), "folder": tmp_path, "config": CONFIG}
    with pytest.raises(UserError, match=message):
        emo_pms(**{**given, **change()})
    assert not any(tmp_path.iterdir())


def test_another_network_in_the_same_folder_is_refused(found: Pruned, tmp_path: Path) -> None:
    pruned(tmp_path)
    other = trained()
    with torch.no_grad():
        next(other.parameters()).mul_(1.5)
    with pytest.raises(UserError, match="holds a pruning of another network"):
        emo_pms(other, split(96), split(60, seed=1), tmp_path, CONFIG)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 0}, "budget must be at least 1"),
        ({"multiple_of": 0}, "multiple_of must be at least 1"),
        ({"cost": "bytes"}, "cost must be parameters or macs"),
        ({"inheritance": "first"}, "inheritance must be importance or random"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        nas.EmoPmsConfig(**settings)


def test_steps_without_finite_losses_fail_their_form_alone(tmp_path: Path) -> None:
    wild = TrainingConfig(**{**vars(TRAINING), "learning_rate": 1e30, "clip_norm": float("inf")})
    config = nas.EmoPmsConfig(**{**vars(CONFIG), "forms": wild})
    result = pruned(tmp_path, config)
    states = [m for study in result.studies.values() for m in study.measurements]
    assert all(m.state == "failed" and "finite" in str(m.reason) for m in states)
    assert not result.forms


def test_supernet_of_the_whole_space_fits(found: Pruned) -> None:
    supernet = Supernet(found.parts.model, found.parts.space)
    smallest = supernet.extract(found.parts.space.smallest())
    assert sum(p.numel() for p in smallest.parameters()) < sum(p.numel() for p in supernet.model.parameters())
