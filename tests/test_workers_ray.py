"""Workers change nothing but the time: the same study from one process and from several, whatever becomes of them."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search_workers import worker_efficiency

from nas.errors import UserError
from nas.searching.linas import linas
from nas.searching.measurement import Measurement, Objective
from nas.searching.nsga2 import Nsga2Config, nsga2
from nas.searching.random_search import random_search
from nas.searching.study import Study
from nas.workers import Lost, Map, Task, Workers, abandon, mapped
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


def _squared(number: int) -> int:
    return number * number


class _Spelled:
    """Another function; it marks each time that a process loads it, and takes as long as it is told to for that."""

    def __init__(self, folder: Path, word: str = "", load_s: float = 0.0) -> None:
        self.folder, self.word, self.load_s = folder, word, load_s

    def __call__(self, number: int) -> str:
        return f"{self.word} {number}"

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        (self.folder / f"{self.word}-{time.time_ns()}").touch()
        time.sleep(self.load_s)

    def loads(self) -> int:
        return len(list(self.folder.glob(f"{self.word}-*")))


def _side_by_side(*calls: Callable[[], Any]) -> list[Any]:
    """The results of calls, each made in a thread of its own that ends with it."""
    with ThreadPoolExecutor(len(calls)) as threads:
        return [each.result() for each in [threads.submit(call) for call in calls]]


@pytest.mark.slow
def test_a_pool_outlives_the_thread_that_began_it(tmp_path: Path) -> None:
    """On Linux the processes of Ray end with the thread that starts them, so this test starts Ray anew."""
    import ray

    assert not ray.is_initialized()
    with mapped(Workers(1, ray=True), None) as run:
        assert _side_by_side(lambda: list(run(_squared, range(3)))) == [[0, 1, 4]]
        time.sleep(1.0)
        assert list(run(_Spelled(tmp_path, "a"), range(2))) == ["a 0", "a 1"]


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    """One session of Ray for all tests here: starting it is what takes long."""
    from nas.ray_session import ray_session

    with ray_session(4, None, 0):
        yield


@pytest.fixture(scope="module")
def pool(session: None) -> Iterator[Map]:
    """Two workers that several tests share, as searches do."""
    with mapped(Workers(2, retries=1), None) as run:
        yield run


def _search(**changed: Any) -> Study:
    settings = {"evaluate": _evaluate, "budget": 40, "seed": 3, "lag": 4, "config": Nsga2Config(population=8)}
    settings |= changed
    return nsga2(SPACE, settings.pop("evaluate"), OBJECTIVES, **settings)


def _told(study: Study) -> list[tuple[Candidate, dict[str, float], str, str | None]]:
    return [(m.candidate, dict(m.values), m.state, m.reason) for m in study.measurements]


@pytest.mark.slow
@pytest.mark.usefixtures("session")
def test_any_number_of_workers_gives_the_same_study() -> None:
    serial = _told(_search())
    for workers, chunk_size in ((Workers(1, ray=True), 1), (3, 2)):
        assert _told(_search(workers=workers, chunk_size=chunk_size)) == serial


@pytest.mark.slow
@pytest.mark.usefixtures("session")
def test_a_worker_killed_once_costs_time_and_nothing_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Killed with -9 in the middle of a measurement; what raises fails, here as in this process."""
    serial = _told(_search(evaluate=_Troubled(None), budget=20))
    assert {state for _, _, state, _ in serial} == {"measured", "failed"}
    assert _told(_search(evaluate=_Troubled(tmp_path), budget=20, workers=2)) == serial
    assert list(tmp_path.iterdir()), "some worker was killed"
    assert capfd.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.usefixtures("session")
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
@pytest.mark.usefixtures("session")
def test_linas_keeps_its_workers_busy_with_the_lag_it_has() -> None:
    figures = worker_efficiency((1, 4), evaluations=48, seconds=0.05)
    assert figures.keys() == {"worker_efficiency_1", "worker_efficiency_4"}
    assert all(0 < efficiency <= 1 for efficiency in figures.values())


def _wrong(candidates: Sequence[Candidate]) -> list[list[float]]:
    return [[1.0]] * len(candidates)


@pytest.mark.slow
@pytest.mark.usefixtures("session")
def test_what_is_no_candidates_fault_ends_the_search() -> None:
    with pytest.raises(UserError, match=r"evaluate must return shape \(1, 2\)"):
        _search(evaluate=_wrong, workers=2)
    lock = threading.Lock()
    with pytest.raises(UserError, match="cannot be pickled"):
        _search(evaluate=lambda candidates: lock.locked() or _evaluate(candidates), workers=2)


@pytest.mark.slow
@pytest.mark.usefixtures("session")
@pytest.mark.parametrize("workers", [Workers(1), Workers(1, ray=True), Workers(2)], ids=["serial", "one", "two"])
def test_any_map_is_the_serial_one(workers: Workers, tmp_path: Path) -> None:
    """Of two functions in two threads, whose items are of different lengths."""
    spelled, numbers = _Spelled(tmp_path, "b"), range(40)
    with mapped(workers, None) as run:
        squares, words = _side_by_side(
            lambda: list(run(_squared, numbers)), lambda: [word for n in numbers for word in run(spelled, [n])]
        )
        assert squares == list(map(_squared, numbers)) and words == list(map(spelled, numbers))
        assert spelled.loads() <= workers.count


@pytest.mark.slow
@pytest.mark.usefixtures("session")
def test_a_worker_keeps_the_functions_used_last(tmp_path: Path) -> None:
    first, second, third = (_Spelled(tmp_path, word) for word in "cde")
    with mapped(Workers(1, ray=True, functions=2), None) as run:
        for function in (first, second, first, third, first, second):
            assert list(run(function, [7])) == [f"{function.word} 7"]
    assert [function.loads() for function in (first, second, third)] == [1, 2, 1]


class _Deadly:
    """Kills its worker at 10 for the first time, and at 5 always."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, number: int) -> int:
        seen = self._folder / str(number)
        if number == 5 or (number == 10 and not seen.exists()):
            seen.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return _squared(number)


@pytest.mark.slow
def test_an_item_that_is_lost_is_so_at_its_turn(pool: Map, tmp_path: Path) -> None:
    deadly, reason = _Deadly(tmp_path), "its worker died, killed or out of memory, each of 2 times"
    results = pool(deadly, [10, 1, 5, 2])
    assert [next(results), next(results)] == [100, 1]
    with pytest.raises(Lost, match=f"each item must have a result, one has none: {reason}"):
        next(results)
    assert list(results) == [4], "the others have theirs"


@pytest.mark.slow
@pytest.mark.usefixtures("session")
def test_the_time_limit_is_that_of_the_item_and_not_of_its_worker(tmp_path: Path) -> None:
    with mapped(1, 1.0) as run:
        assert list(run(_Spelled(tmp_path, "f"), [1])) == ["f 1"]
        assert list(run(_Spelled(tmp_path, "g", load_s=2.0), [1])) == ["g 1"]
        lost = list(run(Task(time.sleep, lambda item, lost: (lost.reason, lost.seconds)), [60.0, 0.0]))
    assert lost == [("took longer than 1 s", 1.0), None]


def _evaluate_otherwise(candidates: Sequence[Candidate]) -> np.ndarray:
    return _evaluate(candidates)[:, ::-1] * [-1, 1]


@pytest.mark.slow
def test_searches_side_by_side_in_one_pool_find_what_each_finds_alone(pool: Map, tmp_path: Path) -> None:
    def searches(**running: Any) -> list[Callable[[], Study]]:
        return [
            lambda: _search(**running),
            lambda: _search(evaluate=_evaluate_otherwise, chunk_size=2, **running),
            lambda: linas(SPACE, _evaluate, OBJECTIVES, budget=20, seed=1, **running),
            lambda: _search(evaluate=_Troubled(tmp_path if running else None), budget=20, **running),
        ]

    alone = [_told(search()) for search in searches()]
    assert [_told(study) for study in _side_by_side(*searches(pool=pool))] == alone
    assert list(tmp_path.iterdir()), "some worker was killed"


@pytest.mark.slow
def test_what_is_given_up_leaves_a_pool_to_others(pool: Map, tmp_path: Path) -> None:
    results = pool(Task(_Slow(tmp_path)), range(200))
    assert next(results) == 0
    abandon(results)
    assert list(pool(_squared, [3])) == [9] and len(list(tmp_path.iterdir())) < 20
    with pytest.raises(UserError, match="evaluate must return shape"):
        _search(evaluate=_wrong, pool=pool)
    with pytest.raises(UserError, match="cannot be pickled"):
        pool(lambda number, lock=threading.Lock(): number, [1])  # noqa: B008
    assert list(pool(_squared, [4])) == [16]


class _Slow:
    """Marks its item and takes a moment for it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, number: int) -> int:
        (self._folder / str(number)).touch()
        time.sleep(0.1)
        return number


def test_a_pool_and_workers_of_a_search_exclude_each_other(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    for given in ({"workers": 2}, {"timeout_s": 3.0}):
        with pytest.raises(UserError, match="give a pool, or workers and timeout_s, not both"):
            _search(pool=map, storage=path, **given)
    assert not path.exists()
    assert _told(_search(pool=map, storage=path, timeout_s=None)) == _told(_search())
