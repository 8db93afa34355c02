"""The networks in which layers are tried."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nas.errors import UserError
from nas.evolving.anchors import ANCHORS, PAPER, SMALL, OwnNetwork, networks, with_layer
from nas.evolving.layer_makers import Affine, batch_norm_relu, graph_maker
from nas.evolving.quality import TRAINING, classification_loss, right_share
from nas.evolving.sizes import strides
from nas.learning.training import fit
from search_spaces.graphs import GraphLayer, published
from tests.toy_rows import Pairs

# Layers with an activation and without one, of the networks in their papers.
LAYERS = {"mobilenet-v2": (35, 17), "efficientnet-b0": (33, 16), "resnet50": (49, 0)}


def stripes(count: int, seed: int = 0, side: int = 16) -> Pairs:
    """Images of four classes: stripes across, along or diagonal, and none, in noise."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    shapes = torch.stack([(y // 2) % 2, (x // 2) % 2, ((x + y) // 2) % 2, torch.zeros_like(x)]) * 2.0 - 1
    pixels = 1.5 * shapes[labels][:, None] + torch.randn(count, 3, side, side, generator=rng)
    return Pairs(pixels, labels)


@pytest.mark.parametrize("name", ANCHORS)
@pytest.mark.parametrize(("image_size", "width", "outputs"), [(12, 1 / 8, 2), (33, 1 / 8, 7), (64, 1 / 16, 10)])
def test_logits_have_their_shape(name: str, image_size: int, width: float, outputs: int) -> None:
    module = ANCHORS[name](batch_norm_relu, outputs=outputs, image_size=image_size, width=width)
    assert module(torch.randn(2, 3, image_size, image_size)).shape == (2, outputs)


@pytest.mark.parametrize("name", ANCHORS)
def test_every_layer_is_one_that_is_made(name: str) -> None:
    module = ANCHORS[name](graph_maker(published("S0"), 4), outputs=10, image_size=16, width=1 / 8)
    kinds = [type(layer) for layer in module.modules()]
    assert (kinds.count(GraphLayer), kinds.count(Affine)) == LAYERS[name]
    assert not {nn.BatchNorm2d, nn.ReLU, nn.SiLU, nn.ReLU6} & set(kinds)


@pytest.mark.parametrize("name", ANCHORS)
def test_full_width_has_the_parameters_of_the_paper(name: str) -> None:
    with torch.device("meta"):
        module = ANCHORS[name](batch_norm_relu, outputs=1000, image_size=224, width=1.0)
    millions = sum(parameter.numel() for parameter in module.parameters()) / 1e6
    # Those of torchvision are 3.50, 5.29 and 25.56; pre-activation has fewer norms.
    assert millions == pytest.approx({"mobilenet-v2": 3.50, "efficientnet-b0": 5.29, "resnet50": 25.55}[name], abs=0.02)


def test_small_images_keep_the_last_strides() -> None:
    wanted = (2, 2, 1, 2, 2, 2)
    assert strides(224, wanted) == list(wanted)
    assert strides(64, wanted) == [1, 2, 1, 2, 2, 2]
    assert strides(32, wanted) == strides(16, wanted) == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("size", [SMALL, PAPER])
def test_sizes_build_every_network(size) -> None:
    made = networks(size, 10)
    assert list(made) == list(ANCHORS)
    for network in made.values():
        assert pickle.loads(pickle.dumps(network))(batch_norm_relu)


def test_the_cheapest_network_is_the_first() -> None:
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in made(batch_norm_relu).parameters()) for made in networks(SMALL, 10).values()]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("name", ANCHORS)
def test_weights_depend_on_the_seed_and_not_on_the_layer(name: str) -> None:
    network = networks(SMALL, 4)[name]
    state = torch.random.get_rng_state()
    one, same = (with_layer(network, published(layer), 1, 4) for layer in ("S0", "B0"))
    other = with_layer(network, published("S0"), 2, 4)
    assert torch.equal(torch.random.get_rng_state(), state)
    convolutions = [[layer.weight for layer in m.modules() if isinstance(layer, nn.Conv2d)] for m in (one, same, other)]
    assert all(torch.equal(a, b) for a, b in zip(*convolutions[:2], strict=True))
    assert not torch.equal(convolutions[0][0], convolutions[2][0])


def _accuracy(name: str, steps: int, layer=batch_norm_relu) -> float:
    from dataclasses import replace

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = networks(SMALL, 4)[name](layer)
    fit(module, stripes(400), classification_loss, replace(TRAINING, steps=steps))
    return right_share(module.eval(), stripes(200, 1), 100)


def test_a_network_learns() -> None:
    assert _accuracy("resnet50", 30) > 0.7


@pytest.mark.slow
@pytest.mark.parametrize("name", ANCHORS)
@pytest.mark.parametrize("layer", ["BN-ReLU", "B0", "S0"])
def test_every_network_learns(name: str, layer: str) -> None:
    maker = batch_norm_relu if layer == "BN-ReLU" else graph_maker(published(layer), 4)
    assert _accuracy(name, 60, maker) > 0.7


def test_numbers_out_of_range_are_refused() -> None:
    for name, anchor in ANCHORS.items():
        with pytest.raises(ValueError, match="image_size must be at least 12 pixels, got 8"):
            anchor(batch_norm_relu, image_size=8)
        with pytest.raises(ValueError, match="width"):
            anchor(batch_norm_relu, width=0)
        with pytest.raises(ValueError, match="outputs"):
            anchor(batch_norm_relu, outputs=0)
        with pytest.raises(UserError, match=f"one of .*{name}.*, got 'vgg'"):
            networks(SMALL, 10, ["vgg"])


OWN = """
from torch import nn

def sized(layer, outputs):
    return nn.Sequential(nn.Conv2d(3, 8, 3), layer(8, True), nn.Flatten(), nn.Linear(288, outputs))

def fixed(layer):
    return sized(layer, 10)

def failing(layer):
    raise RuntimeError("no such layer")

def nothing(layer):
    return None

number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_anchors_of_a_test.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return "own_anchors_of_a_test"


def test_a_network_of_the_users_own(own: str) -> None:
    for factory, outputs in (("sized", 7), ("fixed", 10)):
        network = pickle.loads(pickle.dumps(OwnNetwork(f"{own}:{factory}", 7)))
        module = with_layer(network, published("S0"), 0, 4)
        assert isinstance(module[1], GraphLayer) and module[1].groups == 4
        assert module(torch.from_numpy(np.zeros((2, 3, 8, 8), np.float32))).shape == (2, outputs)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("failing", "cannot make a network: RuntimeError: no such layer"),
        ("nothing", r"must make a torch\.nn\.Module, it made NoneType"),
        ("number", "must be a function, it is int"),
        ("absent", "cannot be imported"),
    ],
)
def test_bad_factories_are_refused(own: str, factory: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        OwnNetwork(f"{own}:{factory}", 4)(batch_norm_relu)


def test_a_factory_is_named_with_its_module() -> None:
    with pytest.raises(UserError, match="module:function"):
        OwnNetwork("nothing", 4)(batch_norm_relu)
