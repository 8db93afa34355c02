"""Laws of every network: shared == extracted, shared == the full network with the removed units zeroed or bypassed."""

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hardware import cost
from search_spaces import AxisCut, Candidate, NotElastic, Space, Supernet, exact_costs, space
from search_spaces.families.oracle import difference, masked_forward, tensors_of
from search_spaces.inputs import Inputs, split_inputs
from tests.zoo import CASES, CONVOLUTIONAL, first, made

CANDIDATES = 20
ENDS = ("smallest", "largest")


def candidates(space: Space, count: int = CANDIDATES) -> list[Candidate]:
    rng = np.random.default_rng(0)
    return [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(count))]


def call(module: nn.Module, inputs: Inputs, *leading: Any) -> Any:
    args, kwargs = split_inputs(inputs)
    return module(*leading, *args, **kwargs)


@pytest.mark.parametrize("name", CASES)
def test_shared_equals_extracted_and_the_masked_full_network(name: str) -> None:
    supernet, inputs = made(name)
    with torch.no_grad():
        for candidate in candidates(supernet.space):
            shared, alone = call(supernet, inputs, candidate), call(supernet.extract(candidate), inputs)
            if name in CONVOLUTIONAL:
                assert difference(shared, alone) <= 1e-6, candidate
            else:
                pairs = zip(tensors_of(shared), tensors_of(alone), strict=True)
                assert all(torch.equal(ours, theirs) for ours, theirs in pairs), candidate
            assert difference(shared, masked_forward(supernet, candidate, inputs)) <= 1e-5, candidate


@pytest.mark.parametrize("name", CASES)
def test_the_full_candidate_leaves_the_network_as_it_is(name: str) -> None:
    supernet, inputs = made(name)
    full = supernet.space.full()
    with torch.no_grad():
        expected, shared = tensors_of(call(supernet.model, inputs)), tensors_of(call(supernet, inputs, full))
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(shared, expected, strict=True))
        extracted = supernet.extract(full)
        alone = tensors_of(call(extracted, inputs))
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(alone, expected, strict=True))
    state, weights = extracted.state_dict(), supernet.model.state_dict()
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[tensor], weights[tensor]) for tensor in weights)


@pytest.mark.parametrize("name", CASES)
def test_the_space_holds_what_the_network_has_and_each_choice_counts(name: str) -> None:
    supernet, inputs = made(name)
    space = supernet.space
    assert Counter(choice.name.partition(".")[0] for choice in space.choices) == CASES[name].choices
    largest = space.largest()
    with torch.no_grad():
        full = first(call(supernet, inputs, largest))
        assert torch.equal(full, first(call(supernet.model, inputs)))
        for choice in space.choices:
            smaller = Candidate({**largest, choice.name: choice.options[0]})
            assert difference(first(call(supernet, inputs, smaller)), full) > 1e-6, choice.name


@pytest.mark.parametrize("which", ["random", *(pytest.param(e, marks=pytest.mark.exhaustive) for e in ENDS)])
@pytest.mark.parametrize("name", CASES)
def test_costs_of_encoded_candidates_are_those_of_the_extracted_module(name: str, which: str) -> None:
    supernet, inputs = made(name)
    functions = exact_costs(supernet, inputs)
    smallest, largest, random = candidates(supernet.space, 1)
    candidate = {"smallest": smallest, "largest": largest, "random": random}[which]
    encoded = supernet.space.encode([candidate])
    counted = cost(supernet.extract(candidate), inputs)
    assert functions["macs"](encoded)[0] == pytest.approx(counted.macs, rel=1e-12)
    assert functions["parameters"](encoded)[0] == counted.parameters
    assert functions["size_mib"](encoded)[0] == pytest.approx(counted.size_mib, rel=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_gradients_land_in_the_slice_and_nowhere_else(name: str) -> None:
    supernet, inputs = made(name)
    supernet.zero_grad()
    smallest = supernet.space.smallest()
    small = supernet.extract(smallest)
    first(call(supernet, inputs, smallest)).square().sum().backward()
    first(call(small, inputs)).square().sum().backward()
    ours = sum(float(p.grad.abs().sum()) for p in supernet.parameters() if p.grad is not None)
    theirs = sum(float(p.grad.abs().sum()) for p in small.parameters() if p.grad is not None)
    assert 0 < ours == pytest.approx(theirs, rel=1e-4)
    supernet.zero_grad()


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if set(case.choices) != {"depth"}])
def test_reordering_units_keeps_the_full_network_and_moves_the_prefix(name: str) -> None:
    original, inputs = made(name)
    supernet = Supernet(copy.deepcopy(original.model), original.space)
    smallest = supernet.space.smallest()
    generator = torch.Generator().manual_seed(0)
    orders = {
        choice.name: torch.randperm(choice.options[-1], generator=generator)
        for choice in supernet.space.choices
        if any(isinstance(cut, AxisCut) for cut in choice.cuts)
    }
    with torch.no_grad():
        full, small = call(supernet.model, inputs), call(supernet, inputs, smallest)
        supernet.reorder(orders)
        assert difference(call(supernet.model, inputs), full) <= 1e-5
        assert difference(call(supernet, inputs, smallest), small) > 1e-3


@pytest.mark.parametrize("name", ("bert", "vit", "hf-resnet", "cifar-resnet", "post-norm", "beit3", "beit3-vqa"))
def test_a_saved_super_network_comes_back_the_same(name: str, tmp_path: Path) -> None:
    supernet, inputs = made(name)
    supernet.save(tmp_path)
    loaded = Supernet.load(tmp_path, CASES[name].build() if CASES[name].own else None)
    assert loaded.space == supernet.space
    with torch.no_grad():
        smallest = supernet.space.smallest()
        assert torch.equal(first(call(loaded, inputs, smallest)), first(call(supernet, inputs, smallest)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.LSTM(8, 12, num_layers=2, batch_first=True), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cells(x)[0])


def test_what_cannot_be_narrowed_is_refused_with_the_operator() -> None:
    with pytest.raises(NotElastic, match=r"in Recurrent \(1 LSTM, 1 Linear\).*operators without a rule: aten\.lstm"):
        space(Recurrent(), (torch.randn(2, 5, 8),))
