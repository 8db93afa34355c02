"""Candidates that a search with LINAS is told to begin with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.errors import UserError
from nas.searching.linas import LinasConfig, linas
from nas.searching.pace import recorded_identity
from nas.searching.study import Study
from search_spaces.space import Candidate
from tests.test_linas import OBJECTIVES, SPACE, _evaluate, _told

STARTS = tuple(tuple(row) for row in SPACE.random(5, np.random.default_rng(3)).tolist())
ENDS = (SPACE.smallest(), SPACE.largest())


def _run(starts: Any = STARTS, evaluate: Any = _evaluate, **settings: Any) -> Study:
    config = LinasConfig(starts=starts)
    return linas(SPACE, evaluate, OBJECTIVES, **{"budget": 40, "seed": 0, "config": config, **settings})


@pytest.mark.parametrize(("lag", "first"), [(1, 12), (9, 24)])
def test_they_are_measured_first_in_place_of_as_many_others(lag: int, first: int) -> None:
    ours, plain = _run(lag=lag), _run((), lag=lag)
    found = [each.candidate for each in ours.measurements]
    before = [each.candidate for each in plain.measurements]
    assert found[:3] == before[:3] and set(ENDS) <= set(found[:3])
    assert found[3:8] == SPACE.decode(np.array(STARTS))
    assert found[8:first] == before[3 : first - 5]
    assert len(set(found)) == 40


def test_a_start_may_be_an_end_or_named_twice() -> None:
    twice = (*STARTS[:2], *STARTS[:2], *(tuple(row) for row in SPACE.encode(ENDS).tolist()))
    found = [each.candidate for each in _run(twice).measurements]
    assert len(set(found)) == 40 and found[3:5] == SPACE.decode(np.array(STARTS[:2]))


def test_more_than_a_first_batch_are_all_measured_but_no_more_than_the_budget() -> None:
    many = tuple(tuple(row) for row in SPACE.random(30, np.random.default_rng(4)).tolist())
    found = [each.candidate for each in _run(many).measurements]
    assert set(SPACE.decode(np.array(many))) <= set(found) and len(found) == 40
    assert len(_run(many, budget=10).measurements) == 10


@pytest.mark.parametrize("lag", [1, 9])
def test_they_decide_a_study_that_is_resumed_and_chunked_alike(lag: int, tmp_path: Path) -> None:
    whole = _told(_run(lag=lag))
    assert whole == _told(_run(lag=lag, chunk_size=8)) != _told(_run((), lag=lag))
    path, left = tmp_path / "study.journal", [5]

    def interrupted(candidates: Sequence[Candidate]) -> np.ndarray:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return _evaluate(candidates)

    with pytest.raises(KeyboardInterrupt):
        _run(evaluate=interrupted, lag=lag, storage=path)
    assert _told(_run(storage=path)) == whole
    assert recorded_identity(path)["config"]["starts"] == [list(start) for start in STARTS]
    with pytest.raises(UserError, match="another"):
        _run(STARTS[:4], storage=path)


def test_a_study_without_starts_is_that_of_before(tmp_path: Path) -> None:
    _run((), storage=tmp_path / "study.journal")
    assert "starts" not in recorded_identity(tmp_path / "study.journal")["config"]


@pytest.mark.parametrize("wrong", [((99,) * len(SPACE.choices),), ((0, 1),), ((0,), (0, 1))])
def test_a_start_outside_the_space_is_refused_before_anything_is_written(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="starts must be candidates of the space"):
        _run(wrong, storage=tmp_path / "study.journal")
    assert not any(tmp_path.iterdir())
