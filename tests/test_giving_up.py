"""A search that can be told to be hopeless ends early, and only where that was wanted."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from nas.errors import UserError
from nas.searching.giving_up import ENOUGH
from nas.searching.linas import LinasConfig, linas
from nas.searching.measurement import Evaluate, Objective
from nas.searching.nsga2 import nsga2
from nas.searching.random_search import random_search
from nas.searching.study import load_study
from search_spaces import Candidate, Choice, Space

SPACE = Space(tuple(Choice(f"c{i}", (0, 1, 2)) for i in range(4)))
OBJECTIVES = (Objective("accuracy", "maximize"), Objective("cost"))
BUDGET = 30
ALGORITHMS = [random_search, nsga2, partial(linas, config=LinasConfig(first_batch=8))]


def sums(candidates: Sequence[Candidate]) -> np.ndarray:
    rows = SPACE.encode(candidates)
    return np.stack([rows.sum(axis=1), rows[:, 0] + 1.0], axis=1).astype(float)


def equal(candidates: Sequence[Candidate]) -> np.ndarray:
    return np.ones((len(candidates), 2))


def equal_accuracy(candidates: Sequence[Candidate]) -> np.ndarray:
    return sums(candidates) * [0.0, 1.0]


class Breaks:
    """Fails for the first `count` candidates, all of them by default, and counts."""

    def __init__(self, count: int = 10**6, then: Evaluate = sums) -> None:
        self.calls, self._count, self._then = 0, count, then

    def __call__(self, candidates: Sequence[Candidate]) -> object:
        assert len(candidates) == 1
        self.calls += 1
        if self.calls <= self._count:
            raise RuntimeError("no such thing")
        return self._then(candidates)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_search_in_which_everything_fails_is_given_up(algorithm: partial, tmp_path: Path) -> None:
    run, broken = partial(algorithm, SPACE, objectives=OBJECTIVES, seed=0), Breaks()
    sentence = f"none of {ENOUGH} sub-networks could be measured; the first failed: RuntimeError: no such thing"
    with pytest.raises(UserError, match=sentence):
        run(broken, budget=BUDGET, storage=tmp_path / "a.journal", give_up=True)
    assert len(load_study(tmp_path / "a.journal").measurements) == ENOUGH
    few = run(Breaks(), budget=ENOUGH - 1, give_up=True)
    assert [each.state for each in few.measurements] == ["failed"] * (ENOUGH - 1), "as many may be chance"
    last = run(Breaks(ENOUGH - 1), budget=BUDGET, give_up=True)
    assert sum(each.state == "measured" for each in last.measurements) == BUDGET - ENOUGH + 1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_search_that_tells_nothing_apart_is_given_up(algorithm: partial, tmp_path: Path) -> None:
    run = partial(algorithm, SPACE, objectives=OBJECTIVES, seed=0)
    sentence = f"accuracy is 1 and cost is 1 for all of {ENOUGH} sub-networks measured: there is nothing to choose"
    with pytest.raises(UserError, match=sentence):
        run(equal, budget=BUDGET, storage=tmp_path / "a.journal", give_up=True)
    assert len(load_study(tmp_path / "a.journal").measurements) == ENOUGH
    found = run(equal_accuracy, budget=BUDGET, give_up=True)
    assert len(found.measurements) == BUDGET, "one objective that tells them apart is enough"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_without_the_rule_nothing_ends_early_and_with_it_a_good_search_is_the_same(algorithm: partial) -> None:
    run = partial(algorithm, SPACE, objectives=OBJECTIVES, budget=BUDGET, seed=0)
    for evaluate in (Breaks(), equal):
        assert len(run(evaluate).measurements) == BUDGET
    found = [[(each.candidate, each.values) for each in run(sums, give_up=rule).measurements] for rule in (False, True)]
    assert found[0] == found[1]


def test_a_resumed_search_counts_what_it_measures_itself(tmp_path: Path) -> None:
    """What failed before may have been mended since, and what went well before does not excuse what fails now."""
    run = partial(random_search, SPACE, objectives=OBJECTIVES, seed=0, give_up=True)
    storage = tmp_path / "mended.journal"
    for _ in range(2):
        broken = Breaks()
        with pytest.raises(UserError, match=f"none of {ENOUGH} sub-networks"):
            run(broken, budget=70, storage=storage)
        assert broken.calls == ENOUGH, "those that failed before are not measured again, and not counted"
    study = run(sums, budget=70, storage=storage)
    assert [each.state for each in study.measurements] == ["failed"] * 2 * ENOUGH + ["measured"] * (70 - 2 * ENOUGH)

    storage = tmp_path / "broken.journal"
    run(sums, budget=25, storage=storage)
    with pytest.raises(UserError, match=f"none of {ENOUGH} sub-networks"):
        run(Breaks(), budget=70, storage=storage)
    assert len(load_study(storage).measurements) == 25 + ENOUGH
    assert len(run(sums, budget=50, storage=storage).measurements) == 50
    assert len(run(Breaks(), budget=50, storage=storage).measurements) == 50, "nothing is left to measure"
