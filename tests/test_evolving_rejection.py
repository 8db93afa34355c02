"""The tests that reject layers: without training, after a short one, and under weights made to fail."""

import math
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from torch import Tensor, nn

from nas.errors import UserError
from nas.evolving import rejection
from nas.evolving.anchors import SMALL, networks
from nas.evolving.layer_makers import LayerMaker
from nas.evolving.propagation import propagation
from nas.evolving.quality import TRAINING, quality
from nas.evolving.rejection import RejectionConfig
from nas.evolving.stability import stability
from nas.evolving.usable import usable
from nas.evolving.verdict import Verdict
from search_spaces.graphs import PUBLISHED, LayerGraph, Node, published
from tests.toy_rows import Pairs

KNOWN = ("BN-ReLU", "B0", "S0")


def graph(*nodes: Node) -> LayerGraph:
    return LayerGraph(nodes)


X, ZERO, V0, V1 = range(4)
CONSTANT = {
    "zero": graph(Node("neg", (ZERO,))),
    "vectors": graph(Node("add", (V0, V1))),
    "dead x": graph(Node("exp", (X,)), Node("tanh", (V1,))),
}
FLAT = {
    "instance mean": graph(Node("mean", (X,), "instance")),
    "batch mean": graph(Node("mean", (X,), "batch")),
    "x / x": graph(Node("div", (X, X))),
    "x - x": graph(Node("neg", (X,)), Node("add", (X, 4))),
    "v0 x": graph(Node("mul", (V0, X))),
}
LINEAR = {
    "-x": graph(Node("neg", (X,))),
    "x": graph(Node("max", (X, X))),
    "v1 x + v0": graph(Node("mul", (V1, X)), Node("add", (4, V0))),
    "x - mean": graph(Node("mean", (X,), "layer"), Node("neg", (4,)), Node("add", (X, 5))),
}
EXPLODING = {
    "exp exp": graph(Node("exp", (X,)), Node("exp", (4,))),
    "x^64": graph(Node("square", (X,)), *(Node("square", (index,)) for index in range(4, 9))),
}
UNSTABLE = {
    "square": graph(Node("square", (X,))),
    "exp": graph(Node("exp", (X,))),
    "x exp": graph(Node("exp", (X,)), Node("mul", (4, X))),
}


LOUD = graph(Node("square", (X,)), Node("add", (4, X)), Node("add", (5, X)))


class Deep(nn.Module):
    """Ten convolutions with a layer each, which is enough to tell layers apart, in a fraction of a second."""

    def __init__(self, layer: LayerMaker, outputs: int = 4) -> None:
        super().__init__()
        widths = (3, *(8,) * 10)
        self.parts = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(inside, 8, 3, 2 if index == 1 else 1, 1), layer(8, True))
                for index, inside in enumerate(widths[:-1])
            )
        )
        self.head = nn.Linear(8, outputs)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.parts(pictures).mean((2, 3)))


def bright(count: int, seed: int = 0) -> Pairs:
    """Images of four classes: one half or the other is bright, or one channel of it."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    pixels = torch.randn(count, 3, 8, 8, generator=rng)
    for index, label in enumerate(labels.tolist()):
        pixels[index, label % 2, (label // 2) * 4 : (label // 2) * 4 + 4] += 3
    return Pairs(pixels, labels)


TRAIN, VALIDATION = bright(200), bright(100, 1)
DEEP = {"deep": Deep}
SHORT = replace(TRAINING, steps=25, batch_size=16)


def _quality(layer: LayerGraph, **more) -> Verdict:
    options = {"groups": 4, "training": SHORT, "least_accuracy": 0.5, **more}
    return quality(layer, options.pop("networks", DEEP), TRAIN, VALIDATION, **options)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_layers_are_usable(name: str) -> None:
    verdict = usable(published(name))
    assert verdict.accepted and verdict.rejected_by is None and not verdict.reason and not verdict.steps
    assert all(value > 0.1 for value in verdict.measured.values())


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        (CONSTANT, "does not depend on the input"),
        (FLAT, "is the same at all places of a channel"),
        (LINEAR, "is linear in the input"),
        (EXPLODING, "not finite for inputs of scale 10"),
    ],
)
def test_useless_layers_are_rejected_without_training(layers: dict[str, LayerGraph], reason: str) -> None:
    for name, layer in layers.items():
        verdict = usable(layer)
        assert verdict.rejected_by == "usable" and reason in verdict.reason, name
        assert not verdict.accepted and all(math.isfinite(value) for value in verdict.measured.values())


def test_the_sign_has_no_gradient() -> None:
    sign = graph(Node("abs", (X,)), Node("div", (X, 4)))
    verdict = usable(sign)
    assert verdict.rejected_by == "usable" and "gradient" in verdict.reason


def test_activations_alone_are_usable() -> None:
    for layer in (graph(Node("max", (X, ZERO))), graph(Node("tanh", (X,))), graph(Node("abs", (X,)))):
        assert usable(layer).accepted


def test_equal_layers_have_equal_verdicts() -> None:
    layer = published("B0")
    longer = LayerGraph((Node("exp", (X,)), *(_shifted(node) for node in layer.nodes)))
    assert longer != layer and longer.key == layer.key
    assert usable(longer) == usable(layer)
    assert _quality(longer, seed=3) == _quality(layer, seed=3)
    assert stability(longer, Deep, TRAIN, steps=3) == stability(layer, Deep, TRAIN, steps=3)


def _shifted(node: Node) -> Node:
    return Node(node.op, tuple(index + 1 if index > V1 else index for index in node.inputs), node.over)


@pytest.mark.parametrize("name", KNOWN)
def test_known_layers_train(name: str) -> None:
    verdict = _quality(published(name))
    assert verdict.accepted and verdict.steps == 25 and verdict.measured["accuracy deep"] > 0.5


def test_a_layer_that_does_not_train_is_rejected_in_the_first_network() -> None:
    verdict = _quality(FLAT["v0 x"], networks={"first": Deep, "second": Deep})
    assert verdict.rejected_by == "quality" and verdict.steps == 25 and list(verdict.measured) == ["accuracy first"]
    assert "25.0% of the rows are right in first, at least 50.0% must be" in verdict.reason


def test_every_network_is_tried_in_turn() -> None:
    class Untrainable(Deep):
        def forward(self, pictures: Tensor) -> Tensor:
            return super().forward(pictures * 0)

    tried = {"first": Deep, "second": Untrainable, "third": Deep}
    verdict = _quality(published("BN-ReLU"), networks=tried)
    assert verdict.rejected_by == "quality" and "in second" in verdict.reason and verdict.steps == 50
    assert list(verdict.measured) == ["accuracy first", "accuracy second"]


@pytest.mark.parametrize("name", UNSTABLE)
def test_a_training_that_is_not_finite_is_a_rejection(name: str) -> None:
    verdict = _quality(UNSTABLE[name])
    assert verdict.rejected_by == "quality" and 1 <= verdict.steps <= 25 and not verdict.accepted
    assert all(math.isfinite(value) for value in verdict.measured.values())
    if name != "exp":
        assert "the loss or its gradient is not finite at step 1 in deep" in verdict.reason


def test_outputs_that_are_not_finite_in_evaluation_mode_are_a_rejection() -> None:
    class Fragile(Deep):
        def forward(self, pictures: Tensor) -> Tensor:
            return super().forward(pictures) if self.training else super().forward(pictures) * math.nan

    verdict = _quality(published("S0"), networks={"fragile": Fragile})
    assert verdict.rejected_by == "quality" and "evaluation mode" in verdict.reason and not verdict.measured


@pytest.mark.parametrize("name", KNOWN)
def test_known_layers_are_stable(name: str) -> None:
    verdict = stability(published(name), Deep, TRAIN, groups=4, steps=30)
    assert verdict.accepted and verdict.steps == 30
    assert verdict.measured["first norm"] <= verdict.measured["largest norm"] < 1e5


@pytest.mark.parametrize("name", UNSTABLE)
def test_unstable_layers_are_rejected(name: str) -> None:
    verdict = stability(UNSTABLE[name], Deep, TRAIN, groups=4)
    assert verdict.rejected_by == "stability" and verdict.steps < 100 and "gradient" in verdict.reason


def test_layers_without_a_normalization_explode_in_a_deep_network() -> None:
    verdict = stability(graph(Node("max", (X, ZERO))), networks(SMALL, 10)["mobilenet-v2"], TRAIN)
    assert verdict.rejected_by == "stability" and "above 1e+08" in verdict.reason and 0 < verdict.steps < 30


def test_a_gradient_of_zero_is_a_rejection() -> None:
    verdict = stability(FLAT["v0 x"], Deep, TRAIN)
    assert verdict.rejected_by == "stability" and verdict.reason == "the gradient is 0" and verdict.steps == 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_layers_let_a_signal_through_the_networks_of_a_search(name: str) -> None:
    made, draws = networks(SMALL, 10), torch.Generator().manual_seed(0)
    rows = Pairs(torch.randn(64, 3, 16, 16, generator=draws), torch.arange(64) % 10)
    verdict = propagation(published(name), {each: made[each] for each in ("efficientnet-b0", "mobilenet-v2")}, rows)
    assert verdict.accepted and verdict.steps == 2


@pytest.mark.parametrize(
    ("layer", "fault"),
    [
        (graph(Node("sigmoid", (X,)), Node("square", (4,))), "of different rows deviate by"),
        (LOUD, "the first loss is"),
        (FLAT["v0 x"], "of different rows deviate by"),
        (graph(Node("log", (X,))), "the first gradient of the first convolution is"),
    ],
)
def test_a_signal_that_vanishes_or_explodes_in_a_deep_network_is_a_rejection(layer: LayerGraph, fault: str) -> None:
    """The same seed gives the same verdict, and nothing is drawn from the caller's stream."""
    state = torch.random.get_rng_state()
    verdict = propagation(layer, {**DEEP, **networks(SMALL, 10)}, TRAIN)
    assert verdict.rejected_by == "propagation" and fault in verdict.reason and " in " in verdict.reason
    assert 1 <= verdict.steps <= 4 and verdict == propagation(layer, {**DEEP, **networks(SMALL, 10)}, TRAIN)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_signal_is_followed_on_rows_through_convolutions() -> None:
    with pytest.raises(UserError, match="at least 2 rows, got 1"):
        propagation(published("S0"), DEEP, TRAIN, batch_size=1)
    with pytest.raises(UserError, match="must have convolutions"):
        propagation(published("S0"), {"flat": lambda layer: nn.Sequential(nn.Flatten(), nn.Linear(192, 4))}, TRAIN)


def test_verdicts_depend_on_the_seed() -> None:
    one, other = (stability(published("S0"), Deep, TRAIN, seed=seed, steps=1) for seed in (0, 1))
    assert one.measured != other.measured


def test_verdicts_of_networks_that_draw_while_they_run_follow_from_the_seed() -> None:
    def dropping(layer: LayerMaker) -> nn.Module:
        return nn.Sequential(nn.Dropout(0.5), Deep(layer))

    found = []
    for state in (1, 2):
        torch.manual_seed(state)
        # The reason has the loss, which follows from what is dropped.
        found.append((stability(published("S0"), dropping, TRAIN, steps=3), propagation(LOUD, {"a": dropping}, TRAIN)))
    assert found[0] == found[1] and "the first loss is" in found[0][1].reason


def test_tests_leave_the_random_numbers_of_the_caller() -> None:
    state = torch.random.get_rng_state()
    rejection.tested(
        published("S0"), DEEP, TRAIN, VALIDATION, config=RejectionConfig(4, replace(SHORT, steps=2), 0.0, 1)
    )
    assert torch.equal(torch.random.get_rng_state(), state)


def test_all_tests_in_turn() -> None:
    config = RejectionConfig(4, SHORT, 0.5, 5)
    accepted = rejection.tested(published("S0"), DEEP, TRAIN, VALIDATION, config=config)
    assert accepted.accepted and accepted.steps == 31
    assert {"places", "curvature", "accuracy deep", "largest norm"} <= set(accepted.measured)
    assert rejection.tested(LINEAR["-x"], DEEP, TRAIN, VALIDATION, config=config).rejected_by == "usable"
    assert rejection.tested(UNSTABLE["x exp"], DEEP, TRAIN, VALIDATION, config=config).rejected_by == "propagation"
    trained = replace(config, first_step=False)
    assert rejection.tested(UNSTABLE["x exp"], DEEP, TRAIN, VALIDATION, config=trained).rejected_by == "quality"
    strict = replace(config, largest_norm=1e-9)
    verdict = rejection.tested(published("S0"), DEEP, TRAIN, VALIDATION, config=strict)
    assert verdict.rejected_by == "stability" and verdict.steps == 26
    with pytest.raises(FrozenInstanceError):
        verdict.steps = 0


@pytest.mark.slow
@pytest.mark.parametrize("name", KNOWN)
def test_known_layers_are_stable_in_an_anchor(name: str) -> None:
    verdict = stability(published(name), networks(SMALL, 4)["mobilenet-v2"], TRAIN, groups=4)
    assert verdict.accepted and verdict.steps == 100


def test_bad_arguments_are_refused() -> None:
    layer = published("S0")
    with pytest.raises(UserError, match="at least one network"):
        _quality(layer, networks={})
    with pytest.raises(UserError, match="least_accuracy must be in"):
        _quality(layer, least_accuracy=20)
    with pytest.raises(UserError, match="batches of at least 2 rows"):
        quality(layer, DEEP, bright(33), VALIDATION, training=replace(SHORT, batch_size=1))
    with pytest.raises(UserError, match="validation row"):
        quality(layer, DEEP, TRAIN, bright(0))
    for wrong in ({"steps": -1}, {"step_size": 0.0}, {"batch_size": 1}, {"largest_norm": math.nan}):
        with pytest.raises(UserError, match="stability needs"):
            stability(layer, Deep, TRAIN, **wrong)
    with pytest.raises(UserError, match="must have convolutions"):
        stability(layer, lambda make: nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), TRAIN)
