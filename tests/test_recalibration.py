"""Batch-norm statistics belong to a candidate: as PyTorch's own tool measures them, never in the full ones."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from nas.data.pixels import PlainImages
from nas.data.split import Split, make_split
from nas.errors import UserError
from nas.networks.recalibration import SubNetworks
from nas.searching.supernet_search import search
from search_spaces import Supernet, recalibrate, space
from tests.families import build
from tests.networks import Concatenation, MobileLike, randomised
from tests.test_data import png


def batches(count: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 3, 8, 8, generator=generator) for _ in range(count)]


def made(network: type[nn.Module] = MobileLike) -> Supernet:
    model = randomised(network())
    return Supernet(model, space(model, model.inputs, channels=(0.5, 0.75)))


def state(supernet: Supernet) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in supernet.state_dict().items()}


@pytest.mark.parametrize("network", [MobileLike, Concatenation])
def test_statistics_are_those_of_the_extracted_module_measured_by_pytorch(network) -> None:
    supernet = made(network)
    rng = np.random.default_rng(0)
    for candidate in (supernet.space.smallest(), supernet.space.sample(rng), supernet.space.largest()):
        before = state(supernet)
        alone = supernet.extract(candidate, recalibrate(supernet, candidate, [(x,) for x in batches()])).eval()
        oracle = supernet.extract(candidate)
        update_bn(batches(), oracle)
        oracle.eval()
        with torch.no_grad():
            assert torch.equal(alone(batches()[0]), oracle(batches()[0]))
            assert not torch.equal(alone(batches()[0]), supernet(candidate, batches()[0]))
        assert all(torch.equal(before[name], tensor) for name, tensor in supernet.state_dict().items())


def test_training_a_sub_network_leaves_the_statistics_of_the_full_one() -> None:
    supernet = made().train()
    before = state(supernet)
    supernet(supernet.space.smallest(), batches()[0]).sum().backward()
    assert all(torch.equal(before[name], tensor) for name, tensor in supernet.state_dict().items())
    supernet(supernet.space.largest(), batches()[0])
    changed = [name for name, tensor in supernet.state_dict().items() if not torch.equal(before[name], tensor)]
    assert any("running_mean" in name for name in changed)


def test_a_network_without_batch_norms_needs_no_batches() -> None:
    model = build("vit")
    supernet = Supernet(model, space(model))
    assert recalibrate(supernet, supernet.space.smallest(), []) == {}
    with pytest.raises(ValueError, match="needs at least one batch of inputs, got none"):
        recalibrate(made(), made().space.smallest(), [])


def rows(count: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    images = [png(int(value), 8) for value in rng.integers(0, 256, count)]
    return make_split(images, rng.integers(0, 5, count), PlainImages("x", (8, 8)))


def test_a_search_measures_sub_networks_with_their_own_statistics() -> None:
    supernet, validation, train = made(), rows(40, 0), rows(20, 1)
    arguments = {"objectives": ["accuracy", "macs"], "budget": 4, "seed": 0}
    with pytest.raises(UserError, match="need training rows for their statistics, got none"):
        search(supernet, supernet.space, validation, **arguments)
    study = search(supernet, supernet.space, validation, calibration=train, **arguments)
    networks = SubNetworks(supernet, train)
    for measured in study.measurements:
        with torch.no_grad():
            logits = networks.extract(measured.candidate)(**validation.batch(range(len(validation))))
        right = float((logits.argmax(1).numpy() == validation.labels).mean())
        assert measured.values["accuracy"] == pytest.approx(right)
