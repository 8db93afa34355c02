"""Run commands on damaged files: each case in a process of its own, forked from one that has everything imported.

A file that makes a library crash, wait or take all memory then ends nothing but its case. This module is also that
process: it reads cases from standard input, one JSON object a line, and answers each with one line.
"""

import gc
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

from forked import LIBRARIES

_OURS = (
    *("nas.command.cli", "nas.command.demo", "nas.runs.evolve", "nas.runs.profile_kit", "nas.runs.prune"),
    *("nas.runs.readers", "nas.runs.refine"),
)
MOST_MIB, MOST_S = 1024, 60
_ROOM = 3 << 30
"""Virtual memory that a case may take beside what the process has: far more than what it may really use."""


class Outcome(NamedTuple):
    """How a command ended.

    Args:
        status: its exit status; negative for a signal.
        said: what it wrote to standard error.
        seconds: that it took.
        mib: memory that it took beside what the process had.
    """

    status: int
    said: str
    seconds: float
    mib: float

    def trouble(self) -> str:
        """What is wrong with it; empty for nothing."""
        if self.status not in (0, 2, 3):
            return f"status {self.status} after {self.seconds:.1f} s: {self.said[-600:]}"
        if "Traceback" in self.said:
            return f"a traceback: {self.said[-1500:]}"
        if self.mib > MOST_MIB:
            return f"{self.mib:.0f} MiB"
        return f"{self.seconds:.0f} s" if self.seconds > MOST_S else ""


class Cases:
    """The process that cases are forked from."""

    def __init__(self, *folders: Path) -> None:
        path = os.pathsep.join([*map(str, folders), *filter(None, sys.path)])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def outcome(self, command: Sequence[object]) -> Outcome:
        """Run a command in a new process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(word) for word in command]) + "\n")
        self._process.stdin.flush()
        return Outcome(*json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        self._process.communicate("")


def _serve() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _import_all()
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        answers.write(json.dumps(_case(json.loads(line))) + "\n")
        answers.flush()


def _import_all() -> None:
    for name in (*LIBRARIES, "matplotlib.pyplot", "openvino", "plotly.graph_objects", *_OURS):
        import_module(name)


def _case(command: list[str]) -> Outcome:
    with TemporaryFile() as said, TemporaryFile() as told:
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            _run(command, said.fileno(), told.fileno())
        status = _waited_for(child)
        seconds = time.monotonic() - began
        said.seek(0)
        told.seek(0)
        words, mib = said.read(1 << 20).decode("utf-8", "replace"), told.read()
    return Outcome(status, words[-8000:], seconds, float(mib or 0))


def _waited_for(child: int) -> int:
    """The exit status of a child, which is killed where it takes too long."""
    end = time.monotonic() + MOST_S
    while True:
        ended, how = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(how)
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)


def _run(command: list[str], said: int, told: int) -> None:
    """What the child does; it never returns."""
    from nas.command.cli import main

    os.dup2(said, 1)
    os.dup2(said, 2)
    size = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + _ROOM, size + _ROOM))
    # The peak of a child begins at what its parent had.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _peak()
    try:
        status = main(command)
    except BaseException as error:
        os.write(2, f"Traceback: {error!r}".encode())
        status = 1
    os.write(told, str(_peak() - before).encode())
    os._exit(status)


def _peak() -> float:
    """Peak of the resident memory in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


@contextmanager
def cases(*folders: Path) -> Iterator[Cases]:
    """The process, which ends with the context."""
    made = Cases(*folders)
    try:
        yield made
    finally:
        made.close()


if __name__ == "__main__":
    _serve()
