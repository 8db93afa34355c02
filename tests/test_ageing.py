"""Ageing evolution: the window, the tournaments and the whole search against a plain one, and that it finds more."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_trees import Tree, Trees, canonical, fitted, size

from nas.errors import UserError
from nas.searching.ageing import AgeingConfig, Mutants, Tournament, ageing_evolution, youngest
from nas.searching.domain import objects
from nas.searching.evolution import Crossing, Population, VectorGenome, tournament_of_two
from nas.searching.measurement import Measurement, Objective
from nas.searching.random_search import random_search
from nas.searching.storage import read_identity
from nas.searching.study import Study
from nas.seeds import generator
from nas.workers import Workers
from search_spaces.space import Choice, Space

TREES = Trees(4)
OBJECTIVES = (Objective("error"), Objective("size", limit=12.0))


def troubled(trees: Sequence[Tree]) -> np.ndarray:
    """As `fitted`; sums of nothing but ones fail."""
    values = fitted(trees)
    values[["x" not in str(tree) for tree in trees]] = np.nan
    return values


def population(count: int, seed: int) -> Population:
    """Individuals with few different values, some of which failed and some of which break limits."""
    rng = np.random.default_rng(seed)
    values = rng.integers(4, size=(count, 2)).astype(float)
    values[rng.random(count) < 0.2] = np.nan
    broken = np.where(rng.random(count) < 0.3, rng.integers(1, 3, size=count), 0).astype(float)
    return Population(objects(range(count)), values, broken, rng.permutation(count).astype(np.int64))


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def front(values: Sequence[Sequence[float]], broken: Sequence[float]) -> list[int]:
    """Places of the best by Deb's rule: not dominated and feasible, else those that break the limits least."""
    good = [i for i, row in enumerate(values) if all(np.isfinite(row))]
    feasible = [i for i in good if broken[i] <= 0]
    if feasible:
        return [i for i in feasible if not any(dominates(values[j], values[i]) for j in feasible)]
    least = min((broken[i] for i in good), default=0.0)
    return [i for i in good if broken[i] == least] or list(range(len(values)))


def best_average(values: Sequence[Sequence[float]], broken: Sequence[float]) -> int:
    def place(i: int) -> tuple[bool, float, float]:
        return not all(np.isfinite(values[i])), broken[i], sum(values[i]) / len(values[i])

    return min(range(len(values)), key=place)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("count", "share", "size"), [(40, 0.2, 8), (40, 0.01, 2), (7, 1.0, 7), (1, 0.5, 1)])
def test_tournaments_have_the_winners_of_plain_ones(seed: int, count: int, share: float, size: int) -> None:
    found = population(count, seed)
    fronts = Tournament(share, "pareto")(found, 5, np.random.default_rng(seed))
    averages = Tournament(share, "average")(found, 5, np.random.default_rng(seed))
    rng, other = np.random.default_rng(seed), np.random.default_rng(seed)
    for won, average in zip(fronts, averages, strict=True):
        members = rng.choice(count, size=size, replace=False)
        best = front(found.values[members].tolist(), found.violations[members].tolist())
        assert won == members[best[rng.integers(len(best))]]
        members = other.choice(count, size=size, replace=False)
        if np.isfinite(found.values[members]).all(axis=1).any():
            assert average == members[best_average(found.values[members].tolist(), found.violations[members].tolist())]


def test_every_member_of_a_front_may_win() -> None:
    values = np.array([[0.0, 3.0], [1.0, 1.0], [3.0, 0.0], [3.0, 3.0]])
    found = Population.of(objects("abcd"), values, np.zeros(4))
    rng = np.random.default_rng(0)
    assert set(Tournament(1.0, "pareto")(found, 100, rng).tolist()) == {0, 1, 2}
    assert set(Tournament(1.0, "average")(found, 100, rng).tolist()) == {1}


@pytest.mark.parametrize("seed", range(10))
def test_the_window_is_what_was_measured_last(seed: int) -> None:
    found = population(30, seed)
    good = [i for i in range(30) if np.isfinite(found.values[i]).all()]
    oldest_first = sorted(good, key=lambda i: int(found.born[i]))
    assert youngest(found, 12).tolist() == oldest_first[-12:]
    assert youngest(found, 100).tolist() == oldest_first
    failed = Population.of(objects("ab"), np.full((2, 1), np.nan), np.zeros(2))
    assert youngest(failed, 5).tolist() == []


def test_random_ones_stand_in_for_a_share_of_the_mutants() -> None:
    class Marked(Trees):
        def mutate(self, genes: Any, rng: np.random.Generator) -> Any:
            return objects(("mutant", gene) for gene in genes)

    found = Population.of(objects("abc"), np.zeros((3, 1)), np.zeros(3))
    rng = np.random.default_rng(0)
    for share in (0.0, 0.3, 1.0):
        children = Mutants(Marked(2), tournament_of_two, share)(found, 2000, rng)
        assert len(children) == 2000
        assert np.mean([child[0] != "mutant" for child in children]) == pytest.approx(share, abs=0.04)


def test_the_default_breeding_takes_the_better_of_two() -> None:
    space = Space(tuple(Choice(f"c{i}", (1, 2, 3, 4)) for i in range(6)))
    genes = space.random(50, np.random.default_rng(0))
    found = Population.of(genes, np.zeros((50, 1)), np.zeros(50))
    chosen = tournament_of_two(found, 20_000, np.random.default_rng(1))
    # The chance of place i is ((n - i)^2 - (n - i - 1)^2) / n^2.
    expected = (2 * (50 - np.arange(50)) - 1) / 50**2
    assert np.bincount(chosen, minlength=50) / 20_000 == pytest.approx(expected, abs=0.006)
    worst = Crossing(VectorGenome(space, 0.0), 1.0, lambda p, n, rng: np.full(n, len(p) - 1))
    children = worst(found, 10, np.random.default_rng(2))
    assert ((children != genes[-1]).sum(axis=1) <= 1).all()


def plain(budget: int, config: AgeingConfig, seed_of: Callable[[], np.random.Generator], lag: int) -> list[Tree]:
    """The same search with lists: proposal i goes by the results of proposals 0 .. i - lag."""
    rng, proposed = seed_of(), list[Tree]()
    waiting = list(dict.fromkeys(TREES.sample(config.population, rng)))
    seen = set(waiting)
    while len(proposed) < budget:
        if waiting:
            proposed.append(waiting.pop(0))
            continue
        measured = proposed[: max(0, len(proposed) - lag + 1)]
        values = troubled(measured) if measured else np.zeros((0, 2))
        window = [i for i in range(len(measured)) if np.isfinite(values[i]).all()][-config.population :]
        proposed.append(child(measured, values, window, seen, config, rng))
        seen.add(proposed[-1])
    return proposed


def child(
    trees: list[Tree],
    values: np.ndarray,
    window: list[int],
    seen: set[Tree],
    config: AgeingConfig,
    rng: np.random.Generator,
) -> Tree:
    for _ in range(20 if len(window) >= 2 else 0):
        fresh = rng.random(1)[0] < config.random_share
        (found,) = TREES.sample(1, rng)
        if not fresh:
            size = min(len(window), max(2, round(config.tournament_share * len(window))))
            members = [window[i] for i in rng.choice(len(window), size=size, replace=False)]
            rows = [values[i].tolist() for i in members]
            broken = [max(0.0, row[1] - 12.0) / 12.0 for row in rows]
            best = front(rows, broken) if config.winner == "pareto" else [best_average(rows, broken)]
            won = best[rng.integers(len(best))] if config.winner == "pareto" else best[0]
            (found,) = TREES.mutate(objects([trees[members[won]]]), rng)
        if found not in seen:
            return found
    while True:
        (found,) = TREES.sample(1, rng)
        if found not in seen:
            return found


@pytest.mark.parametrize("winner", ["pareto", "average"])
@pytest.mark.parametrize("lag", [1, 3, 40])
def test_the_search_is_a_plain_one(winner: Any, lag: int) -> None:
    config = AgeingConfig(12, 0.3, 0.4, winner)
    for seed in range(3):
        study = ageing_evolution(TREES, troubled, OBJECTIVES, budget=90, seed=seed, config=config, lag=lag)
        found = [m.candidate for m in study.measurements]
        assert found == plain(90, config, lambda seed=seed: generator(seed, "ageing_evolution"), lag)  # type: ignore[misc]


def apart(one: Tree, other: Tree) -> float:
    """How many parts two trees do not share."""
    if one[0] != other[0]:
        return max(size(one), size(other))
    return sum(apart(a, b) for a, b in zip(one[1:], other[1:], strict=True))


@pytest.mark.parametrize("winner", ["pareto", "average"])
def test_it_finds_more_than_random_search(winner: Any) -> None:
    """Two trees of fifteen nodes are looked for, which share some of them."""
    shared = ("mul", ("add", ("1",), ("x",)), ("neg", ("x",)))
    wanted = [
        canonical(("add", shared, ("mul", ("add", ("x",), ("x",)), ("mul", ("1",), ("x",))))),
        canonical(("add", shared, ("neg", ("mul", ("mul", ("1",), ("1",)), ("add", ("1",), ("1",)))))),
    ]

    def evaluate(trees: Sequence[Tree]) -> np.ndarray:
        return np.array([[apart(tree, each) for each in wanted] for tree in trees], dtype=float)

    config = AgeingConfig(population=50, tournament_share=0.2, winner=winner)
    for seed in range(4):
        arguments: dict[str, Any] = {"budget": 500, "seed": seed}
        evolved = ageing_evolution(TREES, evaluate, OBJECTIVES, config=config, **arguments)
        drawn = random_search(TREES, evaluate, OBJECTIVES, **arguments)
        assert evolved.hypervolume([20, 20]) > 1.1 * drawn.hypervolume([20, 20])


def test_a_space_is_a_domain() -> None:
    space = Space(tuple(Choice(f"heads.{i}", (2, 4, 6, 8)) for i in range(8)))

    def evaluate(candidates: Sequence[Any]) -> np.ndarray:
        rows = space.encode(candidates).astype(float)
        return np.stack([-np.sqrt(rows).sum(axis=1), rows @ np.arange(1, 9)], axis=1)

    arguments: dict[str, Any] = {"budget": 300, "seed": 0}
    objectives = (Objective("gain"), Objective("cost"))
    config = AgeingConfig(population=40, tournament_share=0.2)
    evolved = ageing_evolution(space, evaluate, objectives, config=config, **arguments)
    drawn = random_search(space, evaluate, objectives, **arguments)
    assert evolved.space == space
    assert evolved.hypervolume([0.0, 110.0]) > drawn.hypervolume([0.0, 110.0])


def test_a_new_study_has_a_lag_of_its_workers(tmp_path: Path) -> None:
    def lag(name: str, **running: Any) -> int:
        path = tmp_path / name
        ageing_evolution(TREES, fitted, OBJECTIVES, budget=1, seed=0, storage=path, **running)
        return int((read_identity(path) or {})["lag"])

    assert [lag("one"), lag("given", lag=5), lag("one", workers=1), lag("workers", workers=Workers(1))] == [1, 5, 1, 1]


def test_patience_and_known_results_hold() -> None:
    config = AgeingConfig(population=10)
    known: list[Measurement[Tree]] = random_search(TREES, fitted, OBJECTIVES, budget=5, seed=1).measurements

    def constant(trees: Sequence[Tree]) -> list[list[float]]:
        return [[1.0, 1.0]] * len(trees)

    study: Study[Tree] = ageing_evolution(
        TREES, constant, OBJECTIVES, budget=50, seed=0, config=config, patience=15, known=known
    )
    assert [m.known for m in study.measurements] == [True] * 5 + [False] * (len(study.measurements) - 5)
    assert len(study.measurements) < 55


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"population": 1}, "population must be at least 2, got 1"),
        ({"tournament_share": 0.0}, "tournament_share must be above 0 and at most 1"),
        ({"tournament_share": 1.5}, "tournament_share must be above 0 and at most 1"),
        ({"random_share": -0.1}, "random_share must be between 0 and 1"),
        ({"winner": "first"}, "winner must be pareto or average, got 'first'"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        AgeingConfig(**settings)
