"""Drives `fresh_process.py` and `project_process.py`, reads a card, and sees which files of a folder are opened."""

import ctypes
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from nas.data.split import Split

_FRESH_PROGRAM = Path(__file__).with_name("fresh_process.py")
_PROJECT_PROGRAM = Path(__file__).with_name("project_process.py")
_OPENED, _IS_FOLDER = 0x20, 0x40000000
_EVENT = struct.Struct("iIII")


@dataclass(frozen=True)
class Stated:
    """What a card says of the network that it belongs to.

    Args:
        lines: Python that defines `run(inputs)` for the deployment that the figures are of.
        right: test rows that are classified correctly.
        rows: test rows.
        size_bytes: of the files that the runtime loads.
    """

    lines: str
    right: int
    rows: int
    size_bytes: int


def read_card(text: str) -> Stated:
    """Read the card as its reader would: by headings, and of a table the last column, which is of this network."""
    right, rows = re.findall(r"^\| test_accuracy .*\(([\d,]+) of ([\d,]+)\) \|$", text, re.MULTILINE)[0]
    (size,) = re.findall(r"^\| size_mib .*\(([\d,]+) bytes\) \|$", text, re.MULTILINE)
    parts = {part.partition("\n")[0]: part for part in text.split("\n## ")[1:]}
    own = [part for heading, part in parts.items() if heading.startswith("Load it as it was measured")]
    blocks = re.findall(r"^```python\n(.*?)^```", (own or [parts["Load it with PyTorch"]])[0], re.MULTILINE | re.DOTALL)
    # In PyTorch the first defines `load`, and a later one `run`, which calls it.
    lines = blocks[0] if own else blocks[0] + "\n\n" + next(block for block in blocks if "def run(" in block)
    return Stated(lines, *(int(number.replace(",", "")) for number in (right, rows, size)))


class TimedProcess:
    """A process that loads a network and then times one call whenever it is told to.

    Args:
        command: starts it.
        folder: where it runs.
    """

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def call_ms(self) -> tuple[float, float]:
        """Time one call there: milliseconds of wall time, and of the processor's."""
        self.say("go")
        wall, cpu = self.heard().split()
        return float(wall), float(cpu)

    def pin(self) -> None:
        """Keep all its threads on one core, always the same: two cores are rarely busy alike (Linux)."""
        core = max(os.sched_getaffinity(0))
        for thread in Path(f"/proc/{self._process.pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {core})

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def say(self, line: str) -> None:
        """Send one line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def heard(self) -> str:
        """Wait for one line; RuntimeError when the process ends instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process ended with status {self._process.wait()}; its reason is above")
        return line.strip()


class ProjectProcess(TimedProcess):
    """The files of an export, loaded by this project.

    Args:
        exported: the exported folder.
        run: the run that it is of.
        search: name of the search whose deployment the files are for.
        model: `module:factory` of a network of the user's own.
    """

    def __init__(self, exported: Path, run: Path, search: str, model: str | None) -> None:
        super().__init__([sys.executable, str(_PROJECT_PROGRAM)], exported)
        self.say(json.dumps({"exported": str(exported), "run": str(run), "search": search, "model": model}))
        assert self.heard() == "loaded"


class FreshProcess(TimedProcess):
    """An exported folder in a process that cannot import this project.

    Args:
        stated: what its card says.
        exported: the exported folder.
        rows: to score, in the batches in which this project scores them.
        example: the input to time, by name.
        scratch: a folder for the arrays that are sent.
        build: file and function that make the full network, for one of the user's own.
    """

    def __init__(
        self,
        stated: Stated,
        exported: Path,
        rows: Split,
        example: Mapping[str, Tensor],
        scratch: Path,
        build: tuple[str, str] | None,
    ) -> None:
        super().__init__([sys.executable, "-I", str(_FRESH_PROGRAM)], exported)
        arrays: dict[str, Any] = {name: value.numpy() for name, value in example.items()}
        np.savez(scratch / "example.npz", **arrays)
        request = {"lines": stated.lines, "build": build, "example": str(scratch / "example.npz")}
        with _opened(exported) as opened:
            self.say(json.dumps(request | _rows(rows, scratch)))
            assert self.heard() == "loaded"
            names = opened()
        self.size_bytes = sum((exported / name).stat().st_size for name in names)
        """Of the files in the folder that were opened to load the network."""

    def right(self) -> int:
        """Score the rows there: how many it classifies correctly."""
        self.say("score")
        return int(self.heard())


def _rows(split: Split, scratch: Path) -> dict[str, Any]:
    """Texts as they are, images as this project preprocesses them; and in which batches the rows are scored."""
    batches = split.batches(64)
    sent: dict[str, Any] = {
        "labels": split.labels.tolist(),
        "batches": [rows.tolist() for rows in batches],
        "lengths": [int(split.inputs.lengths[rows].max()) for rows in batches],
        "texts": None,
        "pixels": None,
    }
    if isinstance(split.rows[0], str):
        return {**sent, "texts": list(split.rows)}
    path = scratch / "pixels.npz"
    arrays: dict[str, Any] = {name: value.numpy() for name, value in split.batch(range(len(split))).items()}
    np.savez(path, **arrays)
    return {**sent, "pixels": str(path)}


@contextmanager
def _opened(folder: Path) -> Iterator[Any]:
    """Gives a function that tells the files in a folder, or one below, that any process has opened since (Linux)."""
    library = ctypes.CDLL(None, use_errno=True)
    notices = library.inotify_init1(os.O_NONBLOCK)
    folders = [folder, *(each for each in folder.iterdir() if each.is_dir())]
    watched = {library.inotify_add_watch(notices, os.fsencode(each), _OPENED): each for each in folders}

    def names() -> set[str]:
        found, position, told = set(), 0, os.read(notices, 2**20)
        while position < len(told):
            which, kind, _, length = _EVENT.unpack_from(told, position)
            position += _EVENT.size + length
            if not kind & _IS_FOLDER:
                name = told[position - length : position].rstrip(b"\0").decode()
                found.add((watched[which] / name).relative_to(folder).as_posix())
        return found

    try:
        yield names
    finally:
        os.close(notices)
