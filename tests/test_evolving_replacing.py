"""A network whose normalizations and activations are replaced by a layer."""

import copy
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import nas
from nas.evolving.layer_makers import Affine
from nas.evolving.replacing import replace
from search_spaces.graphs import GraphLayer, LayerGraph, Node, published
from tests.conv_networks import Basic
from tests.pruning_networks import ImageNetResNet, InvertedResidual, images


class Mobile(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU6(inplace=True))
        self.blocks = nn.Sequential(InvertedResidual(4, 4, 1, 2), InvertedResidual(4, 6, 2, 2))
        self.head = nn.Linear(6, 5)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(pixels)).mean((2, 3)))


class Functional(nn.Module):
    """Functions between layers, in place and not, one of them in front of a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6, eps=1e-3)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6, affine=False)
        self.conv3, self.bn3 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6, momentum=None)
        self.fc = nn.Linear(6, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(image)))
        y = self.bn2(self.conv2(x))
        F.relu(y, inplace=True)
        x = F.relu(self.bn3(self.conv3(y)) + x)
        return self.fc(F.dropout(x.mean((2, 3)), 0.1, self.training))


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.gn1, self.act1 = nn.Conv2d(3, 6, 3), nn.GroupNorm(3, 6), nn.SiLU()
        self.conv2, self.gn2 = nn.Conv2d(6, 6, 3), nn.GroupNorm(2, 6)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.silu(self.gn2(self.conv2(self.act1(self.gn1(self.conv1(x)))))).mean((2, 3)))


# The network, how many pairs it has, how many norms without an activation, and whether it stays of its class.
NETWORKS = {
    "resnet": (lambda: ImageNetResNet(Basic, (1, 1, 1, 1)), 5, 8, False),
    "mobile": (Mobile, 5, 2, True),
    "functional": (Functional, 2, 1, False),
}


@cache
def _trained(name: str) -> nn.Module:
    """A network with the statistics and parameters that a training may leave, in evaluation mode; not to be changed."""
    return _used(NETWORKS[name][0]())


def _used(model: nn.Module) -> nn.Module:
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm) and layer.affine:
                layer.weight.uniform_(0.5, 1.5, generator=rng)
                layer.bias.normal_(0, 0.3, generator=rng)
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.3, generator=rng)
                layer.running_var.uniform_(0.5, 2, generator=rng)
    return model.eval()


@cache
def _replaced(name: str, layer: str) -> nn.Module:
    return replace(_trained(name), layer, (images(16),), groups=2)


def _count(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(layer, kind) for layer in model.modules())


@torch.no_grad()
def _apart(one: nn.Module, other: nn.Module, x: Tensor) -> float:
    """The largest difference of two outputs, relative to the largest output."""
    expected = other(x)
    return float((one(x) - expected).abs().max() / expected.abs().max())


def _linear_relu6(model: nn.Module) -> nn.Module:
    """A copy with plain ReLUs."""
    model = copy.deepcopy(model)
    for layer in list(model.modules()):
        for name, child in layer.named_children():
            if isinstance(child, nn.ReLU6):
                setattr(layer, name, nn.ReLU())
    return model


@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_of_what_was_there_computes_what_was_there(name: str) -> None:
    new = _replaced(name, "BN-ReLU")
    assert _apart(new, _linear_relu6(_trained(name)), images(16, 5)) < 1e-5


@pytest.mark.parametrize("layer", ["BN-ReLU", "S0"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_pair_is_replaced(name: str, layer: str) -> None:
    _, pairs, alone, same_class = NETWORKS[name]
    new = _replaced(name, layer)
    assert (_count(new, GraphLayer), _count(new, Affine), _count(new, nn.BatchNorm2d)) == (pairs, alone, 0)
    assert (type(new) is type(_trained(name))) == same_class
    assert not new.training and not any(each.training for each in new.modules())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_model_stays_as_it_is(name: str) -> None:
    model = _used(NETWORKS[name][0]())
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    replace(model, "S0", (images(16),))
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[key], before[key]) for key in before)
    assert not _count(model, GraphLayer)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_replaced_network_trains_and_is_copied(name: str) -> None:
    new = copy.deepcopy(_replaced(name, "S0")).train()
    x, targets = images(16, 8), torch.arange(8) % 5
    optimizer = torch.optim.SGD(new.parameters(), 0.01)
    losses = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(30):
            optimizer.zero_grad()
            loss = F.cross_entropy(new(x), targets)
            loss.backward()
            assert all(parameter.grad is not None for parameter in new.parameters())
            optimizer.step()
            losses.append(loss.item())
    # Dropout makes single losses noisy.
    assert sum(losses[-5:]) < sum(losses[:5])
    twin = copy.deepcopy(new).eval()
    assert torch.equal(twin(x), new.eval()(x))
    assert not {id(each) for each in twin.parameters()} & {id(each) for each in new.parameters()}


@pytest.mark.parametrize("name", ["mobile", "functional"])
@pytest.mark.parametrize("layer", ["BN-ReLU", "S0"])
def test_a_replaced_network_is_exported(name: str, layer: str, tmp_path: Path) -> None:
    import onnxruntime

    new, x = _replaced(name, layer), images(16)
    program = torch.export.export(new, (x,), strict=False)
    torch.testing.assert_close(program.module()(x), new(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(new, (x,), tmp_path / "new.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "new.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(found, new(x).detach().numpy(), atol=1e-5)


def test_running_averages_are_those_of_the_batch_norms() -> None:
    model, new = _trained("mobile"), _replaced("mobile", "BN-ReLU")
    norm, layer = model.get_submodule("stem.1"), new.get_submodule("stem.1")
    averages = {name.split("_")[1]: tensor for name, tensor in layer.named_buffers() if "running" in name}
    assert torch.equal(averages["mean"], norm.running_mean) and torch.equal(averages["std"], norm.running_var)
    assert torch.equal(layer.v1, norm.weight) and torch.equal(layer.v0, norm.bias) and layer.weight is None
    # A layer that activates before it is scaled has another meaning of scale and shift, but the same variance of x.
    first = replace(model, "B0", (images(16),)).get_submodule("stem.1")
    averages = [tensor for name, tensor in first.named_buffers() if "running" in name]
    assert len(averages) == 1 and torch.equal(averages[0], norm.running_var)
    assert torch.equal(first.weight, torch.ones(4)) and torch.equal(first.bias, torch.zeros(4))


def test_arguments_of_norms_are_kept() -> None:
    new = _replaced("functional", "BN-ReLU")
    assert new.get_submodule("bn1").eps == 1e-3
    assert next(iter(new.state_dict())).startswith("conv1")
    grouped = _used(Grouped())
    same = replace(grouped, "GN-SiLU", (images(16),))
    assert [same.get_submodule(name).groups for name in ("gn1", "gn2")] == [3, 2]
    assert _apart(same, grouped, images(16, 3)) < 1e-5


def test_the_input_of_a_graph_has_the_name_of_the_models() -> None:
    new = _replaced("functional", "S0")
    assert torch.equal(new(image=images(16)), new(images(16)))


def test_dropout_in_a_graph_drops_while_training_alone() -> None:
    new = copy.deepcopy(_replaced("functional", "S1"))
    assert torch.equal(new(images(16)), new(images(16)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert not torch.equal(new.train()(images(16)), new(images(16)))


def test_kept_norms_stay() -> None:
    new = replace(_trained("mobile"), "S0", (images(16),), keep=("stem.1", "blocks.1"))
    assert _count(new, GraphLayer) == 2 and _count(new, Affine) == 1 and _count(new, nn.BatchNorm2d) == 4
    assert isinstance(new.get_submodule("stem.2"), nn.ReLU6)
    with pytest.raises(ValueError, match=r"no 'stem\.9'"):
        replace(_trained("mobile"), "S0", (images(16),), keep=("stem.9",))


class Twice(nn.Module):
    """What cannot be replaced, but for the first pair: a norm for two places, another activation, a used norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        self.shared, self.leaky, self.other = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn(self.conv(x)))
        x = torch.relu(self.shared(torch.relu(self.shared(x))))
        x = F.leaky_relu(self.leaky(x))
        y = self.other(x)
        return self.fc((torch.relu(y) + y).mean((2, 3)))


def test_what_cannot_be_replaced_stays() -> None:
    new = replace(Twice(), "S0", (images(8),))
    kinds = {name: type(new.get_submodule(name)) for name in ("bn", "act", "shared", "leaky", "other")}
    left = nn.BatchNorm2d
    assert kinds == {"bn": GraphLayer, "act": nn.Identity, "shared": left, "leaky": left, "other": Affine}


def test_one_layer_under_two_names_is_replaced_under_both() -> None:
    class Aliased(Mobile):
        def __init__(self) -> None:
            super().__init__()
            self.alias = self.stem[1]

    new = replace(Aliased(), "S0", (images(16),))
    assert new.get_submodule("alias") is new.get_submodule("stem.1")


def test_layer_norms_of_transformers_are_replaced_if_asked_for() -> None:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=3)).eval()
    with pytest.raises(ValueError, match="ViTForImageClassification has none to replace"):
        replace(model, "S0")
    new = replace(model, "S1", layer_norms=True, groups=4)
    layers = [each for each in new.modules() if isinstance(each, GraphLayer)]
    assert type(new) is type(model) and len(layers) == 5 and not _count(new, nn.LayerNorm)
    assert all(each.channel_axis == -1 and each.groups == 4 for each in layers)
    new.train()(pixel_values=images(8)).logits.sum().backward()
    assert all(each.weight is not None and each.weight.grad is not None for each in layers)


def test_a_network_without_pairs_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 2))
    with pytest.raises(ValueError, match="Sequential has none to replace") as raised:
        replace(model, "S0", (images(8),))
    assert "\n" not in str(raised.value)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="name of a published layer"):
        replace(_trained("mobile"), "S9", (images(16),))
    with pytest.raises(ValueError, match="must be one tensor"):
        replace(_trained("mobile"), "S0", (images(16), images(16)))
    with pytest.raises(ValueError, match="example_inputs must be given for Mobile"):
        replace(_trained("mobile"), "S0")


def test_replace_is_public_and_takes_any_graph() -> None:
    assert nas.replace is replace
    graph = LayerGraph((Node("tanh", (0,)), Node("add", (4, 0))))
    new = nas.replace(_trained("mobile"), graph, (images(16),))
    assert new.get_submodule("stem.1").graph == graph and published("S0") != graph
