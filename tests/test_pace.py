"""The pace of a search: decided when its study begins, recorded, and kept whatever measures the rest of it."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.errors import UserError
from nas.searching.linas import LinasConfig, linas
from nas.searching.measurement import Objective
from nas.searching.nsga2 import nsga2
from nas.searching.pace import Pace
from nas.searching.random_search import random_search
from nas.searching.storage import read_identity
from nas.searching.study import Study, load_study
from search_spaces.space import Candidate, Choice, Space

SPACE = Space(tuple(Choice(f"heads.{i}", (2, 4, 6, 8)) for i in range(8)))
OBJECTIVES = (Objective("accuracy", "maximize"), Objective("macs"))
SIZES_OF_0_1 = {"lag": 9, "first_batch": 24, "least_batch": 8, "most_batch": 24, "growth": 0.1}
BUDGET = 48


def _evaluate(candidates: Sequence[Candidate]) -> np.ndarray:
    rows = SPACE.encode(candidates).astype(float)
    gain = np.sqrt(rows) @ np.linspace(0.2, 1.0, rows.shape[1])
    return np.stack([1 - np.exp(-gain / 5), 1 + rows.sum(axis=1)], axis=1).round(9)


def _search(path: Path | None = None, search: Callable[..., Study] = linas, **settings: Any) -> Study:
    wanted = {"evaluate": _evaluate, "budget": BUDGET, "seed": 0, "storage": path, **settings}
    return search(SPACE, wanted.pop("evaluate"), OBJECTIVES, **wanted)


def _told(study: Study) -> list[tuple[Candidate, dict[str, float], str]]:
    return [(m.candidate, dict(m.values), m.state) for m in study.measurements]


def _recorded(path: Path) -> dict[str, Any]:
    identity = dict(read_identity(path) or {})
    return {name: value for name, value in identity["config"].items() if name in SIZES_OF_0_1} | {
        "lag": identity["lag"]
    }


class _Killed:
    """An evaluation that is interrupted after `calls` candidates."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, candidates: Sequence[Candidate]) -> np.ndarray:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return _evaluate(candidates)


def _begun(path: Path, calls: int = 30, **settings: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        _search(path, evaluate=_Killed(calls), **settings)


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    """One session of Ray for all tests here: starting it is what takes long."""
    from nas.ray_session import ray_session

    with ray_session(4, None, 0):
        yield


def test_a_new_study_goes_by_its_workers_and_records_its_pace(tmp_path: Path) -> None:
    few_at_a_time = {"lag": 1, "first_batch": 12, "least_batch": 2, "growth": 0.06}
    _search(tmp_path / "one", budget=1)
    assert _recorded(tmp_path / "one") == {**SIZES_OF_0_1, **few_at_a_time}
    _search(tmp_path / "nine", budget=1, lag=9)
    assert _recorded(tmp_path / "nine") == SIZES_OF_0_1
    given: dict[str, Any] = {"first_batch": 5, "least_batch": 3, "growth": 0.5}
    _search(tmp_path / "own", budget=1, config=LinasConfig(**given))
    assert _recorded(tmp_path / "own") == {**SIZES_OF_0_1, **few_at_a_time, **given}
    for search in (nsga2, random_search):
        _search(tmp_path / search.__name__, search, budget=1)
        assert (read_identity(tmp_path / search.__name__) or {})["lag"] == 1


@pytest.mark.parametrize("search", [linas, nsga2, random_search])
def test_a_study_goes_on_with_the_lag_that_it_was_begun_with(search: Callable[..., Study], tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    whole = _told(_search(search=search, lag=5))
    _begun(path, search=search, lag=5)
    before = path.read_bytes()
    for other in (1, 4, 9):
        with pytest.raises(UserError, match=rf"begun with another lag \(5, here {other}\); leave the lag out"):
            _search(path, search, lag=other)
    assert path.read_bytes() == before
    assert _told(_search(path, search)) == whole
    assert _told(_search(path, search, lag=5)) == whole


def test_a_study_of_version_0_1_goes_on(tmp_path: Path) -> None:
    """Its settings were recorded in full, with a lag of 9 for any number of workers."""
    path = tmp_path / "study.journal"
    _begun(path, lag=9)
    recorded = (read_identity(path) or {})["config"]
    assert {**recorded, "features": None, "predictor": None} == {
        **SIZES_OF_0_1,
        "spread_start": True,
        "features": None,
        "predictor": None,
        "inner_population": 100,
        "inner_generations": 20,
        "crossover": 0.9,
        "mutation": None,
        "warm_start": True,
        "margin": 0.3,
        "samples": 8,
    }
    assert recorded["features"] == "nas.searching.features:contrast_features"
    assert recorded["predictor"] == "nas.searching.linas:gaussian_process"
    assert _told(_search(path)) == _told(_search(lag=9))


def test_a_record_that_makes_no_sense_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    _search(path, budget=5)
    lines = path.read_text(encoding="utf-8").splitlines()
    for name, value in (("lag", "9"), ("lag", -1), ("config", [1])):
        operation = json.loads(lines[1])
        operation["user_attr"]["supersieve"][name] = value
        path.write_text("\n".join([lines[0], json.dumps(operation, separators=(",", ":")), *lines[2:], ""]))
        before = path.read_bytes()
        with pytest.raises(UserError, match=f"another {name}"):
            _search(path)
        assert path.read_bytes() == before


def test_the_published_settings_keep_their_pace() -> None:
    config = LinasConfig.published()
    assert config.pace(1) == config.pace(9).__class__(1, 50, 50, 50, 0.1)
    assert config.completed({"first_batch": 3, "lag": 9}) == config


def test_batches_grow_within_their_bounds() -> None:
    assert [Pace.of(1).batch(n) for n in (0, 12, 58, 59, 100, 400)] == [2, 2, 2, 4, 6, 24]
    assert [Pace.of(9).batch(n) for n in (0, 24, 79, 160, 500)] == [8, 8, 8, 16, 24]
    for wrong in ({"lag": 0}, {"first_batch": 0}, {"most_batch": 7}, {"growth": -1.0}, {"growth": float("nan")}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            Pace(**wrong)


@pytest.mark.slow
@pytest.mark.usefixtures("session")
@pytest.mark.parametrize(
    "lag", [None, *(pytest.param(lag, marks=pytest.mark.exhaustive) for lag in (1, 5))], ids=["default", "1", "5"]
)
def test_studies_of_one_lag_are_the_same_for_any_number_of_workers(lag: int | None, tmp_path: Path) -> None:
    """Cut off in the middle of two workers, it goes on with four or with one."""
    serial = _told(_search(lag=9 if lag is None else lag))
    path, other = tmp_path / "study.journal", tmp_path / "other.journal"
    _search(path, lag=lag, workers=2, budget=30)
    assert _recorded(path)["lag"] == (9 if lag is None else lag)
    assert _told(load_study(path)) == serial[:30]
    other.write_bytes(path.read_bytes())
    assert _told(_search(path, workers=4)) == serial
    assert _told(_search(other)) == serial
