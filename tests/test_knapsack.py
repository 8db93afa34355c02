"""The knapsack against all choices there are."""

from itertools import product

import numpy as np
import pytest

from nas.searching.knapsack import knapsack

Table = dict[str, dict[str, float]]
OPTIONS = ("int4-weights", "int8", "float32")


def _problem(rng: np.random.Generator, layers: int = 5, unit: float = 1.0) -> tuple[Table, Table]:
    scores = {f"layer.{i}": dict(zip(OPTIONS, sorted(rng.random(3) ** 8)[::-1], strict=True)) for i in range(layers)}
    costs = {layer: dict(zip(OPTIONS, rng.normal(size=3) * unit, strict=True)) for layer in scores}
    return scores, costs


def _sum(table: Table, chosen: dict[str, str]) -> float:
    return sum(table[layer][option] for layer, option in chosen.items())


def _ends(costs: Table) -> tuple[float, float]:
    return sum(min(row.values()) for row in costs.values()), sum(max(row.values()) for row in costs.values())


@pytest.mark.parametrize("unit", [1e-7, 1.0, 1e9])
def test_it_finds_the_best_of_all_choices(unit: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(15):
        scores, costs = _problem(rng, unit=unit)
        low, high = _ends(costs)
        for share in (0.1, 0.4, 0.9):
            budget = low + share * (high - low)
            chosen = knapsack(scores, costs, budget)
            assert list(chosen) == list(scores) and _sum(costs, chosen) <= budget
            every = [dict(zip(scores, options, strict=True)) for options in product(OPTIONS, repeat=len(scores))]
            best = min(_sum(scores, each) for each in every if _sum(costs, each) <= budget)
            assert _sum(scores, chosen) == pytest.approx(best, abs=1e-6)


def test_the_ends_of_the_budget() -> None:
    scores, costs = _problem(np.random.default_rng(1), layers=30)
    low, high = _ends(costs)
    cheapest = {layer: min(row, key=lambda option: row[option]) for layer, row in costs.items()}
    assert knapsack(scores, costs, low) == cheapest
    assert set(knapsack(scores, costs, high).values()) == {"float32"}
    with pytest.raises(ValueError, match="the budget must be at least"):
        knapsack(scores, costs, low - 0.01)


def test_of_equal_scores_the_cheaper_one_is_taken() -> None:
    scores = {"a": {"int8": 0.0, "float32": 0.0}, "b": {"int8": 1.0, "float32": 0.0}}
    costs = {"a": {"int8": 1.0, "float32": 4.0}, "b": {"int8": 1.0, "float32": 4.0}}
    assert knapsack(scores, costs, 100.0) == {"a": "int8", "b": "float32"}
    assert knapsack({}, {}, 0.0) == {}


@pytest.mark.parametrize(
    ("scores", "costs", "told"),
    [
        ({"a": {}}, {"a": {}}, "at least one option"),
        ({"a": {"int8": 1.0}}, {}, "must have a cost"),
        ({"a": {"int8": np.nan}}, {"a": {"int8": 1.0}}, "must be finite"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused(scores: Table, costs: Table, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        knapsack(scores, costs, 1.0)
