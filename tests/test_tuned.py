"""Items measured as trials of Ray Tune: the desk that hands them out, and the map as a whole."""

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nas.errors import UserError
from nas.tuned import _Desk, tuned
from nas.workers import Lost, Map, Task, Workers, abandon


async def settled() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def order(desk: _Desk) -> None:
    outcomes = [asyncio.ensure_future(desk.measured(n)) for n in range(3)]
    await settled()
    assert [await desk.take("a"), await desk.take("b")] == [0, 1]
    await desk.give("b", b"one")
    assert await desk.take("c") == 2, "the next in order"
    await desk.give("c", b"two")
    await desk.give("a", b"zero")
    assert await asyncio.gather(*outcomes) == [b"zero", b"one", b"two"]


async def again(desk: _Desk) -> None:
    """A trial whose worker died has its order again, whether it died with it or while it waited for one."""
    idle = asyncio.ensure_future(desk.take("a"))
    await settled()
    await desk.died("a")
    again = asyncio.ensure_future(desk.take("a"))
    outcome = asyncio.ensure_future(desk.measured("only"))
    assert await again == "only" and await idle == "only"
    await desk.died("a")
    assert await desk.take("a") == "only"
    await desk.give("a", b"done")
    assert await outcome == b"done"


async def lost(desk: _Desk) -> None:
    outcomes = [asyncio.ensure_future(desk.measured(n)) for n in range(2)]
    assert await desk.take("a") == 0
    await desk.lost("a")
    await desk.lost("nobody")
    waits = asyncio.ensure_future(desk.take("b"))
    await settled()
    await desk.give("b", b"one")
    assert await waits == 1 and await asyncio.gather(*outcomes) == [None, b"one"]


async def lost_without_an_order(desk: _Desk) -> None:
    idle = asyncio.ensure_future(desk.take("a"))
    await settled()
    await desk.lost("a")
    await asyncio.gather(idle, return_exceptions=True)
    outcome = asyncio.ensure_future(desk.measured(0))
    assert await desk.take("b") == 0, "the order goes to the next trial"
    await desk.give("b", b"zero")
    assert await outcome == b"zero"


async def closed(desk: _Desk) -> None:
    idle = asyncio.ensure_future(desk.take("a"))
    await settled()
    await desk.close()
    assert await idle is None


async def waits_for_all(desk: _Desk) -> None:
    """Nothing is handed out while a worker is missing, at first and after one has died."""
    outcomes = [asyncio.ensure_future(desk.measured(n)) for n in range(3)]
    first, begun = asyncio.ensure_future(desk.take("a")), asyncio.ensure_future(desk.begun())
    await settled()
    assert not first.done() and not begun.done()
    second = asyncio.ensure_future(desk.take("b"))
    assert (await first, await second) == (0, 1) and await begun is None
    await desk.died("b")
    await desk.give("a", b"zero")
    third = asyncio.ensure_future(desk.take("c"))
    await settled()
    assert not third.done()
    assert await desk.take("b") == 1 and await third == 2
    for trial, outcome in (("b", b"one"), ("c", b"two")):
        await desk.give(trial, outcome)
    assert await asyncio.gather(*outcomes) == [b"zero", b"one", b"two"]


async def goes_on_without_one(desk: _Desk) -> None:
    """Of a worker that does not come."""
    outcomes = [asyncio.ensure_future(desk.measured(n)) for n in range(2)]
    for trial in ("a", "b"):
        await desk.take(trial)
        await desk.give(trial, trial.encode())
    assert await asyncio.gather(*outcomes) == [b"a", b"b"]


@pytest.mark.parametrize(
    ("law", "workers", "patience_s"),
    [
        (order, 1, 60),
        (again, 1, 60),
        (lost, 1, 60),
        (lost_without_an_order, 1, 60),
        (closed, 2, 60),
        (waits_for_all, 2, 60),
        (goes_on_without_one, 2, 0.01),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_desk(law: Callable[[_Desk], Any], workers: int, patience_s: float) -> None:
    async def run() -> None:
        await law(_Desk(workers, patience_s))

    asyncio.run(asyncio.wait_for(run(), 30))


def test_one_worker_needs_no_ray(tmp_path: Path) -> None:
    with tuned(Workers(1), tmp_path / "trials", dict) as run:
        assert run is map
    assert not (tmp_path / "trials").exists()


def squared(number: int) -> int:
    return number * number


def told(number: int) -> dict[str, Any]:
    return {"square": number}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tuned") / "trials"


@pytest.fixture(scope="module")
def run(folder: Path) -> Iterator[Map]:
    """Two workers for all tests: starting them is what takes long."""
    with tuned(Workers(2, retries=1, functions=2), folder, told) as run:
        yield run
    with warnings.catch_warnings():
        # Tune does not close the file of a trial that it tries again.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.mark.slow
def test_it_is_the_serial_map(run: Map, capfd: pytest.CaptureFixture[str]) -> None:
    """Also of several functions in several threads."""
    with ThreadPoolExecutor(3) as threads:
        jobs = [threads.submit(lambda f=f: list(run(f, range(12)))) for f in (squared, str, float)]
        assert [job.result() for job in jobs] == [list(map(f, range(12))) for f in (squared, str, float)]
    assert capfd.readouterr().out == ""


class Raising:
    """Raises at 3 what it is told to."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, number: int) -> int:
        if number == 3:
            raise self.error
        return number


@pytest.mark.slow
def test_what_is_raised_comes_at_its_turn(run: Map) -> None:
    for error in (UserError("rows must be there"), ZeroDivisionError("by none")):
        results = run(Raising(error), [1, 3, 2])
        assert next(results) == 1
        with pytest.raises(type(error), match=str(error)):
            next(results)
        assert list(results) == [2]


class Unloadable:
    """Cannot be loaded by a worker."""

    def __call__(self, number: int) -> int:
        return number

    def __setstate__(self, state: Any) -> None:
        raise ImportError("no module named elsewhere")

    def __getstate__(self) -> Any:
        return {"some": "state"}


@pytest.mark.slow
def test_what_workers_cannot_have(run: Map) -> None:
    with pytest.raises(UserError, match="cannot be pickled"):
        run(lambda number, lock=threading.Lock(): number, [1])  # noqa: B008
    with pytest.raises(UserError, match="the workers cannot load what they are to run: no module named elsewhere"):
        list(run(Unloadable(), [1]))
    assert list(run(squared, [4])) == [16]


class Deadly:
    """Kills its worker at 10 for the first time, and at 5 always; an item may be a list."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, numbers: Any) -> Any:
        for number in numbers if isinstance(numbers, list) else [numbers]:
            seen = self.folder / str(number)
            if number == 5 or (number == 10 and not seen.exists()):
                seen.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return [squared(number) for number in numbers] if isinstance(numbers, list) else squared(numbers)


@pytest.mark.slow
def test_workers_that_die(run: Map, tmp_path: Path) -> None:
    deadly, reason = Deadly(tmp_path), "its worker died, killed or out of memory, each of 2 times"
    results = run(deadly, [10, 1, 5, 2])
    assert [next(results), next(results)] == [100, 1]
    with pytest.raises(Lost, match=f"each item must have a result, one has none: {reason}"):
        next(results)
    assert list(results) == [4], "the others have theirs"
    # Of an item with parts, those at fault are lost.
    apart = Task(
        deadly,
        lost=lambda item, lost: [lost.reason],
        parts=lambda item: [[each] for each in item],
        joined=lambda parts: [each for part in parts for each in part],
    )
    assert list(run(apart, [[1, 5, 2], [3]])) == [[1, reason, 4], [9]]


class Slow:
    """Marks its item and takes a moment for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, number: int) -> int:
        (self.folder / str(number)).touch()
        time.sleep(0.1)
        return number


@pytest.mark.slow
def test_what_is_given_up_is_not_measured(run: Map, tmp_path: Path) -> None:
    results = run(Slow(tmp_path), range(200))
    assert next(results) == 0
    abandon(results)
    assert list(run(squared, [3])) == [9] and len(list(tmp_path.iterdir())) < 20


@pytest.mark.slow
def test_tune_shows_the_trials(tmp_path: Path) -> None:
    """After other sessions of Ray, in a process of its own, which Ray leaves without a trace on its standard output."""
    program = """
from pathlib import Path
from test_tuned import squared, told
from nas.tuned import tuned
from nas.workers import Workers, mapped
if __name__ == "__main__":
    for _ in range(2):
        with mapped(Workers(1, ray=True), None) as run:
            assert list(run(squared, range(2))) == [0, 1]
        with tuned(Workers(1, ray=True), Path("trials"), told) as run:
            print(list(run(squared, range(5))))
"""
    (tmp_path / "program.py").write_text(program)
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    command = [sys.executable, "program.py"]
    env = {**os.environ, "PYTHONPATH": path}
    found = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
    assert (found.returncode, found.stdout) == (0, "[0, 1, 4, 9, 16]\n" * 2), found.stderr
    for session in ("1", "2"):
        rows = [json.loads(path.read_text()) for path in (tmp_path / "trials" / session).glob("*/result.json")]
        shown = sorted((row["item"], row["square"]) for row in rows if "item" in row)
        assert shown == [(n, n * n) for n in range(5)]
        assert list((tmp_path / "trials" / session).glob("*/events.out.tfevents.*")), "for TensorBoard"
