"""Workers change nothing but the time: the same study from one process and from several, whatever becomes of them."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search_workers import worker_efficiency

from nas.errors import UserError
from nas.searching.measurement import Measurement, Objective
from nas.searching.nsga2 import Nsga2Config, nsga2
from nas.searching.random_search import random_search
from nas.searching.study import Study
from nas.workers import Workers, mapped
from search_spaces.space import Candidate, Choice, Space

SPACE = Space(
    (
        Choice("depth", (1, 2, 3)),
        *(Choice(f"heads.{i}", (2, 4, 6, 8), active_if=("depth", tuple(range(i + 1, 4)))) for i in range(3)),
        Choice("precision", ("int8", "fp32"), ordered=False),
    )
)
OBJECTIVES = (Objective("accuracy", "maximize"), Objective("latency_ms"))


def _evaluate(candidates: Sequence[Candidate]) -> np.ndarray:
    rows = SPACE.encode(candidates).astype(float)
    total = rows.sum(axis=1)
    return np.stack([1 - np.exp(-total / 5), 2 + total + rows[:, 1]], axis=1)


class _Troubled:
    """Kills its worker, for the first time or always, takes too long, or raises, by the candidate's choices."""

    def __init__(self, folder: Path | None, always: bool = False) -> None:
        self._folder, self._always = folder, always

    def __call__(self, candidates: Sequence[Candidate]) -> np.ndarray:
        for candidate in candidates:
            if candidate["heads.0"] == 4 and self._folder is not None:
                seen = self._folder / f"{sorted(dict(candidate).items())!r}"
                if self._always or not seen.exists():
                    seen.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            if candidate["heads.0"] == 6:
                raise RuntimeError("out of memory")
            if candidate["heads.0"] == 8 and self._always:
                time.sleep(600)
        return _evaluate(candidates)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"workers": Workers(1, ray=True), "timeout_s": 0.0}, "timeout_s must be above 0"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        random_search(SPACE, _evaluate, OBJECTIVES, budget=2, seed=0, **settings)
    with pytest.raises(UserError, match="retries of the workers must not be negative"):
        Workers(retries=-1)


def test_one_worker_is_this_process() -> None:
    with mapped(1, None) as run_chunks:
        assert run_chunks is map


def test_candidates_look_themselves_up_in_another_process() -> None:
    candidate = SPACE.smallest()
    kind, arguments = candidate.__reduce__()
    assert kind(*arguments) == candidate and hash(kind(*arguments)) == hash(candidate)


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    """One session of Ray for all tests here: starting it is what takes long."""
    from nas import workers as parallel

    with parallel._session(Workers(4), 0):
        yield


def _search(**changed: Any) -> Study:
    settings = {"evaluate": _evaluate, "budget": 40, "seed": 3, "lag": 4, "config": Nsga2Config(population=8)}
    settings |= changed
    return nsga2(SPACE, settings.pop("evaluate"), OBJECTIVES, **settings)


def _told(study: Study) -> list[tuple[Candidate, dict[str, float], str, str | None]]:
    return [(m.candidate, dict(m.values), m.state, m.reason) for m in study.measurements]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_any_number_of_workers_gives_the_same_study() -> None:
    serial = _told(_search())
    for workers, chunk_size in ((Workers(1, ray=True), 1), (3, 2)):
        assert _told(_search(workers=workers, chunk_size=chunk_size)) == serial


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_worker_killed_once_costs_time_and_nothing_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Killed with -9 in the middle of a measurement; what raises fails, here as in this process."""
    serial = _told(_search(evaluate=_Troubled(None), budget=20))
    assert {state for _, _, state, _ in serial} == {"measured", "failed"}
    assert _told(_search(evaluate=_Troubled(tmp_path), budget=20, workers=2)) == serial
    assert list(tmp_path.iterdir()), "some worker was killed"
    assert capfd.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_what_always_kills_or_takes_too_long_fails_alone(tmp_path: Path) -> None:
    choices = Space(SPACE.choices[1:2])
    row = Space((Choice("heads.0", choices.choices[0].options),))
    found: dict[Any, Measurement] = {}
    evaluate = _Troubled(tmp_path, always=True)
    with mapped(Workers(2, retries=1), 5.0) as run_chunks:
        from nas.searching.measurement import Staged

        staged = Staged(_Short(evaluate), {}, OBJECTIVES)
        for results in run_chunks(staged.function, [row.decode(np.arange(4)[:, None])]):
            found |= {m.candidate["heads.0"]: m for m in results}
    assert {heads: (m.state, m.reason) for heads, m in found.items()} == {
        2: ("measured", None),
        4: ("failed", "its worker died, killed or out of memory, each of 2 times"),
        6: ("failed", "RuntimeError: out of memory"),
        8: ("failed", "took longer than 5 s"),
    }


class _Short:
    """Values of candidates that have one choice only."""

    def __init__(self, trouble: _Troubled) -> None:
        self._trouble = trouble

    def __call__(self, candidates: Sequence[Candidate]) -> list[list[float]]:
        full = [SPACE.candidate({**SPACE.smallest(), "heads.0": c["heads.0"]}) for c in candidates]
        return [list(row) for row in self._trouble(full)]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_linas_keeps_its_workers_busy_with_the_lag_it_has() -> None:
    figures = worker_efficiency((1, 4), evaluations=48, seconds=0.05)
    assert figures.keys() == {"worker_efficiency_1", "worker_efficiency_4"}
    assert all(0 < efficiency <= 1 for efficiency in figures.values())


def _wrong(candidates: Sequence[Candidate]) -> list[list[float]]:
    return [[1.0]] * len(candidates)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_what_is_no_candidates_fault_ends_the_search() -> None:
    with pytest.raises(UserError, match=r"evaluate must return shape \(1, 2\)"):
        _search(evaluate=_wrong, workers=2)
    lock = threading.Lock()
    with pytest.raises(UserError, match="cannot be pickled"):
        _search(evaluate=lambda candidates: lock.locked() or _evaluate(candidates), workers=2)
