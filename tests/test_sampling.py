"""Laws of every way to draw sub-networks: what is drawn follows from seed, step and what was observed."""

import pytest

from nas.instatune import InstaTuneConfig, instatune
from nas.sampling import Sampling, Sandwich, Uniform
from search_spaces import Candidate, Choice, Space
from tests import toy_task

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
