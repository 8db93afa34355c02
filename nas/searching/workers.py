"""Evaluate candidates in several processes: a `Map` over Ray actors, local or on a cluster (the only home of ray).

Every worker receives the evaluation function once, through Ray's object store, and keeps it. Chunks go to any free
worker; results are returned in the order of the chunks. A worker that dies (killed, or out of memory) is replaced and
its chunk evaluated again, a limited number of times, after which the candidate is marked as failed. A candidate that
exceeds the time limit fails too, and its worker is replaced. None of this changes what the search proposes, which
depends only on its `lag`.

One worker without a time limit is this process, through the built-in `map`. A time limit always needs a worker, because
only a process can be stopped safely: an alarm signal in this process would raise an exception at any instruction, even
in a library that holds a lock or catches all exceptions, and would not interrupt a call into C code.

Workers use as many threads as this process, so that floating-point sums are identical, and the same module path. They
run with the user's permissions: Ray sends them pickled functions, within a cluster that the user controls.
"""

import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO

from hardware.machine import usable_cores
from nas.errors import UserError
from nas.searching.evaluation import Map
from nas.searching.measurement import Measurement
from search_spaces.space import Candidate

MeasureChunk = Callable[[list[Candidate]], list[Measurement]]

# Bytes of the object store, somewhat above the minimum that Ray accepts.
_LEAST_STORE = 100 * 2**20
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Workers:
    """Where candidates are evaluated.

    Args:
        count: number of workers, which are separate processes if there is more than one.
        ray: use a separate process even for a single worker.
        address: address of a Ray cluster, `host:port` or `auto`, on whose machines this project is installed; None uses
            this machine.
        gpus: fraction of a GPU that each worker occupies.
        retries: how often a chunk is evaluated again after its worker died.
        start_s: time limit for the start of the workers, in seconds.

    Raises:
        UserError: a count below 1, or another number below 0.
    """

    count: int = 1
    ray: bool = False
    address: str | None = None
    gpus: float = 0.0
    retries: int = 2
    start_s: float = 300.0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"workers must be at least 1, got {self.count}")
        for name in ("gpus", "retries", "start_s"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} of the workers must not be negative, got {getattr(self, name)}")


@contextmanager
def mapped(workers: int | Workers, timeout_s: float | None) -> Iterator[Map]:
    """A `Map` over workers, which start with the first chunk and stop at the end of the context.

    Args:
        workers: number of workers, or their settings.
        timeout_s: time limit of one candidate in seconds; None: no limit. A chunk of n candidates may take n times as
            long; if it takes longer, its candidates are evaluated one by one to find the slow ones.

    Raises:
        UserError: settings out of range; in later calls, if the workers cannot be started.
    """
    chosen = Workers(workers) if isinstance(workers, int) else workers
    if timeout_s is not None and not timeout_s > 0:
        raise UserError(f"timeout_s must be above 0, got {timeout_s}")
    if chosen.count == 1 and not chosen.ray and chosen.address is None and timeout_s is None:
        yield map
        return
    pool = _Pool(chosen, timeout_s)
    try:
        yield pool
    finally:
        pool.close()


class _Died(Exception):
    """A worker died, or was stopped because it exceeded the time limit."""

    def __init__(self, reason: str, too_long: bool = False) -> None:
        super().__init__(reason)
        self.too_long = too_long


class _Measurer:
    """The class of the Ray actors: holds the function that evaluates chunks."""

    def __init__(self, pickled: bytes, torch_threads: int | None) -> None:
        import ray

        if torch_threads is not None:
            import torch

            # The number may have been set at run time, so the environment variables alone do not suffice.
            torch.set_num_threads(torch_threads)
        self._function: MeasureChunk = ray.cloudpickle.loads(pickled)

    def ready(self) -> bool:
        return True

    def measure(self, chunk: list[Candidate]) -> list[Measurement]:
        return self._function(chunk)


class _Pool:
    """The `Map` over Ray actors; a thread of this process waits for each of them."""

    def __init__(self, workers: Workers, timeout_s: float | None) -> None:
        self._workers, self._timeout_s = workers, timeout_s
        self._function: MeasureChunk | None = None
        self._threads = ThreadPoolExecutor(workers.count, thread_name_prefix="nas-worker")
        # Actors that have no chunk at the moment, and all actors that exist.
        self._free: SimpleQueue[Any] = SimpleQueue()
        self._actors: set[Any] = set()
        self._lock = threading.Lock()
        self._closing = False
        self._session: Any = None

    def __call__(self, function: MeasureChunk, chunks: Iterable[list[Candidate]], /) -> Iterator[list[Measurement]]:
        if self._function is None:
            self._start(function)
        assert self._function is function, "all chunks of a pool are evaluated by the same function"
        results = [self._threads.submit(self._measure_chunk, chunk) for chunk in chunks]
        return (result.result() for result in results)

    def close(self) -> None:
        """Stop the workers, and Ray if this pool started it."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        # From here on no replacement is created, so that the list of actors is final.
        with self._lock:
            self._closing = True
        for actor in list(self._actors):
            self._end(actor)
        self._threads.shutdown(wait=True)
        if self._session is not None:
            self._session.__exit__(None, None, None)

    def _start(self, function: MeasureChunk) -> None:
        import ray

        self._function = function
        pickled = _pickled(function)
        session = _session(self._workers, len(pickled))
        session.__enter__()
        self._session = session
        self._payload = ray.put(pickled)
        actors = [self._new() for _ in range(self._workers.count)]
        try:
            ray.get([actor.ready.remote() for actor in actors], timeout=self._workers.start_s)
        except ray.exceptions.GetTimeoutError:
            raise UserError(
                f"{self._workers.count} workers must start within {self._workers.start_s:g} s, they did not; "
                "ask for fewer, or look whether the cluster has free processors"
            ) from None
        except ray.exceptions.RayError as error:
            raise UserError(f"the workers cannot be started: {_last_line(error)}") from error
        for actor in actors:
            self._free.put(actor)

    def _new(self) -> Any:
        import ray

        torch = sys.modules.get("torch")
        threads = None if torch is None else torch.get_num_threads()
        needs = {"num_cpus": 1, "num_gpus": self._workers.gpus, "runtime_env": _environment(self._workers)}
        # No restarts by Ray: the pool replaces workers itself, and counts the attempts of each chunk.
        actor_class = ray.remote(_Measurer).options(max_restarts=0, **needs)
        with self._lock:
            if self._closing:
                raise RuntimeError("the search has ended")
            actor = actor_class.remote(self._payload, threads)
            self._actors.add(actor)
        return actor

    def _end(self, actor: Any) -> None:
        import ray

        self._actors.discard(actor)
        ray.kill(actor, no_restart=True)

    def _measure_chunk(self, chunk: list[Candidate]) -> list[Measurement]:
        """Evaluate a chunk in the next free worker; runs in a thread of the pool."""
        actor = self._free.get()
        try:
            # A chunk of several is tried once, then its candidates one by one: that separates the one at fault.
            for _ in range(1 if len(chunk) > 1 else self._workers.retries + 1):
                try:
                    return self._request(actor, chunk)
                except _Died as death:
                    self._end(actor)
                    actor, reason = self._replacement(), str(death)
                    # A worker may die through no fault of the candidate, but a slow candidate stays slow.
                    if death.too_long:
                        break
        finally:
            self._free.put(actor)
        if len(chunk) > 1:
            return [result for candidate in chunk for result in self._measure_chunk([candidate])]
        return [Measurement(chunk[0], {}, "failed", reason, self._timeout_s or 0.0)]

    def _request(self, actor: Any, chunk: list[Candidate]) -> list[Measurement]:
        """Evaluate a chunk in one worker; raises _Died, or the exception of the evaluation, see `measure`."""
        import ray

        limit = None if self._timeout_s is None else self._timeout_s * len(chunk)
        try:
            results: list[Measurement] = ray.get(actor.measure.remote(chunk), timeout=limit)
        except ray.exceptions.GetTimeoutError:
            raise _Died(f"took longer than {self._timeout_s:g} s", too_long=True) from None
        except ray.exceptions.RayTaskError as error:
            # The original exception, such as UserError, in place of Ray's wrapper.
            raise error.cause from error
        except ray.exceptions.RayError as error:
            times = self._workers.retries + 1
            raise _Died(f"its worker died, killed or out of memory, each of {times} times") from error
        return results

    def _replacement(self) -> Any:
        import ray

        actor = self._new()
        try:
            ray.get(actor.ready.remote(), timeout=self._workers.start_s)
        except ray.exceptions.RayError as error:
            raise RuntimeError(f"a worker that died cannot be replaced: {_last_line(error)}") from error
        return actor


def _pickled(function: MeasureChunk) -> bytes:
    import ray

    try:
        pickled: bytes = ray.cloudpickle.dumps(function)
    except Exception as error:  # objects of the user may raise anything when they are pickled
        raise UserError(
            f"evaluate must be sent to the workers, and it cannot be pickled: {error}; keep open files, locks and "
            "generators out of it, or measure without workers"
        ) from error
    return pickled


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]


@contextmanager
def _session(workers: Workers, payload_bytes: int) -> Iterator[None]:
    """Connect to Ray: to the session of the user if there is one, otherwise to a new one that ends with the context.

    Messages of Ray go to standard error, since standard output may carry the JSON of a command.
    """
    import ray

    with _ray_on_stderr():
        if ray.is_initialized():
            yield
            return
        _connect(workers, payload_bytes)
        try:
            yield
        finally:
            ray.shutdown()


def _connect(workers: Workers, payload_bytes: int) -> None:
    """Start Ray on this machine, or join a cluster."""
    import ray

    # No usage statistics over the network; and workers without a GPU keep the variables that name visible GPUs, which
    # later versions of Ray do by default and this one warns about.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init(**_settings(workers, payload_bytes))
    except Exception as error:  # Ray raises plain exceptions here
        ray.shutdown()
        if workers.address is not None:
            remedy = "look whether it runs, with the Ray and Python of this machine"
            raise UserError(f"no Ray cluster answers at {workers.address} ({_last_line(error)}); {remedy}") from error
        remedy = "repeat the command when this machine is less busy, or measure with one worker"
        raise UserError(f"Ray cannot be started here ({_last_line(error)}); {remedy}") from error


def _settings(workers: Workers, payload_bytes: int) -> dict[str, Any]:
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": _environment(workers)}
    if workers.address is not None:
        return {"address": workers.address, **quiet}
    return {
        "address": "local",
        "num_cpus": workers.count,
        "include_dashboard": False,
        # The store holds the evaluation function; the default of Ray is 30 % of all memory.
        "object_store_memory": max(_LEAST_STORE, 2 * payload_bytes),
        **quiet,
    }


def _environment(workers: Workers) -> dict[str, Any]:
    """The environment of workers: as many threads as this process and, on this machine, its module path."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(usable_cores())
    variables = {name: os.environ.get(name, threads) for name in _THREADS}
    if workers.address is None:
        # The current folder comes last: it may contain the user's own functions.
        folders = [*(path for path in sys.path if path), "."]
        variables["PYTHONPATH"] = os.pathsep.join(str(Path(path).absolute()) for path in folders)
    return {"env_vars": variables}


class _ThreadsApart:
    """Standard output, except that Ray's own threads are redirected to standard error.

    Ray prints warnings and the output of workers from these threads; other threads must not be redirected.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def __getattr__(self, name: str) -> Any:
        ours = not re.match("ray_", threading.current_thread().name)
        return getattr(self._out if ours else sys.stderr, name)


@contextmanager
def _ray_on_stderr() -> Iterator[None]:
    before, apart = sys.stdout, _ThreadsApart(sys.stdout)
    sys.stdout = apart
    try:
        yield
    finally:
        if sys.stdout is apart:
            sys.stdout = before
