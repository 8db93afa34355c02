"""Files that belong to measured candidates, such as trained weights: kept for the members of the front alone.

Each candidate has a folder of its own, named after its content, so it is found again whatever search measured it and
however often the search was killed. A folder is written before its result is committed, and removed after a commit
that leaves its candidate off the front.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic

from nas.files import recover_folder, replacing_folder
from nas.searching.domain import C
from nas.searching.measurement import Measurement
from nas.searching.study import Study


def _mapping(candidate: Any) -> Any:
    return dict(candidate)


class KeptFiles(Generic[C]):
    """The folders of candidates inside one folder.

    Args:
        folder: the outer one; it is made when the first candidate is written.
        to_json: a candidate as JSON data, see `Domain.to_json`; by default that of a space.
    """

    def __init__(self, folder: Path, to_json: Callable[[C], Any] = _mapping) -> None:
        self.folder, self._to_json = folder, to_json

    def of(self, candidate: C) -> Path:
        """The folder of a candidate; it exists only if files were kept for it."""
        content = json.dumps(self._to_json(candidate), sort_keys=True)
        path = self.folder / hashlib.sha256(content.encode()).hexdigest()[:20]
        recover_folder(path)
        return path

    @contextmanager
    def writing(self, candidate: C) -> Iterator[Path]:
        """A new folder to write the files of a candidate into; a kill leaves it as a whole or not at all."""
        with replacing_folder(self.of(candidate)) as part:
            yield part

    def remove(self, candidate: C) -> None:
        """Remove the files of a candidate, if there are any."""
        shutil.rmtree(self.of(candidate), ignore_errors=True)


class KeepingFront(Generic[C]):
    """A `Watcher` of a search that keeps the files of candidates on its front, and removes all others.

    Args:
        files: those that the evaluation writes.
    """

    def __init__(self, files: KeptFiles[C]) -> None:
        self._files = files
        self._study: Study[C] | None = None
        self._kept: set[C] = set()

    def begin(self, study: Study[C]) -> None:
        """Remove what a search that was killed after a commit left of candidates off its front."""
        self._study = study
        self._kept = {each.candidate for each in study.measurements}
        self._sweep()

    def __call__(self, measurement: Measurement[C], number: int) -> None:
        """Remove the files of what left the front with this measurement."""
        self._kept.add(measurement.candidate)
        self._sweep()

    def _sweep(self) -> None:
        assert self._study is not None, "a search calls begin before its first result"
        front = {each.candidate for each in self._study.front()}
        for candidate in self._kept - front:
            self._files.remove(candidate)
        self._kept &= front
