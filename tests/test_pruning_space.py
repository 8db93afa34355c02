"""A network cut into sub-networks is that network, in both modes; what can be pruned in each is right and complete."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.cifar_networks import ResNet as CifarResNet
from hardware import cost
from search_spaces import Candidate, NotElastic, Space, Supernet, exact_costs
from search_spaces.families.oracle import difference, masked_forward
from search_spaces.inputs import Inputs, split_inputs
from search_spaces.pruning import Partition, partition
from search_spaces.pruning.module_graph import FunctionalDropout, logits_of
from tests.networks import FusedBlock, PlainTransformer, randomised
from tests.pruning_networks import CASES, Plain, images, made


def call(module: nn.Module, inputs: Inputs) -> Tensor:
    args, kwargs = split_inputs(inputs)
    return logits_of(module(*args, **kwargs))


def candidates(space: Space, count: int = 4) -> list[Candidate]:
    rng = np.random.default_rng(0)
    return [space.smallest(), *(space.sample(rng) for _ in range(count))]


def borders(found: Partition, inputs: Inputs) -> list[Tensor]:
    """The features before each sub-network, then those behind the last."""
    args, kwargs = split_inputs(inputs)
    with torch.no_grad():
        return [*args, *kwargs.values(), *found.boundaries(inputs)[:-1]]


@pytest.mark.parametrize("name", CASES)
def test_sub_networks_and_choices_are_those_of_the_network(name: str) -> None:
    found, case = made(name), CASES[name]
    assert [each.name for each in found.subnetworks] == [str(number) for number in range(len(case.choices))]
    assert tuple(len(each.space.choices) for each in found.subnetworks) == case.choices
    assert isinstance(found.head, nn.Identity) == case.classified
    for choice in found.space.choices:
        assert choice.name.startswith("channels.")
        full = choice.cuts[0].size
        assert choice.options == range(1, full + 1)


@pytest.mark.parametrize("name", CASES)
def test_the_sub_networks_in_turn_are_the_network_for_any_number_of_rows(name: str) -> None:
    found = made(name)
    for rows in (1, 3):
        inputs = CASES[name].inputs(rows)
        with torch.no_grad():
            expected, features = call(found.model, inputs), found.boundaries(inputs)
            assert torch.equal(features[-1], expected)
            # No sub-network has written into the features before it.
            x = features[0]
            for each, behind in zip(found.subnetworks[1:], features[1:], strict=False):
                x = each.module(x)
                assert torch.equal(x, behind)
            assert torch.equal(found.head(x), expected)


@pytest.mark.parametrize("name", CASES)
def test_they_are_the_network_while_training_too(name: str) -> None:
    inputs = CASES[name].inputs(4)
    parts, model = copy.deepcopy(made(name)), copy.deepcopy(made(name).model)
    outputs = []
    for module, run in ((model, call), (parts.model, lambda _, x: parts.boundaries(x)[-1])):
        module.train()
        torch.manual_seed(1)
        outputs.append(run(module, inputs))
        outputs[-1].square().sum().backward()
    assert torch.equal(*outputs)
    for (name, ours), theirs in zip(parts.model.named_parameters(), model.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), name
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad), name
    for (name, ours), theirs in zip(parts.model.named_buffers(), model.buffers(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("name", CASES)
def test_the_parameters_are_those_of_the_model_and_each_is_in_one_part(name: str) -> None:
    found = made(name)
    modules = [*(each.module for each in found.subnetworks), found.head]
    everything = {name: id(tensor) for name, tensor in found.model.named_parameters()}
    held = [(name, id(tensor)) for module in modules for name, tensor in module.named_parameters()]
    assert len(held) == len(everything)
    assert dict(held) == everything
    saved = {name for module in modules for name in module.state_dict()}
    assert saved == set(found.model.state_dict())
    for each in found.subnetworks:
        own = {name for name, _ in [*each.module.named_parameters(), *each.module.named_buffers()]}
        assert all(getattr(cut, "parameter", None) in own | {None} for c in each.space.choices for cut in c.cuts)


@pytest.mark.parametrize("name", CASES)
def test_extracted_sub_networks_are_the_masked_ones_and_keep_their_borders(name: str) -> None:
    found = made(name)
    features = borders(found, CASES[name].inputs())
    for each, before, behind in zip(found.subnetworks, features[:-1], features[1:], strict=True):
        supernet = Supernet(each.module, each.space)
        for candidate in candidates(each.space):
            with torch.no_grad():
                alone = supernet.extract(candidate)(before)
                assert alone.shape == behind.shape
                assert difference(supernet(candidate, before), alone) <= 1e-6
                assert difference(alone, masked_forward(supernet, candidate, (before,))) <= 1e-5
                # Any number of rows, as for the whole.
                assert difference(supernet.extract(candidate)(before[:1]), alone[:1]) <= 1e-5


@pytest.mark.parametrize("name", CASES)
def test_the_extracted_network_is_its_extracted_sub_networks_in_turn(name: str) -> None:
    found, inputs = made(name), CASES[name].inputs()
    supernet = Supernet(found.model, found.space)
    for candidate in candidates(found.space, 2):
        whole = supernet.extract(candidate)
        assert type(whole) is type(found.model)
        own = [Candidate({c.name: candidate[c.name] for c in each.space.choices}) for each in found.subnetworks]
        parts = [
            Supernet(each.module, each.space).extract(part) for each, part in zip(found.subnetworks, own, strict=True)
        ]
        with torch.no_grad():
            x = borders(found, inputs)[0]
            for part in (*parts, found.head):
                x = part(x)
            assert torch.equal(call(whole, inputs), x)
            assert difference(x, logits_of(masked_forward(supernet, candidate, inputs))) <= 1e-5
        # What was trained in sub-networks is put into the whole by its names.
        state = {name: tensor for part in (*parts, found.head) for name, tensor in part.state_dict().items()}
        assert {name: tensor.shape for name, tensor in whole.state_dict().items()} == {
            name: tensor.shape for name, tensor in state.items()
        }


@pytest.mark.parametrize("name", CASES)
def test_costs_of_candidates_are_those_of_what_is_extracted(name: str) -> None:
    found, inputs = made(name), CASES[name].inputs()
    features = borders(found, inputs)
    whole: list[tuple[nn.Module, Space, Inputs]] = [(found.model, found.space, inputs)]
    parts = [(each.module, each.space, (x,)) for each, x in zip(found.subnetworks, features, strict=False)]
    for module, space, x in [*whole, *parts]:
        supernet = Supernet(module, space)
        functions = exact_costs(supernet, x)
        for candidate in candidates(space, 1):
            encoded, counted = space.encode([candidate]), cost(supernet.extract(candidate), x)
            assert functions["parameters"](encoded)[0] == counted.parameters
            assert functions["macs"](encoded)[0] == counted.macs


@pytest.mark.parametrize(("blocks", "slow"), [(9, False), pytest.param(18, True, marks=pytest.mark.slow)])
def test_the_resnets_of_the_paper_have_three_sub_networks_and_a_choice_a_block(blocks: int, slow: bool) -> None:
    found = partition(CifarResNet(blocks).eval(), (images(16),))
    assert [len(each.space.choices) for each in found.subnetworks] == [blocks] * 3
    assert [choice.name for choice in found.subnetworks[1].space.choices] == [
        f"channels.layer2.{block}.conv1" for block in range(blocks)
    ]


def test_what_is_kept_is_no_choice() -> None:
    found = partition(randomised(CifarResNet(3)), (images(16),), keep=("layer1.*", "layer2.0.conv1"))
    # The first stage has nothing left to prune, so it joins the second.
    assert [len(each.space.choices) for each in found.subnetworks] == [2, 3]
    assert found.space.choices[0].name == "channels.layer2.1.conv1"
    assert dict(found.subnetworks[0].module.named_parameters()).keys() > {"conv1.weight", "layer1.2.conv2.weight"}


def test_channels_are_multiples_and_the_full_number() -> None:
    found = partition(randomised(Plain()), (images(16),), multiple_of=4)
    options = {choice.name: choice.options for choice in found.space.choices}
    assert options == {
        "channels.conv1": (4, 6),
        "channels.conv3": range(4, 9, 4),
        "channels.fc1": range(4, 13, 4),
    }
    assert found.space.full() == found.space.largest()


def test_frozen_layers_and_the_modes_of_the_model_stay() -> None:
    model = randomised(CifarResNet(2)).train()
    model.bn1.eval()
    modes = [part.training for part in model.modules()]
    state = copy.deepcopy(model.state_dict())
    found = partition(model, (images(16),))
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert [part.training for part in found.model.modules()] == modes


def test_what_stands_in_for_functions_has_the_mode_of_the_model() -> None:
    found = partition(randomised(Plain()).train(), (images(16),))
    inner = [part for each in found.subnetworks for part in each.module.modules()]
    assert any(isinstance(part, FunctionalDropout) for part in inner)
    assert all(part.training for part in inner)
    assert not any(part.training for part in found.subnetworks[-1].module.eval().modules())


def test_sub_networks_can_be_sent_to_another_process() -> None:
    found = made("plain")
    x = borders(found, CASES["plain"].inputs())[1]
    each = pickle.loads(pickle.dumps(found.subnetworks[1]))
    with torch.no_grad():
        assert torch.equal(each.module(x), found.subnetworks[1].module(x))
        extracted = Supernet(each.module, each.space).extract(each.space.smallest())
        assert torch.equal(pickle.loads(pickle.dumps(extracted))(x), extracted(x))


def test_a_network_without_resolutions_is_one_sub_network() -> None:
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 3))
    found = partition(network, (torch.randn(2, 6),))
    assert [choice.name for choice in found.subnetworks[0].space.choices] == ["channels.0", "channels.2"]
    assert len(found.subnetworks) == 1
    text = randomised(PlainTransformer(FusedBlock))
    assert len(partition(text, text.inputs).subnetworks) == 1


class Changed(Plain):
    """A network whose forward is replaced."""

    def __init__(self, forward: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.replaced = forward

    def forward(self, x: Tensor) -> Any:
        return self.replaced(self, x)


class Tied(nn.Module):
    """A convolution that runs before and behind a change of resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.again, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.one, self.two, self.head = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(F.relu(self.one(self.out(F.relu(self.again(self.stem(x)))))))
        x = self.out(F.relu(self.again(F.avg_pool2d(x, 2))))
        return self.head(x.mean((2, 3)))


class Asserting(nn.Module):
    """A forward that says in Python what the graph does not show."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.conv3, self.conv4 = nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 10, 3, padding=1)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        assert x.shape[1] == 6
        x = self.conv4(F.relu(self.conv3(self.conv2(x))))
        return self.head(x.mean((2, 3)))


def test_what_the_model_itself_refuses_is_no_choice() -> None:
    # Without it the first sub-network has no choice left, so it joins the second.
    found = partition(randomised(Asserting()), (images(16),))
    assert [choice.name for choice in found.space.choices] == ["channels.conv2", "channels.conv3"]
    assert len(found.subnetworks) == 1


def test_what_two_sub_networks_share_stays() -> None:
    found = partition(randomised(Tied()), (images(8),))
    assert [choice.name for choice in found.space.choices] == ["channels.one"]
    with torch.no_grad():
        assert torch.equal(found.boundaries((images(8),))[-1], found.model(images(8)))


def branching(model: Plain, x: Tensor) -> Tensor:
    if x.sum() > 0:
        x = -x
    return Plain.forward(model, x)


def several(model: Plain, x: Tensor) -> tuple[Tensor, Tensor]:
    return x, Plain.forward(model, x)


def fixed(model: Plain, x: Tensor) -> Tensor:
    return Plain.forward(model, x.view(2, 3, 16, 16))


def noisy(model: Plain, x: Tensor) -> Tensor:
    return Plain.forward(model, x + 1 if model.training else x)


def untrainable(model: Plain, x: Tensor) -> Tensor:
    if model.training:
        raise RuntimeError("no")
    return Plain.forward(model, x)


def normalised(model: Plain, x: Tensor) -> Tensor:
    return Plain.forward(model, F.batch_norm(x, torch.zeros(3), torch.ones(3)))


def apart(model: Plain, x: Tensor) -> Tensor:
    with torch.no_grad():
        x = model.shift + x
    return Plain.forward(model, x)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (branching, r"traceable by torch.export, which says at .*test_pruning_space\.py, line \d+: "),
        (several, "must return one tensor of floats, or a mapping with logits, got 2 in a tuple"),
        (fixed, "the forward must take any number of rows"),
        (noisy, "the forward of Changed must do while training what it does in evaluation mode"),
        (untrainable, "Changed must run in training mode as in evaluation mode: no"),
        (normalised, "the model must have its batch norm as a layer"),
        (apart, r"the forward of the model must be free of blocks.*torch\.no_grad"),
    ],
)
def test_forwards_that_cannot_be_cut_are_refused(forward: Callable[[Any, Tensor], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        partition(randomised(Changed(forward)), (images(16),))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": ("nothing.*",)}, r"keep must have patterns of paths of modules, such as conv1, got 'nothing\.\*'"),
        ({"multiple_of": 0}, "multiple_of must be at least 1, got 0"),
        ({"keep": ("*",)}, "Plain must have channels that can be pruned inside of it, beside those of keep"),
        ({"example_inputs": None}, "example_inputs must be given for Plain"),
        ({"example_inputs": (images(16), images(16))}, "one tensor, got 2 by position"),
        ({"example_inputs": {"x": images(16), "y": images(16)}}, "one tensor, got x, y"),
        ({"example_inputs": ()}, "one tensor, got none"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        partition(**{"model": randomised(Plain()), "example_inputs": (images(16),), **arguments})


def test_a_network_with_nothing_to_prune_is_refused() -> None:
    with pytest.raises(NotElastic, match="Sequential must have channels that can be pruned inside of it: none"):
        partition(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), (images(8),))


def test_boundaries_need_one_tensor() -> None:
    with pytest.raises(ValueError, match="one tensor, got 2 by position"):
        made("plain").boundaries((images(16), images(16)))
