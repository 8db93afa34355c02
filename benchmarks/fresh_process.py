"""Runs an exported folder as a stranger would: by the lines of its card, without this project.

`exported_process.py` starts it in that folder, in Python's isolated mode. It reads a request, one line of JSON; loads
the network and answers "loaded". To the line "score" it answers how many rows are right; for every other line it times
one call, and answers with its milliseconds: of wall time, and of the processor's.
"""

import gc
import importlib.abc
import importlib.util
import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np

_PROJECT = ("nas", "search_spaces", "predictors", "hardware")
Arrays = dict[str, Any]


class _NoProject(importlib.abc.MetaPathFinder):
    """Finds nothing, and refuses the packages of this project."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] in _PROJECT:
            raise ModuleNotFoundError(f"{name} must not be needed")
        return None


def _loaded(request: Arrays) -> Callable[[Arrays], Any]:
    """What the lines define as `run`; a network of one's own is made by the function `build` of its file."""
    lines: Arrays = {}
    if request["build"] is not None:
        path, name = request["build"]
        spec = importlib.util.spec_from_file_location("own_networks", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        lines["build"] = getattr(module, name)
    exec(request["lines"], lines)
    run: Callable[[Arrays], Any] = lines["run"]
    return run


def _right(run: Callable[[Arrays], Any], request: Arrays) -> int:
    """How many rows the network classifies correctly, in the batches of the request."""
    labels, inputs = np.array(request["labels"]), _inputs(request)
    return sum(
        int((run(inputs(rows, length)).argmax(1) == labels[rows]).sum())
        for rows, length in zip(request["batches"], request["lengths"], strict=True)
    )


def _inputs(request: Arrays) -> Callable[[list[int], int], Arrays]:
    """Makes the inputs of a batch: tokenised here, by the exported tokenizer, or the given pixels."""
    if request["pixels"] is not None:
        with np.load(request["pixels"], allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return lambda rows, length: {name: value[rows] for name, value in arrays.items()}
    from transformers import AutoTokenizer

    tokenizer, texts = AutoTokenizer.from_pretrained("."), request["texts"]

    def tokenised(rows: list[int], length: int) -> Arrays:
        some = [texts[row] for row in rows]
        encoded = tokenizer(some, padding="max_length", truncation=True, max_length=length, return_tensors="np")
        return {name: encoded[name].astype(np.int64) for name in ("input_ids", "attention_mask")}

    return tokenised


def main() -> None:
    sys.meta_path.insert(0, _NoProject())
    request = json.loads(sys.stdin.readline())
    run = _loaded(request)
    print("loaded", flush=True)
    with np.load(request["example"], allow_pickle=False) as file:
        example = {name: file[name] for name in file.files}
    gc.disable()
    for line in sys.stdin:
        if line == "score\n":
            print(_right(run, request), flush=True)
            continue
        run(example)  # not timed: after waiting, the processor's caches hold something else
        began, cpu = time.perf_counter(), time.process_time()
        run(example)
        print(1e3 * (time.perf_counter() - began), 1e3 * (time.process_time() - cpu), flush=True)


if __name__ == "__main__":
    main()
