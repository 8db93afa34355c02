"""Run commands on damaged files: each case in a process of its own, forked from one that has everything imported.

A file that makes a library crash, wait or take all memory then ends nothing but its case. This module is also that
process: it reads cases from standard input, one JSON object a line, and answers each with one line.
"""

import gc
import json
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from importlib import import_module
from io import StringIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

import PIL.Image
from forked import LIBRARIES, known_operators, list_operators_once

_OURS = (
    *("nas.command.cli", "nas.command.demo", "nas.runs.evolve", "nas.runs.profile_kit", "nas.runs.prune"),
    *("nas.runs.readers", "nas.runs.refine", "search_spaces.supernets.storage"),
)
_LATE = (
    *("matplotlib.backends.backend_agg", "matplotlib.pyplot", "openvino", "pandas.io.formats.csvs", "PIL.features"),
    *("plotly.graph_objects", "plotly.offline", "plotly.tools", "sympy.combinatorics", "sympy.tensor.tensor"),
    *("torch._inductor.compiler_bisector", "torch._subclasses.schema_check_mode", "torch.profiler._cupti_monitor"),
    *("torch.export._patches", "torch.onnx._internal.exporter._compat"),
)
"""Modules of libraries that the commands import while they work, beside those that most processes need."""
_COMMANDS = ("evolve", "export", "finetune", "profile", "profile-result", "prune", "refine", "report", "search")
MOST_MIB, MOST_S = 1024, 60
_LONGEST_S = 10 * MOST_S
"""A command is killed after so long by the clock, which counts the time that other programs take too."""
_ROOM = 3 << 30
"""Virtual memory that a case may take beside what the process has: far more than what it may really use."""


class Outcome(NamedTuple):
    """How a command ended.

    Args:
        status: its exit status; negative for a signal.
        said: what it wrote to standard error.
        seconds: of a processor that it took.
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
    """What the commands import and keep, as the flags of each: a case then does nothing but its work."""
    from nas.command.cli import main

    for name in (*LIBRARIES, *_LATE, *_OURS):
        import_module(name)
    list_operators_once()
    known_operators()
    PIL.Image.init()
    with redirect_stderr(StringIO()):
        for name in _COMMANDS:
            main([name, "--flag-of-nobody"])


def _case(command: list[str]) -> Outcome:
    with TemporaryFile() as said, TemporaryFile() as told:
        child = os.fork()
        if child == 0:
            _run(command, said.fileno(), told.fileno())
        status, seconds = _waited_for(child)
        said.seek(0)
        told.seek(0)
        words, mib = said.read(1 << 20).decode("utf-8", "replace"), told.read()
    return Outcome(status, words[-8000:], seconds, float(mib or 0))


def _waited_for(child: int) -> tuple[int, float]:
    """The exit status of a child and the seconds of a processor that it took; it is killed where it does not end."""
    descriptor = os.pidfd_open(child)
    ended, _, _ = select.select([descriptor], [], [], _LONGEST_S)
    os.close(descriptor)
    if not ended:
        os.kill(child, signal.SIGKILL)
    _, how, used = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(how), used.ru_utime + used.ru_stime


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
