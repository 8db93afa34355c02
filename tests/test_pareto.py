"""Ranks against brute force, hypervolume against inclusion-exclusion, NaN and limits last."""

from itertools import combinations

import numpy as np
import pytest

from nas.searching import pareto
from search_spaces.arrays import FloatArray


def _values(seed: int, n: int, m: int) -> FloatArray:
    return np.random.default_rng(seed).integers(0, 6, size=(n, m)).astype(float)  # ties on purpose


def _ranks_by_peeling(values: FloatArray) -> list[int]:
    left, result, rank = set(range(len(values))), [0] * len(values), 0
    while left:
        front = {
            j for j in left if not any((values[i] <= values[j]).all() and (values[i] < values[j]).any() for i in left)
        }
        for j in front:
            result[j] = rank
        left, rank = left - front, rank + 1
    return result


def _volume_by_inclusion_exclusion(values: FloatArray, reference: FloatArray) -> float:
    total = 0.0
    for size in range(1, len(values) + 1):
        for subset in combinations(values, size):
            sides = np.maximum(reference - np.max(subset, axis=0), 0)
            total += (-1) ** (size + 1) * float(sides.prod())
    return total


@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_ranks_equal_peeling_fronts_off(seed: int, m: int) -> None:
    values = _values(seed, 40, m)
    assert pareto.ranks(values).tolist() == _ranks_by_peeling(values)
    assert (pareto.front(values) == (pareto.ranks(values) == 0)).all()


def test_rows_with_nan_rank_last_and_are_not_in_the_front() -> None:
    values = np.array([[1.0, np.nan], [2.0, 2.0], [3.0, 3.0], [np.inf, 0.0]])
    assert pareto.ranks(values).tolist() == [2, 0, 1, 2]
    assert pareto.front(values).tolist() == [False, True, False, False]
    assert pareto.best_first(values).tolist()[:2] == [1, 2]


def test_limits_come_before_dominance() -> None:
    values = np.array([[0.0, 0.0], [5.0, 5.0], [6.0, 4.0], [1.0, 1.0], [np.nan, 0.0]])
    broken = np.array([2.0, 0.0, 0.0, 1.0, np.inf])
    assert pareto.ranks(values, broken).tolist() == [2, 0, 0, 1, 3]
    assert pareto.front(values, broken).tolist() == [False, True, True, False, False]


def test_nothing_feasible_and_nothing_at_all() -> None:
    assert pareto.ranks(np.ones((2, 2)), np.array([2.0, 1.0])).tolist() == [1, 0]
    assert pareto.ranks(np.zeros((0, 2))).tolist() == []
    assert pareto.hypervolume(np.zeros((0, 2)), [1, 1]) == 0.0


def test_crowding_of_a_line() -> None:
    values = np.array([[0.0, 4.0], [1.0, 3.0], [3.0, 1.0], [4.0, 0.0], [9.0, 9.0]])
    distance = pareto.crowding(values, pareto.ranks(values))
    assert np.isinf(distance[[0, 3, 4]]).all()
    assert distance[1] == pytest.approx(3 / 4 + 3 / 4) and distance[2] == pytest.approx(3 / 4 + 3 / 4)


def test_crowding_of_equal_values_is_finite_or_infinite_but_never_nan() -> None:
    assert not np.isnan(pareto.crowding(np.ones((5, 2)), np.zeros(5, dtype=np.int64))).any()


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_hypervolume_equals_inclusion_exclusion(seed: int, m: int) -> None:
    values, reference = _values(seed, 8, m), np.full(m, 5.0)
    assert pareto.hypervolume(values, reference) == pytest.approx(_volume_by_inclusion_exclusion(values, reference))


def test_hypervolume_ignores_nan_and_says_what_a_reference_must_be() -> None:
    values = np.array([[0.0, 0.0], [np.nan, 0.0]])
    assert pareto.hypervolume(values, [2, 3]) == 6.0
    with pytest.raises(ValueError, match="2 finite numbers"):
        pareto.hypervolume(values, [1.0])
