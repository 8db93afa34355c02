"""Loads files in a process without this project, classifies rows and times calls beside a second network's files.

`simq_files.py` starts it in Python's isolated mode, and sends a request as one line of JSON: for `own`, and for
`reference` where calls are timed, a folder and the lines of Python that define `run` there; the file of the rows in
batches, and the file of the input to time. The answer is one line of JSON: the class of every row, and milliseconds of
processor time.
"""

import gc
import importlib.abc
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np

_PROJECT = ("nas", "search_spaces", "predictors", "hardware")
_WARMUP = 10
Arrays = dict[str, Any]
Run = Callable[[Arrays], Any]


class _NoProject(importlib.abc.MetaPathFinder):
    """Finds nothing, and refuses the packages of this project."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] in _PROJECT:
            raise ModuleNotFoundError(f"{name} must not be needed")
        return None


def _loaded(part: Arrays) -> Run:
    os.chdir(part["folder"])
    lines: Arrays = {}
    exec(part["lines"], lines)
    run: Run = lines["run"]
    return run


def _classes(run: Run, path: str) -> list[int]:
    """The class of each row; the file has arrays `<batch>/<input>`, and in `<batch>/rows` the numbers of the rows."""
    found: dict[int, int] = {}
    with np.load(path, allow_pickle=False) as file:
        batches: dict[str, Arrays] = {}
        for name in file.files:
            batch, _, field = name.partition("/")
            batches.setdefault(batch, {})[field] = file[name]
    for batch in batches.values():
        rows = batch.pop("rows")
        found |= dict(zip(rows.tolist(), run(batch).argmax(1).tolist(), strict=True))
    return [found[row] for row in range(len(found))]


def _in_turns(runs: Sequence[Run], path: str, rounds: int) -> list[list[float]]:
    """Milliseconds of processor time of each network, round by round; they take turns in being first."""
    with np.load(path, allow_pickle=False) as file:
        example = {name: file[name] for name in file.files}
    times: list[list[float]] = [[] for _ in runs]
    gc.disable()
    for turn in range(-_WARMUP, rounds):
        for which in sorted(range(len(runs)), reverse=turn % 2 == 0):
            began = time.process_time()
            runs[which](example)
            if turn >= 0:
                times[which].append(1e3 * (time.process_time() - began))
    return times


def main() -> None:
    sys.meta_path.insert(0, _NoProject())
    request = json.loads(sys.stdin.readline())
    own = _loaded(request["own"])
    answer: Arrays = {"classes": _classes(own, request["rows"])}
    if request["reference"] is not None:
        both = [own, _loaded(request["reference"])]
        answer["own_ms"], answer["reference_ms"] = _in_turns(both, request["example"], request["rounds"])
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
