"""Candidates of a joint search as a search runs them: fake quantization with the ranges of their architecture."""

import pickle
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from hardware.policy import Policy, PrecisionChoices
from nas.data.split import Split
from nas.errors import UserError
from nas.networks.fake_quantization import calibrate, quantize
from nas.networks.networks import Networks
from nas.networks.policies import joined_space
from nas.networks.quantized import LEAST_ROWS, QuantizedNetworks
from nas.networks.recalibration import SubNetworks
from nas.searching.random_search import random_search
from nas.searching.supernet_search import search
from nas.seeds import generator
from search_spaces import Candidate, Space, Supernet
from tests import toy_images, toy_task
from tests.zoo import first

_MIXED = PrecisionChoices(("int8", "int8-weights", "int4-weights", "float32"), floating=("bfloat16", "float32"))


@cache
def _task() -> tuple[Supernet, Split, Space]:
    supernet = toy_task.supernet()
    return supernet, toy_task.split(60), joined_space(supernet, _MIXED)


def _networks(seed: int = 0) -> QuantizedNetworks:
    supernet, train, _ = _task()
    return QuantizedNetworks(SubNetworks(supernet, None), supernet, train, seed)


def _sampled(count: int, seed: int = 0) -> list[Candidate]:
    joined = _task()[2]
    return joined.decode(joined.random(count, np.random.default_rng(seed)))


def _floats(candidate: Candidate) -> Candidate:
    """The architecture of a candidate with every layer in float32."""
    joined, supernet = _task()[2], _task()[0]
    own = {choice.name: candidate[choice.name] for choice in supernet.space.choices}
    return joined.candidate({**{choice.name: "float32" for choice in joined.choices}, **own})


@torch.no_grad()
def _outputs(networks: Networks, candidate: Candidate, rows: int = 12) -> torch.Tensor:
    return first(networks.forward(candidate)(**_task()[1].batch(range(rows))))


def test_both_kinds_of_networks_have_one_interface() -> None:
    supernet, candidate = _task()[0], _sampled(1)[0]
    networks: tuple[Networks, ...] = (SubNetworks(supernet, None), _networks())
    policies = [each.policy(candidate) for each in networks]
    assert policies[0] is None and isinstance(policies[1], Policy) and not policies[1].is_float
    for each in networks:
        names = [name for name, _ in each.extract(candidate).named_parameters()]
        assert names == list(dict(supernet.extract(candidate).named_parameters()))


def test_a_candidate_computes_its_policy_with_the_ranges_of_its_architecture() -> None:
    supernet, train, _ = _task()
    rows = generator(0, "int8 calibration").permutation(len(train))[:32]
    for candidate in _sampled(6):
        module = supernet.extract(candidate).eval()
        ranges = calibrate(module, [dict(train.batch([int(row)])) for row in rows])
        policy = _networks().policy(candidate)
        assert set(policy.layers) <= set(dict(module.named_modules()))
        with torch.no_grad():
            expected = first(quantize(module, ranges, policy)(**train.batch(range(12))))
        assert torch.allclose(_outputs(_networks(), candidate), expected, atol=1e-3)


def test_a_candidate_in_float32_is_its_sub_network() -> None:
    for candidate in map(_floats, _sampled(3)):
        assert torch.equal(_outputs(_networks(), candidate), _outputs(SubNetworks(_task()[0], None), candidate))


def test_a_measurement_is_repeated_bit_by_bit_also_elsewhere_and_leaves_the_weights_alone() -> None:
    networks, before = _networks(), {name: value.clone() for name, value in _task()[0].state_dict().items()}
    candidates = _sampled(5)
    found = [_outputs(networks, each) for each in candidates]
    sent = pickle.loads(pickle.dumps(networks))
    for other in (networks, sent, _networks()):
        again = [_outputs(other, each) for each in reversed(candidates)][::-1]
        assert all(torch.equal(one, two) for one, two in zip(found, again, strict=True))
    assert all(torch.equal(before[name], value) for name, value in _task()[0].state_dict().items())
    others = [_outputs(_networks(seed=1), each) for each in candidates]
    assert not all(torch.equal(one, two) for one, two in zip(found, others, strict=True))


def test_an_architecture_is_calibrated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*args: Any) -> Any:
        calls.append(args)
        return calibrate(*args)

    monkeypatch.setattr("nas.networks.quantized.calibrate", counted)
    joined, networks = _task()[2], _networks()
    full = [
        joined.candidate({**joined.largest(), **{name: option for name in joined.largest() if "query" in name}})
        for option in ("int8", "int4-weights")
    ]
    for candidate in (*full, *full, _floats(full[0])):
        networks.forward(candidate)
    assert len(calls) == 1
    assert networks.ranges(full[0]) is networks.ranges(full[1])
    assert sum(len(batch["input_ids"]) for batch in calls[0][1]) == 32
    assert len(networks.__getstate__()["_known"]) == 0


def test_images_with_batch_norms_of_their_own() -> None:
    supernet, train, rng = toy_images.supernet(), toy_images.split(40), np.random.default_rng(0)
    joined = joined_space(supernet, PrecisionChoices())
    networks = QuantizedNetworks(SubNetworks(supernet, train), supernet, train)
    inputs = train.batch(range(9))
    with torch.no_grad():
        for candidate in joined.decode(joined.random(5, rng)):
            exact, ours = networks.extract(candidate)(**inputs), networks.forward(candidate)(**inputs)
            error = float((ours - exact).norm() / exact.norm())
            assert error == 0 if networks.policy(candidate).is_float else 0 < error < 0.2


class _Broken(SubNetworks):
    """Sub-networks whose last layer was destroyed."""

    factor = 0.0

    def extract(self, candidate: Candidate) -> torch.nn.Module:
        module = super().extract(candidate)
        module.classifier.weight.data *= self.factor
        return module


@pytest.mark.parametrize(("factor", "told"), [(0.0, "alike for 12 rows"), (torch.inf, "not finite")])
def test_a_network_that_says_nothing_fails_and_the_search_goes_on(factor: float, told: str) -> None:
    supernet, train, joined = _task()
    broken = _Broken(supernet, None)
    broken.factor = factor
    networks = QuantizedNetworks(broken, supernet, train)
    with pytest.raises(ArithmeticError, match=told):
        _outputs(networks, _sampled(1)[0])
    study = search(
        supernet,
        joined,
        train,
        ["accuracy"],
        budget=3,
        seed=0,
        algorithm=random_search,
        networks=networks,
        estimate=False,
    )
    states = [each for each in study.measurements if not networks.policy(each.candidate).is_float]
    assert states and all(each.state == "failed" and "quantized network" in (each.reason or "") for each in states)


def test_too_few_rows_are_refused_before_a_search() -> None:
    supernet, train, _ = _task()
    few = train.take(LEAST_ROWS - 1, np.random.default_rng(0))
    with pytest.raises(UserError, match="at least 8 training rows, got 7"):
        QuantizedNetworks(SubNetworks(supernet, None), supernet, few)
