"""The session of Ray that workers live in: how it starts, ends and keeps quiet."""

import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from hardware.machine import usable_cores
from nas.errors import UserError
from nas.ray_address import check_answers

# Bytes of the object store, somewhat above the minimum that Ray accepts.
_LEAST_STORE = 100 * 2**20
# Ray's sockets lie this deep below its folder, and a socket's path holds so many bytes.
_BELOW = len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
_MOST_BYTES = 103 if sys.platform == "darwin" else 107
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def dumped(function: Callable[[Any], Any]) -> bytes:
    """A function as bytes for workers; UserError if it cannot be pickled."""
    import ray

    try:
        pickled: bytes = ray.cloudpickle.dumps(function)
    except Exception as error:  # objects of the user may raise anything when they are pickled
        raise UserError(
            f"what workers run must be sent to them, and it cannot be pickled: {error}; keep open files, locks and "
            "generators out of it, or measure without workers"
        ) from error
    return pickled


def last_line(error: BaseException) -> str:
    """What an error says at its end, where Ray repeats the error of a worker."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]


@contextmanager
def ray_session(count: int, address: str | None, payload_bytes: int) -> Iterator[None]:
    """Connect to Ray: to the session of the user if there is one, otherwise to a new one that ends with the context.

    Messages of Ray go to standard error, since standard output may carry the JSON of a command. On Linux the processes
    of a new session end with the thread that enters the context.

    Args:
        count: number of workers.
        address: of a cluster; None: this machine.
        payload_bytes: size of what is put into the object store.
    """
    import ray

    with _ray_on_stderr():
        if ray.is_initialized():
            yield
            return
        with _short_folder(address) as folder:
            _connect(count, address, payload_bytes, folder)
            try:
                yield
            finally:
                ray.shutdown()


@contextmanager
def _short_folder(address: str | None) -> Iterator[dict[str, str]]:
    """The argument that names the folder of a new session, where that of this machine has too long a path."""
    usual = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", "ray")
    if address is not None or len(os.fsencode(usual)) + _BELOW <= _MOST_BYTES:
        yield {}
        return
    short = next((each for each in _SHORT_FOLDERS if os.access(each, os.W_OK | os.X_OK)), None)
    if short is None:
        most = _MOST_BYTES - _BELOW - len("/ray")
        raise UserError(
            f"workers need a folder for sockets of at most {most} bytes, TMPDIR has {len(os.fsencode(usual.parent))}; "
            "set TMPDIR to a shorter one"
        )
    made = tempfile.mkdtemp(prefix="nas-", dir=short)
    try:
        yield {"_temp_dir": made}
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _connect(count: int, address: str | None, payload_bytes: int, folder: dict[str, str]) -> None:
    """Start Ray on this machine, or join a cluster."""
    import ray

    # No usage statistics over the network; and workers without a GPU keep the variables that name visible GPUs, which
    # later versions of Ray do by default and this one warns about.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if address is not None:
        check_answers(address)
    try:
        ray.init(**_settings(count, address, payload_bytes), **folder)
    except Exception as error:  # Ray raises plain exceptions here
        ray.shutdown()
        if address is not None:
            remedy = "look whether it runs, with the Ray and Python of this machine"
            raise UserError(f"no Ray cluster answers at {address} ({last_line(error)}); {remedy}") from error
        remedy = "repeat the command when this machine is less busy, or measure with one worker"
        raise UserError(f"Ray cannot be started here ({last_line(error)}); {remedy}") from error


def _settings(count: int, address: str | None, payload_bytes: int) -> dict[str, Any]:
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "runtime_env": environment(address)}
    if address is not None:
        return {"address": address, **quiet}
    return {
        "address": "local",
        "num_cpus": count,
        "include_dashboard": False,
        # The store holds the evaluation function; the default of Ray is 30 % of all memory.
        "object_store_memory": max(_LEAST_STORE, 2 * payload_bytes),
        **quiet,
    }


def environment(address: str | None) -> dict[str, Any]:
    """The environment of workers: as many threads as this process and, on this machine, its module path."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(usable_cores())
    variables = {name: os.environ.get(name, threads) for name in _THREADS}
    if address is None:
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
