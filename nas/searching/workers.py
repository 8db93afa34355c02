"""Measuring in several processes: a `Map` over Ray actors, on this machine or on a cluster (only home of ray).

Every worker gets the evaluation once, from the object store, and keeps it; chunks go to whichever worker is free, and
results come back in the order of the chunks. A worker that dies (killed, out of memory) is replaced and its chunk is
measured again, a few times at most; then that candidate has failed. So does one that takes too long: its worker is
ended and replaced. Nothing of this changes what is proposed: that is a matter of the search's `lag`.

One worker without a time-out is this process, by the built-in `map`. A time-out always needs a worker, because only a
process can be ended soundly: an alarm in this one would be raised between any two instructions, also inside a library
that holds a lock or catches everything, and not at all during a call into C.

Workers run with as many threads as this process, so that sums of floats are the same, and look for modules where this
process does. They run with its rights: evaluations are sent to them pickled, by Ray, in a cluster of the user's own.
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

Function = Callable[[list[Candidate]], list[Measurement]]

_LEAST_STORE = 100 * 2**20
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Workers:
    """Where candidates are measured.

    Args:
        count: how many at a time; each is a process of its own where there is more than one.
        ray: a process of its own for a single worker too.
        address: of a Ray cluster, `host:port` or `auto`, on whose machines this project is installed; None: this one.
        gpus: share of a GPU that each worker takes.
        retries: how often a chunk is measured again whose worker died.
        start_s: how long workers may take to start, in seconds.

    Raises:
        UserError: a count below 1, a negative number elsewhere.
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
    """A `Map` over the workers, started when the first chunk comes and ended with the context.

    Args:
        workers: a number, or more precisely.
        timeout_s: seconds that one candidate may take in a worker; a chunk of n may take n times as long, and is then
            measured one by one. None: any time.

    Raises:
        UserError: settings out of range; later, where the workers cannot be started.
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
    """A worker died, or had to be ended because it took too long."""

    def __init__(self, reason: str, too_long: bool = False) -> None:
        super().__init__(reason)
        self.too_long = too_long


class _Measurer:
    """What an actor holds: the function that measures chunks."""

    def __init__(self, pickled: bytes, torch_threads: int | None) -> None:
        import ray

        if torch_threads is not None:
            import torch

            torch.set_num_threads(torch_threads)
        self._function: Function = ray.cloudpickle.loads(pickled)

    def ready(self) -> bool:
        return True

    def measure(self, chunk: list[Candidate]) -> list[Measurement]:
        return self._function(chunk)


class _Pool:
    """The `Map` over Ray actors: one thread waits for each of them."""

    def __init__(self, workers: Workers, timeout_s: float | None) -> None:
        self._workers, self._timeout_s = workers, timeout_s
        self._function: Function | None = None
        self._threads = ThreadPoolExecutor(workers.count, thread_name_prefix="nas-worker")
        self._free: SimpleQueue[Any] = SimpleQueue()
        self._actors: set[Any] = set()
        self._lock = threading.Lock()
        self._closing = False
        self._session: Any = None

    def __call__(self, function: Function, chunks: Iterable[list[Candidate]], /) -> Iterator[list[Measurement]]:
        if self._function is None:
            self._start(function)
        assert self._function is function, "the workers hold one function"
        results = [self._threads.submit(self._measured, chunk) for chunk in chunks]
        return (result.result() for result in results)

    def close(self) -> None:
        """End the workers, and Ray where it was started here."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._closing = True
        for actor in list(self._actors):
            self._end(actor)
        self._threads.shutdown(wait=True)
        if self._session is not None:
            self._session.__exit__(None, None, None)

    def _start(self, function: Function) -> None:
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
        kind = ray.remote(_Measurer).options(max_restarts=0, **needs)
        with self._lock:
            if self._closing:
                raise RuntimeError("the search has ended")
            actor = kind.remote(self._payload, threads)
            self._actors.add(actor)
        return actor

    def _end(self, actor: Any) -> None:
        import ray

        self._actors.discard(actor)
        ray.kill(actor, no_restart=True)

    def _measured(self, chunk: list[Candidate]) -> list[Measurement]:
        """The chunk's results from a free worker; runs in a thread."""
        actor = self._free.get()
        try:
            for _ in range(1 if len(chunk) > 1 else self._workers.retries + 1):
                try:
                    return self._asked(actor, chunk)
                except _Died as death:
                    self._end(actor)
                    actor, reason = self._replacement(), str(death)
                    if death.too_long:
                        break
        finally:
            self._free.put(actor)
        if len(chunk) > 1:
            return [result for candidate in chunk for result in self._measured([candidate])]
        return [Measurement(chunk[0], {}, "failed", reason, self._timeout_s or 0.0)]

    def _asked(self, actor: Any, chunk: list[Candidate]) -> list[Measurement]:
        """The chunk's results; raises _Died, or what the evaluation raised that is not a candidate's fault."""
        import ray

        limit = None if self._timeout_s is None else self._timeout_s * len(chunk)
        try:
            results: list[Measurement] = ray.get(actor.measure.remote(chunk), timeout=limit)
        except ray.exceptions.GetTimeoutError:
            raise _Died(f"took longer than {self._timeout_s:g} s", too_long=True) from None
        except ray.exceptions.RayTaskError as error:
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


def _pickled(function: Function) -> bytes:
    import ray

    try:
        pickled: bytes = ray.cloudpickle.dumps(function)
    except Exception as error:  # whatever an object of the user's raises when it is pickled
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
    """Ray, connected: the user's own session, or one that ends with the context; it prints on standard error alone."""
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
        "object_store_memory": max(_LEAST_STORE, 2 * payload_bytes),
        **quiet,
    }


def _environment(workers: Workers) -> dict[str, Any]:
    """As many threads as here; on this machine, modules from where this process has them."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(usable_cores())
    variables = {name: os.environ.get(name, threads) for name in _THREADS}
    if workers.address is None:
        # The current folder last: a function of the user's own may be there.
        places = [*(path for path in sys.path if path), "."]
        variables["PYTHONPATH"] = os.pathsep.join(str(Path(path).absolute()) for path in places)
    return {"env_vars": variables}


class _ThreadsApart:
    """Standard output, but for what Ray's own threads write: that goes to standard error."""

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
