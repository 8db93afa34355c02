"""A map over items whose workers are trials of Ray Tune, so that Tune's tools show what is measured.

Tune wants to know all trials in advance, or asks a searcher for one more whenever a worker is free, and ends a worker
for which there is none. A search proposes an item when it pleases. So a trial begins without an item and fetches one at
a desk, an actor that hands out items in their order: workers stay alive while the search thinks. A trial whose worker
dies is tried again by Tune and finds its item at the desk; of one that Tune gives up, the desk says that it is lost.

What an evaluation needs, and what it returns, goes past Tune, whose records hold only what is to be shown.
"""

import asyncio
import itertools
import os
import shutil
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from nas.console import say
from nas.errors import UserError
from nas.ray_session import dumped, last_line, ray_session
from nas.workers import Item, Map, Result, Sent, Task, Workers, tried_in_order

Shown = Callable[[Any], Mapping[str, Any]]
"""The numbers and words of a result by name, for Tune's tables and TensorBoard."""

_KEPT = 1000
"""The folders of so many trials are kept, of all sessions."""
_END_S = 5.0
"""Seconds in which trials without an item end by themselves."""


@contextmanager
def tuned(workers: Workers, folder: Path, shown: Shown) -> Iterator[Map]:
    """A map whose items are trials of Ray Tune; Ray starts with its first use, and stops at the end of the context.

    One worker is this process, through the built-in `map`, unless its settings say otherwise.

    Args:
        workers: how many trials run at a time, and how often one is tried again after its worker died.
        folder: of Tune's files, an experiment for each context; the latest trials are kept.
        shown: what Tune's files tell of a result; sent to the workers.
    """
    if workers.is_this_process:
        yield map
        return
    trials = _Trials(workers, folder, shown)
    try:
        yield trials
    finally:
        trials.close()


class _Desk:
    """The actor at which trials fetch items and leave results.

    It hands out nothing while a worker is missing: Tune would give the free worker of the next trial that ends to the
    one that waits for a new worker, and end the new one before it has started, again and again where trials are short.

    Args:
        workers: how many there are.
        patience_s: after so many seconds without a worker it is not waited for any more.
    """

    def __init__(self, workers: int, patience_s: float) -> None:
        self._workers, self._patience_s = workers, patience_s
        # What is to be measured, with the future of its outcome; None: there is no more.
        self._waiting: asyncio.Queue[tuple[Any, asyncio.Future[bytes | None]] | None] = asyncio.Queue()
        # A future for each trial, so that one whose worker died while it waited does not wait twice.
        self._taken: dict[str, asyncio.Future[Any]] = {}
        # Trials that have a worker.
        self._there: set[str] = set()
        self._changed, self._begun = asyncio.Condition(), asyncio.Event()

    async def begun(self) -> None:
        """Return when all workers have started."""
        await self._begun.wait()

    async def measured(self, order: Any) -> bytes | None:
        """The outcome of an order; None if it is lost."""
        outcome: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        await self._waiting.put((order, outcome))
        return await outcome

    async def take(self, trial: str) -> Any:
        """The order of a trial, the same for each attempt; None: it has nothing to do."""
        async with self._changed:
            self._there.add(trial)
            self._changed.notify_all()
        if self._complete():
            self._begun.set()
        if trial not in self._taken:
            self._taken[trial] = asyncio.ensure_future(self._waiting.get())
        found = await asyncio.shield(self._taken[trial])
        await self._all_there()
        return None if found is None else found[0]

    async def give(self, trial: str, outcome: bytes) -> None:
        """The outcome of a trial's order."""
        self._there.discard(trial)
        self._taken.pop(trial).result()[1].set_result(outcome)

    async def died(self, trial: str) -> None:
        """The worker of a trial has died; the trial begins anew with another one."""
        self._there.discard(trial)

    async def lost(self, trial: str) -> None:
        """A trial has ended without a result."""
        self._there.discard(trial)
        taken = self._taken.pop(trial, None)
        if taken is None:
            return
        if not taken.done():
            taken.cancel()
        elif taken.result() is not None:
            taken.result()[1].set_result(None)

    async def close(self) -> None:
        """Tell all trials that there is no more."""
        for _ in range(self._workers):
            await self._waiting.put(None)
        async with self._changed:
            self._workers = 0
            self._changed.notify_all()

    def _complete(self) -> bool:
        return len(self._there) >= self._workers

    async def _all_there(self) -> None:
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(self._complete), self._patience_s)
            except TimeoutError:
                self._workers = len(self._there)


@dataclass
class _State:
    """What the thread of Tune is told; plain data, because Tune pickles what has it.

    Args:
        most: trials at a time.
        running: those that there are.
        closing: whether there is no more to do.
        ending: whether to end what is being done.
    """

    most: int
    running: set[str] = field(default_factory=set)
    closing: bool = False
    ending: bool = False


class _Trials:
    """The map: each thread of this process waits for one item."""

    def __init__(self, workers: Workers, folder: Path, shown: Shown) -> None:
        self._workers, self._folder, self._shown = workers, folder, shown
        self._state = _State(workers.count)
        self._threads = ThreadPoolExecutor(workers.count, thread_name_prefix="nas-worker")
        # Ray's processes end with the thread that starts them, and what Tune prints there goes to standard error.
        self._keeper = ThreadPoolExecutor(1, thread_name_prefix="ray_tune")
        # What else is asked of Ray. Not by the caller's thread: one that has seen an earlier session of Ray gives what
        # it puts into the store the identities that the thread of Tune gives, and Ray then ends the whole process.
        self._asking = ThreadPoolExecutor(1, thread_name_prefix="nas-asking")
        self._desk: Future[Any] | None = None
        self._tune: Future[None] | None = None
        self._failure: BaseException | None = None
        # How many items are being measured.
        self._busy = 0
        self._sent: dict[int, Sent] = {}
        self._sending, self._counting = threading.Lock(), threading.Lock()
        self._numbers, self._items = itertools.count(), itertools.count()

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
        task = function if isinstance(function, Task) else Task(function)
        return tried_in_order(self._threads, task, items, partial(self._tried, self._send(task.function)))

    def close(self) -> None:
        """End the trials, and Ray if this map started it."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._sending:
            self._state.closing = True
            if self._desk is not None and self._desk.exception() is None:
                self._asking.submit(self._dismiss, self._desk.result()).result()
        if self._tune is not None:
            # Trials without an item end by themselves, unless their workers have not started.
            wait([self._tune], timeout=0 if self._busy else _END_S)
            self._state.ending = True
        self._keeper.shutdown(wait=True)
        self._threads.shutdown(wait=True)
        self._asking.shutdown(wait=True)
        if self._failure is not None and self._desk is not None and self._desk.exception() is None:
            say(f"What Ray Tune wrote of the trials in {self._folder} is incomplete: {last_line(self._failure)}")

    def _dismiss(self, desk: Any) -> None:
        import ray

        try:
            ray.get(desk.close.remote())
        except ray.exceptions.RayError:
            # Tune has ended already, and the desk with it.
            return

    def _send(self, function: Callable[[Any], Any]) -> Sent:
        """The function in the object store, where its first use puts it; the very first one also starts Ray."""
        import ray

        with self._sending:
            if self._state.closing:
                raise RuntimeError("the pool is closed")
            sent = self._sent.pop(id(function), None)
            if sent is None:
                payload = dumped(function)
                if self._desk is None:
                    self._desk = Future()
                    self._tune = self._keeper.submit(self._keep, self._desk, len(payload))
                self._desk.result()
                sent = Sent(next(self._numbers), function, self._asking.submit(ray.put, payload).result())
            self._sent[id(function)] = sent
            for oldest in list(self._sent)[: -self._workers.functions]:
                del self._sent[oldest]
            return sent

    def _tried(self, sent: Sent, item: Any, size: int) -> Any:
        """The result of an item; raises Lost, or the exception of the function."""
        import ray

        assert self._desk is not None
        desk = self._desk.result()
        order = (next(self._items), sent.number, [sent.payload], ray.cloudpickle.dumps(item))
        try:
            ray.get(desk.begun.remote(), timeout=self._workers.start_s)
            with self._counting:
                self._busy += 1
            try:
                outcome = ray.get(desk.measured.remote(order))
            finally:
                with self._counting:
                    self._busy -= 1
        except ray.exceptions.GetTimeoutError:
            raise self._workers.not_started() from None
        except ray.exceptions.RayError as error:
            cause = self._failure or error
            raise RuntimeError(f"the trials have ended: {last_line(cause)}") from cause
        if outcome is None:
            raise self._workers.lost()
        result, raised = ray.cloudpickle.loads(outcome)
        if raised is not None:
            raise raised
        return result

    def _keep(self, started: Future[Any], payload_bytes: int) -> None:
        """Run Tune until the map is closed; the thread of this lasts as long as Ray."""
        import ray

        try:
            with ray_session(self._workers.count, self._workers.address, payload_bytes):
                desk = ray.remote(_Desk).options(num_cpus=0).remote(self._workers.count, self._workers.start_s)
                ray.get(desk.__ray_ready__.remote(), timeout=self._workers.start_s)
                try:
                    # All workers start at once, and the form of output is the one that can be silent.
                    with _variables(TUNE_MAX_PENDING_TRIALS_PG=str(self._workers.count), RAY_AIR_NEW_OUTPUT="0"):
                        tuner = _tuner(self._workers, self._folder, self._shown, self._state, desk)
                        started.set_result(desk)
                        tuner.fit()
                finally:
                    # Whoever still waits for a result is told by this.
                    ray.kill(desk)
        except BaseException as error:
            self._failure = error
            if not started.done():
                started.set_exception(error)


@contextmanager
def _variables(**wanted: str) -> Iterator[None]:
    """Settings that Tune reads from the environment alone."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _tuner(workers: Workers, folder: Path, shown: Shown, state: _State, desk: Any) -> Any:
    from ray import tune

    folder.mkdir(parents=True, exist_ok=True)
    number = next(n for n in itertools.count(1) if not (folder / str(n)).exists())
    torch = sys.modules.get("torch")
    trial = _trial_class(desk, shown, workers.functions, None if torch is None else torch.get_num_threads())
    return tune.Tuner(
        tune.with_resources(trial, {"cpu": 1, "gpu": workers.gpus}),
        tune_config=tune.TuneConfig(
            search_alg=_searcher(state, desk),
            num_samples=-1,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name=str(number),
            storage_path=str(folder.absolute()),
            failure_config=tune.FailureConfig(max_failures=workers.retries),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            callbacks=_callbacks(folder / str(number), desk),
            stop=_stopper(state),
            verbose=0,
        ),
    )


def _trial_class(desk: Any, shown: Shown, functions: int, torch_threads: int | None) -> type:
    """The class of the trials, which can be made only with Ray; it is pickled as a whole."""
    import ray
    from ray import tune

    class Trial(tune.Trainable):  # type: ignore[misc]
        """Fetches an item, measures it and ends; its process goes on with the next trial."""

        def setup(self, config: dict[str, Any]) -> None:
            if torch_threads is not None:
                import torch

                # As in this process, so that sums of floats are the same.
                torch.set_num_threads(torch_threads)
            self.held: dict[int, Any] = {}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

        def step(self) -> dict[str, Any]:
            order = ray.get(desk.take.remote(self.trial_id))
            if order is None:
                return {"done": True}
            number, function, [payload], item = order
            said: dict[str, Any] = {}
            result, raised = None, None
            try:
                result = self.function(function, payload)(ray.cloudpickle.loads(item))
                said = dict(shown(result))
            except Exception as error:
                # Tune would try again what raises, which helps only where a worker has died.
                raised = error
            ray.get(desk.give.remote(self.trial_id, ray.cloudpickle.dumps((result, raised))))
            return {"done": True, "item": number, **said}

        def function(self, number: int, payload: Any) -> Any:
            if number not in self.held:
                for oldest in list(self.held)[: max(0, len(self.held) + 1 - functions)]:
                    del self.held[oldest]
                try:
                    self.held[number] = ray.cloudpickle.loads(ray.get(payload))
                except Exception as error:
                    raise UserError(f"the workers cannot load what they are to run: {last_line(error)}") from error
            # The latest is the last.
            self.held[number] = self.held.pop(number)
            return self.held[number]

    return Trial


def _searcher(state: _State, desk: Any) -> Any:
    from ray.tune.search import Searcher

    class Slots(Searcher):  # type: ignore[misc]
        """As many trials as there are workers, until the map is closed."""

        def suggest(self, trial_id: str) -> Any:
            if state.closing:
                return Searcher.FINISHED
            if len(state.running) >= state.most:
                return None
            state.running.add(trial_id)
            return {}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            state.running.discard(trial_id)
            if error:
                desk.lost.remote(trial_id)

        def save(self, checkpoint_path: str) -> None:
            """Nothing: a search goes on from its own journal."""

        def restore(self, checkpoint_path: str) -> None:
            """Nothing."""

    # A number that every result has, since Tune wants one.
    return Slots(metric="training_iteration", mode="max")


def _stopper(state: _State) -> Any:
    from ray.tune import Stopper

    class Closing(Stopper):  # type: ignore[misc]
        """Ends what still runs."""

        def __call__(self, trial_id: str, result: Any) -> bool:
            return False

        def stop_all(self) -> bool:
            return state.ending

    return Closing()


def _callbacks(folder: Path, desk: Any) -> list[Any]:
    from ray.tune import Callback
    from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback, TBXLoggerCallback

    # Those that Tune adds by itself, named here to be closed: it forgets trials that do not end.
    loggers = [JsonLoggerCallback(), CSVLoggerCallback(), TBXLoggerCallback()]

    class Watcher(Callback):  # type: ignore[misc]
        """Tells the desk of workers that died, and removes the files of the oldest trials."""

        def __init__(self) -> None:
            found = [path.parent for path in folder.parent.glob("*/*/params.json")]
            self.kept = deque([path] for path in sorted(found, key=lambda path: (path.stat().st_mtime, str(path))))
            self.staging: Path | None = None

        def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            desk.died.remote(trial.trial_id)
            self.close(trial)

        def close(self, trial: Any) -> None:
            for logger in loggers:
                logger.log_trial_end(trial)

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            # Tune writes into a folder of the session of Ray, and copies that into ours from time to time.
            written = Path(trial.local_path)
            self.staging = written.parent
            self.kept.append([written, folder / written.name])
            while len(self.kept) > _KEPT:
                for path in self.kept.popleft():
                    shutil.rmtree(path, ignore_errors=True)

        def on_experiment_end(self, trials: Any, **info: Any) -> None:
            for trial in trials:
                self.close(trial)
            if self.staging is not None:
                shutil.rmtree(self.staging, ignore_errors=True)

    return [*loggers, Watcher()]
