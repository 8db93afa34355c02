"""What an evaluation is told of the search: the results that its proposal saw, however they were measured."""

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_trees import Tree, Trees, size

from nas.errors import UserError
from nas.searching.ageing import AgeingConfig, ageing_evolution
from nas.searching.linas import linas
from nas.searching.measurement import Evaluated, Measurement, Objective, Staged, WithContext
from nas.searching.nsga2 import Nsga2Config, nsga2
from nas.searching.random_search import random_search
from nas.searching.study import Study
from nas.workers import Lost, Workers, mapped
from search_spaces.space import Candidate, Choice, Space

TREES = Trees(3)
OBJECTIVES = (Objective("size"), Objective("leaves"))
SPACE = Space(tuple(Choice(f"heads.{i}", (2, 4, 6, 8)) for i in range(8)))


def seen(results: Sequence[Measurement[Any]]) -> dict[str, Any]:
    """Of the results so far: how many there are, how many failed, the best, and what their evaluations were told."""
    values = [m.values["size"] for m in results if m.state == "measured"]
    told = [m.extras["told"]["count"] for m in results if "told" in m.extras]
    failed = sum(m.state == "failed" for m in results)
    return {"count": len(results), "failed": failed, "best": min(values, default=None), "told": sum(told)}


def measured(trees: Sequence[Tree], told: dict[str, Any]) -> Evaluated:
    """Trees far larger than the best so far fail; what was told is kept."""
    values = [[float(size(tree)), float(str(tree).count("'x'"))] for tree in trees]
    best = math.inf if told["best"] is None else told["best"]
    kept = [row if row[0] < best + 4 else [math.nan, math.nan] for row in values]
    return Evaluated(kept, [{"told": told}] * len(trees))


class Interrupted:
    """An evaluation that is interrupted after `calls` calls."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, trees: Sequence[Tree], told: dict[str, Any]) -> Evaluated:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return measured(trees, told)


def searched(evaluate: Any = measured, **changed: Any) -> Study[Tree]:
    settings: dict[str, Any] = {"budget": 40, "seed": 1, "config": AgeingConfig(10, 0.4), **changed}
    return ageing_evolution(TREES, WithContext(evaluate, seen), OBJECTIVES, **settings)


def told(found: Study[Any] | Sequence[Measurement[Any]]) -> list[tuple[Any, str, Any]]:
    measurements = found.measurements if isinstance(found, Study) else found
    return [(m.candidate, m.state, json.loads(json.dumps(dict(m.extras)))) for m in measurements]


@pytest.mark.parametrize("lag", [1, 2, 7])
def test_an_evaluation_is_told_what_its_proposal_saw(lag: int) -> None:
    study = searched(lag=lag)
    for number, measurement in enumerate(study.measurements):
        visible = study.measurements[: max(0, number - lag + 1)]
        assert measurement.extras["told"] == seen(visible) and seen(visible)["count"] == len(visible)
    assert any(m.state == "failed" for m in study.measurements)


def test_known_results_are_told_first() -> None:
    known = random_search(TREES, lambda trees: [[9.0, 9.0]] * len(trees), OBJECTIVES, budget=3, seed=9).measurements
    counts = [m.extras["told"]["count"] for m in searched(known=known).measurements[3:]]
    assert counts == list(range(3, 43))


@pytest.mark.parametrize("lag", [1, 4])
def test_after_a_kill_the_same_is_told(lag: int, tmp_path: Path) -> None:
    whole = told(searched(lag=lag))
    for killed_after in (0, 1, 5, 12, 39):
        path = tmp_path / f"{killed_after}.journal"
        with pytest.raises(KeyboardInterrupt):
            searched(Interrupted(killed_after), storage=path, lag=lag)
        assert told(searched(storage=path)) == whole


@pytest.mark.parametrize("lag", [1, 6])
def test_of_a_batch_all_are_told_what_its_first_saw(lag: int, tmp_path: Path) -> None:
    """However it is cut into chunks, and wherever a kill cuts it."""

    def batches(path: Path | None = None, calls: int = -1, chunk_size: int = 1) -> list[Any]:
        found = nsga2(
            SPACE,
            WithContext(Counted(calls), len),
            OBJECTIVES,
            budget=30,
            seed=0,
            config=Nsga2Config(population=8),
            lag=lag,
            storage=path,
            chunk_size=chunk_size,
        )
        return told(found)

    whole = batches()
    shown = [extras["told"] for _, _, extras in whole]
    assert shown[:8] == [0] * 8 and shown == sorted(shown) and len(set(shown)) == 4
    assert all(count <= max(0, number - lag + 1) for number, count in enumerate(shown))
    assert batches(chunk_size=3) == batches(chunk_size=100) == whole
    for killed_after in (3, 11):
        path = tmp_path / f"{killed_after}.journal"
        with pytest.raises(KeyboardInterrupt):
            batches(path, killed_after)
        assert batches(path, chunk_size=5) == whole


class Counted:
    """An evaluation of a space that keeps how many results it was told of."""

    def __init__(self, calls: int = -1) -> None:
        self.left = calls

    def __call__(self, candidates: Sequence[Candidate], count: int) -> Evaluated:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        rows = SPACE.encode(candidates)
        values = np.stack([rows.sum(axis=1), -np.sqrt(rows).sum(axis=1)], axis=1)
        return Evaluated(values, [{"told": count}] * len(candidates))


def test_any_search_and_any_stage_can_be_told() -> None:
    objectives = (Objective("size"), Objective("gain"), Objective("ms"))

    def anywhere(candidates: Sequence[Candidate], count: int) -> Evaluated:
        return Counted()(candidates, count)

    staged = Staged(WithContext(anywhere, len), {"ms": lambda _: 2.0}, objectives)
    for search in (linas, nsga2, random_search):
        study = search(SPACE, staged, objectives, budget=14, seed=0)
        counts = [m.extras["told"] for m in study.measurements]
        assert counts == sorted(counts) and all(m.values["ms"] == 2.0 for m in study.measurements)


def test_candidates_of_a_chunk_that_raises_are_told_the_same_one_by_one() -> None:
    def troubled(candidates: Sequence[Candidate], count: int) -> Evaluated:
        if any(candidate["heads.0"] == 2 for candidate in candidates):
            raise RuntimeError("out of memory")
        return Counted()(candidates, count)

    study = random_search(SPACE, WithContext(troubled, len), OBJECTIVES, budget=120, seed=1, chunk_size=10)
    failed = {m.candidate["heads.0"] for m in study.measurements if m.state == "failed"}
    assert failed == {2}
    assert {m.extras["told"] for m in study.measurements if m.state == "measured"} == {0, 100}


def test_candidates_of_a_chunk_that_is_lost_are_told_the_same_one_by_one() -> None:
    staged = Staged(WithContext(Counted(), len), {}, OBJECTIVES)
    candidates = SPACE.decode(SPACE.random(3, np.random.default_rng(0)))
    task, (chunk,) = staged.function, staged.chunks(candidates, 3, lambda: [None] * 7)  # type: ignore[list-item]
    parts = task.parts(chunk)
    assert [part.candidates for part in parts] == [[candidate] for candidate in candidates]
    assert told(task.joined([task(part) for part in parts])) == told(task(chunk))
    assert [m.extras["told"] for m in task(chunk)] == [7] * 3
    lost = task.lost(parts[1], Lost("took longer than 5 s", 5.0, too_long=True))
    assert [(m.candidate, m.state, m.seconds) for m in lost] == [(candidates[1], "failed", 5.0)]


def test_what_tells_stays_here_and_is_asked_once_a_batch() -> None:
    asked: list[int] = []

    def count(results: Sequence[Measurement[Any]]) -> int:
        asked.append(len(results))
        return len(results)

    evaluation = WithContext(Counted(), count)
    sent = Staged(evaluation, {}, OBJECTIVES).function.function
    assert isinstance(sent, partial) and sent.args == (evaluation.evaluate,)
    nsga2(SPACE, evaluation, OBJECTIVES, budget=16, seed=0, config=Nsga2Config(population=8), chunk_size=2)
    assert asked == [0, 8]


def test_an_error_in_telling_ends_the_search() -> None:
    def wrong(results: Sequence[Measurement[Any]]) -> None:
        raise UserError("cannot tell")

    with pytest.raises(UserError, match="cannot tell"):
        random_search(SPACE, WithContext(Counted(), wrong), OBJECTIVES, budget=3, seed=0)


@pytest.mark.slow
def test_workers_are_told_the_same(tmp_path: Path) -> None:
    alone, path = told(searched(lag=4)), tmp_path / "study.journal"
    with mapped(Workers(2), None) as pool:
        assert told(searched(lag=4, pool=pool)) == alone
        with pytest.raises(KeyboardInterrupt):
            searched(Interrupted(13), lag=4, storage=path)
        assert told(searched(storage=path, pool=pool)) == alone
