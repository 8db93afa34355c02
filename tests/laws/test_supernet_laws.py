"""Laws of every family: shared == extracted, shared == the full network with the removed units zeroed or bypassed."""

from functools import cache

import numpy as np
import pytest
import torch

from hardware import cost
from search_spaces import Candidate, Space, Supernet, exact_costs, space, spread
from search_spaces.oracle import difference, masked_forward
from search_spaces.inputs import Inputs, default_inputs
from tests.families import NAMES, build

CANDIDATES = 20
CASES = [(name, attention) for name in NAMES for attention in ("sdpa", "eager")]


@cache
def made(name: str, attention: str) -> tuple[Supernet, Inputs]:
    model = build(name, attention)
    ranges = {"depth": (1, 2, 0.75, 1.0), "heads": (1, 2, 0.75), "ffn": (0.25, 7, 0.5)}
    return Supernet(model, space(model, drop_order=spread, **ranges)), default_inputs(model)


def candidates(space: Space, count: int = CANDIDATES) -> list[Candidate]:
    rng = np.random.default_rng(0)
    return [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(count))]


@pytest.mark.parametrize(("name", "attention"), CASES)
def test_shared_forward_is_bit_equal_to_the_extracted_module(name: str, attention: str) -> None:
    supernet, inputs = made(name, attention)
    with torch.no_grad():
        for candidate in candidates(supernet.space):
            shared, alone = supernet(candidate, **inputs).logits, supernet.extract(candidate)(**inputs).logits
            assert torch.equal(shared, alone), candidate


@pytest.mark.parametrize(("name", "attention"), CASES)
def test_shared_forward_equals_the_masked_full_network(name: str, attention: str) -> None:
    supernet, inputs = made(name, attention)
    with torch.no_grad():
        for candidate in candidates(supernet.space):
            masked = masked_forward(supernet, candidate, inputs)
            assert difference(supernet(candidate, **inputs), masked) <= 1e-5, candidate


@pytest.mark.parametrize("name", NAMES)
def test_the_space_holds_depth_and_heads_and_width_of_every_block(name: str) -> None:
    supernet, _ = made(name, "sdpa")
    blocks = supernet.model.config.num_hidden_layers
    names = {choice.name for choice in supernet.space.choices}
    assert names == {"depth", *(f"{kind}.{block}" for kind in ("heads", "ffn") for block in range(blocks))}


@pytest.mark.parametrize("name", NAMES)
def test_the_largest_candidate_is_the_model_itself(name: str) -> None:
    supernet, inputs = made(name, "sdpa")
    with torch.no_grad():
        assert torch.equal(supernet(supernet.space.largest(), **inputs).logits, supernet.model(**inputs).logits)


@pytest.mark.parametrize("name", NAMES)
def test_costs_of_encoded_candidates_are_those_of_the_extracted_module(name: str) -> None:
    supernet, inputs = made(name, "sdpa")
    functions = exact_costs(supernet, inputs)
    for candidate in candidates(supernet.space, 4):
        encoded = supernet.space.encode([candidate])
        counted = cost(supernet.extract(candidate), inputs)
        assert functions["macs"](encoded)[0] == pytest.approx(counted.macs, rel=1e-12)
        assert functions["parameters"](encoded)[0] == counted.parameters
        assert functions["size_mib"](encoded)[0] == pytest.approx(counted.size_mib, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_land_in_the_slice_and_nowhere_else(name: str) -> None:
    supernet, inputs = made(name, "sdpa")
    supernet.zero_grad()
    smallest = supernet.space.smallest()
    small = supernet.extract(smallest)
    supernet(smallest, **inputs).logits.sum().backward()
    small(**inputs).logits.sum().backward()
    ours = sum(float(p.grad.abs().sum()) for p in supernet.parameters() if p.grad is not None)
    theirs = sum(float(p.grad.abs().sum()) for p in small.parameters() if p.grad is not None)
    assert ours == pytest.approx(theirs, rel=1e-4)
    supernet.zero_grad()


@pytest.mark.parametrize("name", NAMES)
def test_reordering_units_keeps_the_full_network_and_moves_the_prefix(name: str) -> None:
    model = build(name)
    supernet, inputs = Supernet(model, space(model)), default_inputs(model)
    smallest = supernet.space.smallest()
    with torch.no_grad():
        full, small = supernet.model(**inputs).logits, supernet(smallest, **inputs).logits
        rng = torch.Generator().manual_seed(0)
        orders = {
            choice.name: torch.randperm(choice.options[-1], generator=rng)
            for choice in supernet.space.choices
            if choice.name != "depth"
        }
        supernet.reorder(orders)
        assert difference(supernet.model(**inputs).logits, full) <= 1e-5
        assert difference(supernet(smallest, **inputs).logits, small) > 1e-3


@pytest.mark.parametrize("name", ("minilm", "vit"))
def test_a_saved_super_network_comes_back_the_same(name: str, tmp_path) -> None:
    supernet, inputs = made(name, "sdpa")
    supernet.save(tmp_path)
    loaded = Supernet.load(tmp_path)
    assert loaded.space == supernet.space
    with torch.no_grad():
        smallest = supernet.space.smallest()
        assert torch.equal(loaded(smallest, **inputs).logits, supernet(smallest, **inputs).logits)
