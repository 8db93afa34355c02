"""Results of many small pieces of work, in processes, each kept as soon as it is there."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from nas.console import Bar
from nas.workers import Map

Item = TypeVar("Item")
Result = dict[str, Any]


class Kept:
    """Results by name in a file of one line each, which are there again after an interruption.

    Args:
        path: of the file; it is begun anew where it is of other settings.
        settings: what all results depend on.
        over: the map that does the work.
    """

    def __init__(self, path: Path, settings: str, over: Map) -> None:
        self._path, self._over = path, over
        self.known: dict[str, Result] = {}
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        if lines[:1] == [json.dumps(settings)]:
            self.known = dict(_read(lines[1:]))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write("w", json.dumps(settings), *map(json.dumps, self.known.items()))

    def __call__(self, title: str, function: Callable[[Item], Result], work: Mapping[str, Item]) -> dict[str, Result]:
        """The result of every item, in the order of the items; those that are known are not computed anew."""
        missing = {name: item for name, item in work.items() if name not in self.known}
        if missing:
            with Bar(title, len(missing)) as bar:
                results = self._over(function, missing.values())
                for number, (name, result) in enumerate(zip(missing, results, strict=True), 1):
                    self.known[name] = result
                    self._write("a", json.dumps([name, result]))
                    bar.update(number, name)
        return {name: self.known[name] for name in work}

    def _write(self, mode: str, *lines: str) -> None:
        with self._path.open(mode, encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)


def _read(lines: list[str]) -> Iterator[tuple[str, Result]]:
    for line in lines:
        try:
            name, result = json.loads(line)
        except ValueError:
            # The last line of a program that was killed.
            return
        yield name, result
