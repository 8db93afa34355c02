"""A map over items in several processes: Ray actors, on this machine or on a cluster.

`mapped` opens a pool, and whoever opened it decides who uses it: one search, or several side by side in threads. A pool
runs any function of any items that can be pickled. Every worker receives a function once, through Ray's object store,
and keeps it. Items go to any free worker, in the order in which they come; results are returned in the order of the
items. A worker that dies (killed, or out of memory) is replaced and its item tried again, a limited number of times.
An item that exceeds the time limit is not tried again, and its worker is replaced. What becomes of an item that is lost
in this way is said by a `Task`.

One worker without a time limit is this process, through the built-in `map`. A time limit always needs a worker, because
only a process can be stopped safely: an alarm signal in this process would raise an exception at any instruction, even
in a library that holds a lock or catches all exceptions, and would not interrupt a call into C code.

Workers use as many threads as this process, so that floating-point sums are identical, and the same module path. They
run with the user's permissions: Ray sends them pickled functions, within a cluster that the user controls.
"""

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from nas.errors import UserError
from nas.ray_session import dumped, environment, last_line, ray_session

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Workers:
    """Where functions run.

    Args:
        count: number of workers, which are separate processes if there is more than one.
        ray: use a separate process even for a single worker.
        address: address of a Ray cluster, `host:port` or `auto`, on whose machines this project is installed; None uses
            this machine.
        gpus: fraction of a GPU that each worker occupies.
        retries: how often an item is tried again after its worker died.
        start_s: time limit for the start of the workers, in seconds.
        functions: how many functions each worker keeps; one that was used longer ago is sent again when it is needed.

    Raises:
        UserError: a count of workers or functions below 1, or another number below 0.
    """

    count: int = 1
    ray: bool = False
    address: str | None = None
    gpus: float = 0.0
    retries: int = 2
    start_s: float = 300.0
    functions: int = 8

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"workers must be at least 1, got {self.count}")
        if self.functions < 1:
            raise UserError(f"functions of the workers must be at least 1, got {self.functions}")
        for name in ("gpus", "retries", "start_s"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} of the workers must not be negative, got {getattr(self, name)}")

    @property
    def is_this_process(self) -> bool:
        """Whether no other process is asked for."""
        return self.count == 1 and not self.ray and self.address is None

    def not_started(self) -> UserError:
        """What is said where the workers do not start in time."""
        return UserError(
            f"{self.count} workers must start within {self.start_s:g} s, they did not; ask for fewer, or look whether "
            "the cluster has free processors"
        )

    def lost(self, seconds: float = 0.0) -> "Lost":
        """What is said of an item whose worker died each time; `seconds` as of `Lost`."""
        return Lost(f"its worker died, killed or out of memory, each of {self.retries + 1} times", seconds, False)


class Lost(UserError):
    """An item has no result: its worker died each time, or it took longer than the time limit.

    Attributes:
        reason: what happened, e.g. "took longer than 5 s".
        seconds: the time limit of one item; 0 if there is none.
        too_long: whether the time limit was the cause.
    """

    def __init__(self, reason: str, seconds: float, too_long: bool) -> None:
        super().__init__(f"each item must have a result, one has none: {reason}; use fewer workers or allow more time")
        self.reason, self.seconds, self.too_long = reason, seconds, too_long


class Map(Protocol):
    """Applies a function to items and yields its results in their order; the built-in `map` is the serial one.

    Several threads may use one map, each with its own function. Workers keep what they were sent: a function must not
    be changed after its first use, and it should be the same object each time, because another one is sent anew.

    Raises:
        Lost: at the turn of an item that is lost, unless the function is a `Task` that has a result for it.
        UserError: the workers cannot be started, or the function cannot be pickled.
        Exception: what the function raises, at the turn of the item.
    """

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
        """Apply `function` to every item; workers begin at once, and do not wait until a result is asked for."""


def _raised(item: Any, lost: Lost) -> Any:
    raise lost


def _itself(item: Item) -> list[Item]:
    return [item]


def _only(results: Sequence[Result]) -> Result:
    (result,) = results
    return result


@dataclass(frozen=True)
class Task(Generic[Item, Result]):
    """A function, and what a map does with an item that is lost.

    Args:
        function: what is sent to the workers; the rest stays in this process.
        lost: the result of an item that is lost; raises by default.
        parts: the parts of an item, themselves items. One of n parts may take n times the time limit; if it is lost at
            the first try, its parts are tried one by one, so that only those at fault are lost.
        joined: the result of an item from those of its parts.
    """

    function: Callable[[Item], Result]
    lost: Callable[[Item, Lost], Result] = _raised
    parts: Callable[[Item], Sequence[Item]] = _itself
    joined: Callable[[Sequence[Result]], Result] = _only

    def __call__(self, item: Item, /) -> Result:
        """Apply the function in this process."""
        return self.function(item)


@contextmanager
def mapped(workers: int | Workers, timeout_s: float | None) -> Iterator[Map]:
    """A map over workers, which start with its first use and stop at the end of the context.

    Args:
        workers: number of workers, or their settings.
        timeout_s: time limit of one item in seconds, without the start of its worker; None: no limit.

    Raises:
        UserError: settings out of range.
    """
    chosen = Workers(workers) if isinstance(workers, int) else workers
    if timeout_s is not None and not timeout_s > 0:
        raise UserError(f"timeout_s must be above 0, got {timeout_s}")
    if chosen.is_this_process and timeout_s is None:
        yield map
        return
    pool = _Pool(chosen, timeout_s)
    try:
        yield pool
    finally:
        pool.close()


def abandon(results: Iterator[Any]) -> None:
    """Give up the results of a map that are not yet asked for: items that no worker has begun are left out.

    The serial map begins nothing before it is asked for.
    """
    if isinstance(results, InOrder):
        results.close()


class InOrder(Iterator[Result]):
    """Results in the order of the items; each is let go of when it is handed over."""

    def __init__(self, futures: Iterable["Future[Result]"]) -> None:
        self._futures = deque(futures)

    def __next__(self) -> Result:
        if not self._futures:
            raise StopIteration
        return self._futures.popleft().result()

    def close(self) -> None:
        """Give up the results that were not handed over."""
        while self._futures:
            self._futures.popleft().cancel()


def tried_in_order(
    threads: ThreadPoolExecutor, task: Task[Item, Result], items: Iterable[Item], tried: Callable[[Any, int], Any]
) -> InOrder[Result]:
    """The results of items, each waited for in a thread; arguments as of `tried_in_parts`."""
    return InOrder([threads.submit(tried_in_parts, task, item, tried) for item in list(items)])


def tried_in_parts(task: Task[Item, Result], item: Item, tried: Callable[[Any, int], Any]) -> Result:
    """The result of an item, or of its parts where the item as a whole is lost.

    Args:
        task: what is done with items that are lost.
        item: the item.
        tried: (item, number of its parts) -> its result; raises Lost.
    """
    parts = task.parts(item)
    try:
        # An item of several parts is tried once, then its parts one by one: that separates the one at fault.
        result: Result = tried(item, len(parts))
    except Lost as lost:
        if len(parts) > 1:
            return task.joined([tried_in_parts(task, part, tried) for part in parts])
        return task.lost(item, lost)
    return result


class _Worker:
    """The class of the Ray actors: holds functions by their numbers."""

    def __init__(self, torch_threads: int | None) -> None:
        if torch_threads is not None:
            import torch

            # The number may have been set at run time, so the environment variables alone do not suffice.
            torch.set_num_threads(torch_threads)
        self._functions: dict[int, Callable[[Any], Any]] = {}

    def hold(self, number: int, pickled: bytes, dropped: Sequence[int]) -> None:
        import ray

        for each in dropped:
            del self._functions[each]
        self._functions[number] = ray.cloudpickle.loads(pickled)

    def run(self, number: int, item: Any) -> Any:
        return self._functions[number](item)


@dataclass(frozen=True)
class Sent:
    """A function in Ray's object store. It is kept here too, as it is known by its identity."""

    number: int
    function: Callable[[Any], Any]
    payload: Any


@dataclass(eq=False)
class _Handle:
    """A worker as this process sees it: its actor, and the numbers of the functions it holds, the latest last."""

    actor: Any
    holds: list[int] = field(default_factory=list)

    def used(self, sent: Sent) -> None:
        """Note that the worker holds a function, and that it was used last."""
        self.holds = [*(number for number in self.holds if number != sent.number), sent.number]


class _Pool:
    """The map over Ray actors; a thread of this process waits for each of them."""

    def __init__(self, workers: Workers, timeout_s: float | None) -> None:
        self._workers, self._timeout_s = workers, timeout_s
        self._threads = ThreadPoolExecutor(workers.count, thread_name_prefix="nas-worker")
        # Workers that have no item at the moment, and all that exist.
        self._free: SimpleQueue[_Handle] = SimpleQueue()
        self._handles: set[_Handle] = set()
        self._changing, self._closing = threading.Lock(), False
        # What was sent, by the identity of the function; the latest last.
        self._sent: dict[int, Sent] = {}
        self._sending, self._numbers = threading.Lock(), count()
        # Ray is started with the first function, in a thread that lasts.
        self._keeper = ThreadPoolExecutor(1, thread_name_prefix="nas-keeper")
        self._session, self._started = ExitStack(), False
        self._failure: BaseException | None = None

    def __call__(self, function: Callable[[Item], Result], items: Iterable[Item], /) -> Iterator[Result]:
        task = function if isinstance(function, Task) else Task(function)
        return tried_in_order(self._threads, task, items, partial(self._tried, self._send(task.function)))

    def close(self) -> None:
        """Stop the workers, and Ray if this pool started it."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        # From here on no replacement is created, so that the list of workers is final.
        with self._changing:
            self._closing = True
        for handle in list(self._handles):
            self._end(handle)
        self._threads.shutdown(wait=True)
        # Another thread may be starting the workers, which fails now.
        with self._sending:
            self._sent.clear()
            self._session.close()
        self._keeper.shutdown()

    def _send(self, function: Callable[[Any], Any]) -> Sent:
        """The function in the object store, where its first use puts it; the very first one also starts the workers."""
        with self._sending:
            sent = self._sent.pop(id(function), None) or self._put(function, dumped(function))
            self._sent[id(function)] = sent
            for oldest in list(self._sent)[: -self._workers.functions]:
                del self._sent[oldest]
            return sent

    def _put(self, function: Callable[[Any], Any], pickled: bytes) -> Sent:
        if self._failure is not None:
            raise self._failure
        if self._started:
            return self._stored(function, pickled)
        try:
            sent = self._lasting(partial(self._start, function, pickled))
        except BaseException as error:
            self._failure = error
            raise
        self._started = True
        return sent

    def _lasting(self, start: Callable[[], Result]) -> Result:
        """Start Ray in a thread that lasts as long as the pool: on Linux its processes end with that thread."""
        if threading.current_thread() is threading.main_thread():
            return start()
        return self._keeper.submit(start).result()

    def _start(self, function: Callable[[Any], Any], pickled: bytes) -> Sent:
        import ray

        if self._closing:
            raise RuntimeError("the pool is closed")
        self._session.enter_context(ray_session(self._workers.count, self._workers.address, len(pickled)))
        sent = self._stored(function, pickled)
        handles = [self._new() for _ in range(self._workers.count)]
        try:
            self._load(handles, sent)
        except ray.exceptions.RayError as error:
            raise UserError(f"the workers cannot be started: {last_line(error)}") from error
        for handle in handles:
            self._free.put(handle)
        return sent

    def _stored(self, function: Callable[[Any], Any], pickled: bytes) -> Sent:
        import ray

        return Sent(next(self._numbers), function, ray.put(pickled))

    def _new(self) -> _Handle:
        import ray

        torch = sys.modules.get("torch")
        threads = None if torch is None else torch.get_num_threads()
        needs = {"num_cpus": 1, "num_gpus": self._workers.gpus, "runtime_env": environment(self._workers.address)}
        # No restarts by Ray: the pool replaces workers itself, and counts the attempts of each item.
        actor_class = ray.remote(_Worker).options(max_restarts=0, **needs)
        with self._changing:
            if self._closing:
                raise RuntimeError("the pool is closed")
            handle = _Handle(actor_class.remote(threads))
            self._handles.add(handle)
        return handle

    def _end(self, handle: _Handle) -> None:
        import ray

        self._handles.discard(handle)
        ray.kill(handle.actor, no_restart=True)

    def _load(self, handles: Sequence[_Handle], sent: Sent) -> None:
        """Have workers hold a function; raises UserError if they cannot load it, and RayError if they died."""
        import ray

        without = [handle for handle in handles if sent.number not in handle.holds]
        calls = []
        for handle in without:
            # Room for one more.
            dropped = handle.holds[: max(0, len(handle.holds) + 1 - self._workers.functions)]
            handle.holds = handle.holds[len(dropped) :]
            calls.append(handle.actor.hold.remote(sent.number, sent.payload, dropped))
        try:
            ray.get(calls, timeout=self._workers.start_s)
        except ray.exceptions.GetTimeoutError:
            raise self._workers.not_started() from None
        except ray.exceptions.RayTaskError as error:
            raise UserError(f"the workers cannot load what they are to run: {last_line(error)}") from error
        for handle in handles:
            handle.used(sent)

    def _tried(self, sent: Sent, item: Any, size: int) -> Any:
        """The result from the next free worker, or from one that replaces it; raises Lost."""
        handle = self._free.get()
        left = 1 if size > 1 else self._workers.retries + 1
        try:
            while True:
                try:
                    return self._request(handle, sent, item, size)
                except Lost as lost:
                    self._end(handle)
                    handle, left = self._replacement(sent), left - 1
                    # A worker may die through no fault of the item, but a slow item stays slow.
                    if lost.too_long or left == 0:
                        raise
        finally:
            self._free.put(handle)

    def _request(self, handle: _Handle, sent: Sent, item: Any, size: int) -> Any:
        """The result from one worker; raises Lost, or the exception of the function."""
        import ray

        seconds = self._timeout_s or 0.0
        limit = None if self._timeout_s is None else self._timeout_s * max(1, size)
        try:
            # Apart, because the time limit is that of the item.
            self._load([handle], sent)
            return ray.get(handle.actor.run.remote(sent.number, item), timeout=limit)
        except ray.exceptions.GetTimeoutError:
            raise Lost(f"took longer than {seconds:g} s", seconds, too_long=True) from None
        except ray.exceptions.RayTaskError as error:
            # The original exception, such as UserError, in place of Ray's wrapper.
            raise error.cause from error
        except ray.exceptions.RayError as error:
            raise self._workers.lost(seconds) from error

    def _replacement(self, sent: Sent) -> _Handle:
        import ray

        handle = self._new()
        try:
            self._load([handle], sent)
        except ray.exceptions.RayError as error:
            raise RuntimeError(f"a worker that died cannot be replaced: {last_line(error)}") from error
        return handle
