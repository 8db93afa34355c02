"""Shared parts of the benchmark programs: command-line flags, resumable stages, and the report of the figures."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hardware.machine import processor
from nas.command.doctor import diagnose
from nas.files import write_json_atomic

_LIBRARIES = ("torch", "transformers", "optuna", "scikit-learn", "onnxruntime", "numpy")
Figures = dict[str, float]


def _versions() -> dict[str, str]:
    return {name: version(name) for name in _LIBRARIES}


@cache
def _here() -> dict[str, str]:
    """What may change the result of a stage from one machine or day to the next."""
    return {"processor": processor()[0], **_versions()}


def parser(description: str) -> argparse.ArgumentParser:
    """The command-line flags that all benchmark programs have."""
    flags = argparse.ArgumentParser(description=description)
    flags.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    flags.add_argument("--out", type=Path, help="keep every stage in this folder, and go on from it")
    flags.add_argument("--full", action="store_true", help="the larger form, for a machine with a GPU")
    return flags


@dataclass
class Harness:
    """Runs stages, stores their results in the folder `--out`, and reports figures beside their targets."""

    options: argparse.Namespace
    began: float = field(default_factory=time.monotonic)
    before: float = 0.0
    done: dict[str, Any] = field(default_factory=dict)

    def stage(self, name: str, compute: Callable[[], Mapping[str, Any]], **settings: float | str) -> dict[str, Any]:
        """Run a stage, or return its stored result if it was run before with the same settings.

        Args:
            name: name of the stage and of its file.
            compute: returns the result as JSON values.
            settings: everything that the result depends on.
        """
        known = json.dumps([name, settings])
        if known not in self.done:
            self.done[known] = self._kept_or_computed(name, compute, settings)
        return dict(self.done[known])

    def _kept_or_computed(
        self, name: str, compute: Callable[[], Mapping[str, Any]], settings: Mapping[str, float | str]
    ) -> dict[str, Any]:
        path: Path | None = self.options.out and self.options.out / f"{name}.json"
        kept = json.loads(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else {}
        here = _here()
        if kept.get("settings") == settings:
            self.before += kept["seconds"]
            changed = {name: value for name, value in here.items() if kept.get("here", {}).get(name) != value}
            if changed:
                print(f"{name} is kept from elsewhere; here it would have {changed}", file=sys.stderr, flush=True)
            return dict(kept["result"])
        print(f"{name} ...", file=sys.stderr, flush=True)
        started = time.monotonic()
        result = dict(compute())
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            seconds = time.monotonic() - started
            write_json_atomic(path, {"settings": settings, "seconds": seconds, "here": here, "result": result})
        return result

    def report(self, figures: Figures, targets: Mapping[str, str], seeds: Sequence[int]) -> None:
        """Print the figures, their targets, the machine and the versions, as a table or as one JSON object."""
        found = diagnose()
        machine = f"{found.processor}, {found.cpus} CPUs, {found.memory_gib} GiB, {', '.join(found.accelerators)}"
        versions = _versions()
        seconds = round(time.monotonic() - self.began + self.before, 1)
        if self.options.json:
            record = {"figures": figures, "targets": dict(targets), "machine": machine, "versions": versions}
            print(json.dumps(record | {"seeds": list(seeds), "seconds": seconds}, indent=2, allow_nan=False))
            return
        width = max(map(len, figures))
        for name, value in figures.items():
            print(f"{name:<{width}}  {value:>12.4f}  {targets.get(name, '')}")
        listed = ", ".join(f"{name} {number}" for name, number in versions.items())
        print(f"\n{machine}\nPython {found.python.split()[0]}, {listed}\nseeds {list(seeds)}, {seconds} s")
