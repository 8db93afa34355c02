"""Volume by directions against exact hypervolume, the greedy choice against brute force, survival by directions."""

import numpy as np
import pytest

from nas.searching import pareto
from nas.searching.acquisition import Frame, direction_survival, directions, most_expected, reach
from nas.searching.evolution import Population


def _frame(objectives: int) -> Frame:
    return Frame(np.ones(objectives), np.ones(objectives), np.full(objectives, np.inf))


@pytest.mark.parametrize("objectives", [1, 2, 3, 4, 5])
def test_directions_are_unit_vectors_of_the_positive_orthant(objectives: int) -> None:
    rays = directions(objectives, 64)
    assert rays.shape == (1 if objectives == 1 else 64, objectives) and (rays > 0).all()
    assert np.linalg.norm(rays, axis=1) == pytest.approx(np.ones(len(rays)))
    assert (rays == directions(objectives, 64)).all()


@pytest.mark.parametrize("objectives", [1, 2, 3, 4, 5])
def test_mean_reach_is_proportional_to_the_hypervolume(objectives: int) -> None:
    rng = np.random.default_rng(objectives)
    rays = directions(objectives, 4096)
    ratios = []
    for _ in range(5):
        values = rng.random((12, objectives)) * 0.8
        length = np.maximum(reach(values, np.ones(objectives), rays).max(axis=0), 0)
        ratios.append((length**objectives).mean() / pareto.hypervolume(values, np.ones(objectives)))
    assert ratios == pytest.approx([np.mean(ratios)] * 5, rel=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_without_spread_the_choice_is_the_greedy_one_by_hypervolume(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mean, front = rng.random((20, 2)) * 0.7 + 0.1, rng.random((4, 2)) * 0.4 + 0.4
    picked = most_expected(mean, 0 * mean, front, _frame(2), 5, np.zeros((1, 20, 2)))
    have = front
    for row in picked:
        volumes = np.array([pareto.hypervolume(np.vstack([have, each]), [1, 1]) for each in mean])
        # A coarse fan of directions may confuse what is nearly equal.
        assert volumes[row] > volumes.max() - 0.01
        have = np.vstack([have, mean[row]])


def test_what_adds_nothing_is_not_picked_and_an_uncertain_candidate_may_add() -> None:
    front, draws = np.array([[0.5, 0.5]]), np.array([[[1.0, 1.0]], [[-1.0, -1.0]]])
    behind = np.array([[0.6, 0.6]])
    assert most_expected(behind, 0 * behind, front, _frame(2), 1, draws).tolist() == []
    assert most_expected(behind, 0 * behind + 0.2, front, _frame(2), 1, draws).tolist() == [0]


def test_a_frame_holds_the_front_with_a_margin_and_the_limits() -> None:
    front = np.array([[0.0, 10.0], [4.0, 2.0]])
    frame = Frame.around(front, front, np.array([np.inf, 9.0]), 0.5)
    assert frame.reference.tolist() == [6.0, 12.5] and frame.scale.tolist() == [4.0, 7.0]
    on, beyond, further = frame.reach(np.array([[1.0, 9.0], [1.0, 9.1], [1.0, 11.0]]), directions(2, 8)).max(axis=1)
    assert on > 0 > beyond > further
    alone = Frame.around(front[:1], front, np.full(2, np.inf), 0.5)
    assert alone.reference.tolist() == [2.0, 14.0]
    assert frame.nearest(np.array([[3.0, 3.0], [5.0, 9.0], [0.0, 0.0]]), front, 2).tolist() == [2, 0]


def test_a_frame_reaches_up_to_a_limit_beyond_the_front() -> None:
    front = np.array([[-0.9, 4.0], [-0.8, 2.0]])
    seen = np.vstack([front, [[-0.7, 30.0]]])
    slower_and_better = np.array([[-0.92, 7.0]])
    for bounds, counts in ((np.full(2, np.inf), False), (np.array([np.inf, 8.0]), True)):
        frame, nothing = Frame.around(front, seen, bounds, 0.3), np.zeros((1, 1, 2))
        picked = most_expected(slower_and_better, 0 * slower_and_better, front, frame, 1, nothing)
        assert (len(picked) > 0) == counts
    # A limit beyond all that was measured says nothing: the box ends there.
    far = Frame.around(front, seen, np.array([np.inf, 1e6]), 0.5)
    assert far.reference.tolist() == pytest.approx([-0.75, 44.0])


@pytest.mark.parametrize("objectives", [3, 4, 5])
def test_survival_keeps_the_best_along_every_direction(objectives: int) -> None:
    values = np.random.default_rng(0).random((200, objectives))
    population = Population.of(np.arange(200)[:, None], values, np.zeros(200))
    kept = values[direction_survival(population, 60)]
    ranked = values[np.argsort(pareto.ranks(values), kind="stable")[:60]]
    reference = np.full(objectives, 1.1)
    assert len(kept) == 60 and pareto.hypervolume(kept, reference) >= 0.97 * pareto.hypervolume(ranked, reference)
    ends = values.argmin(axis=0)
    assert set(ends) <= set(direction_survival(population, objectives).tolist())


def test_survival_puts_the_feasible_first_then_the_nearest_to_the_limits() -> None:
    values = np.array([[0.0, 0, 0], [0.1, 0.1, 0.1], [1, 1, 1], [np.nan, 0, 0]])
    population = Population.of(np.arange(4)[:, None], values, np.array([2.0, 1.0, 0.0, np.inf]))
    assert direction_survival(population, 4).tolist() == [2, 1, 0, 3]
    none = Population.of(np.arange(4)[:, None], values, np.array([2.0, 1.0, 3.0, np.inf]))
    assert direction_survival(none, 2).tolist() == [1, 0]
