"""Laws of every way to draw sub-networks: what is drawn follows from seed, step and what was observed."""

import json

import numpy as np
import pytest

from nas.errors import UserError
from nas.learning.instatune import InstaTuneConfig, instatune
from nas.learning.sampling import Pareto, ParetoSettings, Sampling, Sandwich, Uniform
from search_spaces import Candidate, Choice, Space
from tests import toy_task

BLOCKS = 6
WIDE = Space(tuple(Choice(f"ffn.{block}", (1, 2, 3, 4)) for block in range(BLOCKS)))


def macs(encoded: np.ndarray) -> np.ndarray:
    """Every unit of every block costs the same."""
    return (encoded + 1.0).sum(axis=1)


def excess(encoded: np.ndarray) -> np.ndarray:
    """The first two blocks matter, the others hardly do: good networks spend their units on the first two."""
    missing = 3 - encoded
    return missing[:, :2].sum(axis=1) + 0.01 * missing[:, 2:].sum(axis=1)


SPACE = Space(
    (
        Choice("depth", (1, 2, 3)),
        Choice("ffn.0", (8, 16, 24, 32)),
        Choice("ffn.2", (8, 16, 24, 32), active_if=("depth", (3,))),
    )
)


def every(seed: int = 0, samples: int = 2) -> list[Sampling]:
    return [Uniform(SPACE, samples, seed), Sandwich(SPACE, samples, seed)]


@pytest.mark.parametrize("index", range(len(every())))
def test_a_draw_follows_from_seed_and_step_alone(index: int) -> None:
    first, again, other = every()[index], every()[index], every(seed=1)[index]
    forward = [first.draw(step) for step in range(1, 20)]
    assert forward == [again.draw(step) for step in range(19, 0, -1)][::-1]
    assert forward != [other.draw(step) for step in range(1, 20)]
    assert all(SPACE.candidate(candidate) == candidate for drawn in forward for candidate in drawn)


def test_uniform_draws_every_option_equally_often() -> None:
    drawn = [candidate for step in range(1, 601) for candidate in Uniform(SPACE, 2).draw(step)]
    assert len(drawn) == 1200
    for option in SPACE["ffn.0"].options:
        assert 250 < sum(candidate["ffn.0"] == option for candidate in drawn) < 350


def test_sandwich_draws_the_smallest_and_the_same_random_ones() -> None:
    sandwich, uniform = Sandwich(SPACE, 2), Uniform(SPACE, 2)
    for step in range(1, 10):
        assert sandwich.draw(step) == [SPACE.smallest(), *uniform.draw(step)]
    assert Sandwich(SPACE, 0).draw(1) == [SPACE.smallest()]


def test_a_step_trains_the_full_network_first_and_all_that_was_drawn_in_one_call() -> None:
    supernet, calls = toy_task.supernet(), []
    forward = supernet.forward

    def spy(candidates: list[Candidate], **batch):
        calls.append(list(candidates))
        return forward(candidates, **batch)

    supernet.forward = spy
    instatune(supernet, toy_task.split(8), InstaTuneConfig(steps=3, batch_size=8, samples=2, sampling="sandwich"))
    space = supernet.space
    assert calls == [[space.largest(), *Sandwich(space, 2).draw(step)] for step in (1, 2, 3)]


def trained(steps: int, sampling: Pareto, start: int = 1) -> list[Candidate]:
    """What is drawn over some steps of a training whose losses are `excess` with some noise."""
    drawn = []
    for step in range(start, start + steps):
        candidates = sampling.draw(step)
        noise = np.random.default_rng(step).normal(scale=0.3, size=len(candidates))
        sampling.observe(step, candidates, list(excess(sampling.space.encode(candidates)) + noise))
        drawn += candidates
    return drawn


def test_pareto_prefers_candidates_that_are_good_for_their_cost() -> None:
    """Regret: how much better the best network of the same cost is."""
    every_one = WIDE.encode(WIDE.decode(np.indices((4,) * BLOCKS).reshape(BLOCKS, -1).T))
    costs, losses = macs(every_one), excess(every_one)
    best = {cost: losses[costs == cost].min() for cost in np.unique(costs)}

    def regrets(candidates: list[Candidate]) -> np.ndarray:
        encoded = WIDE.encode(candidates)
        return excess(encoded) - np.array([best[cost] for cost in macs(encoded)])

    pareto = Pareto(WIDE, macs, 4)
    early, late = trained(16, pareto), trained(100, pareto, 17)
    uniform = Uniform(WIDE, 400).draw(1)
    assert regrets(early).mean() == pytest.approx(regrets(uniform).mean(), abs=0.5)
    assert regrets(late).mean() < 0.65 * regrets(uniform).mean()
    # All costs still get their share, and every option is still drawn.
    assert (np.bincount(macs(WIDE.encode(late)).astype(int) // 6)[1:4] > 40).all()
    assert (WIDE.encode(late).max(axis=0) == 3).all() and (WIDE.encode(late).min(axis=0) == 0).all()


def test_pareto_with_nothing_but_uniform_draws_ignores_the_losses() -> None:
    settings = ParetoSettings(uniform_share=1.0, least=2, refit_every=1)
    told, other = Pareto(WIDE, macs, 2, settings=settings), Pareto(WIDE, macs, 2, settings=settings)
    for step in range(1, 30):
        candidates = told.draw(step)
        assert candidates == other.draw(step)
        told.observe(step, candidates, [1.0, 2.0])
        other.observe(step, candidates, [2.0, 1.0])


def test_pareto_goes_on_where_it_was_and_asks_nothing_twice() -> None:
    whole, stopped = Pareto(WIDE, macs, 3), Pareto(WIDE, macs, 3)
    expected = trained(150, whole)
    drawn = trained(77, stopped)
    resumed = Pareto(WIDE, macs, 3)
    resumed.restore(json.loads(json.dumps(stopped.state())))
    assert drawn + trained(73, resumed, 78) == expected
    assert resumed.state() == whole.state()
    assert len(whole.state()["losses"]) <= ParetoSettings().window + 3 * ParetoSettings().refit_every


def test_a_step_that_asks_twice_gets_the_same() -> None:
    pareto = Pareto(WIDE, macs, 2, settings=ParetoSettings(least=2, refit_every=1))
    for step in range(1, 20):
        first = pareto.draw(step)
        pareto.observe(step, first, list(excess(WIDE.encode(first))))
        assert pareto.draw(step) == first


def test_losses_that_are_no_numbers_are_left_out() -> None:
    pareto = Pareto(WIDE, macs, 2)
    pareto.observe(1, [WIDE.smallest(), WIDE.largest()], [float("nan"), 0.5])
    assert pareto.state()["losses"] == [0.5]


@pytest.mark.parametrize("wrong", [{"uniform_share": 1.5}, {"proposals": 0}, {"least": 1}, {"window": 3}])
def test_refuses_settings_that_cannot_work(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(wrong))} must be"):
        ParetoSettings(**wrong)
