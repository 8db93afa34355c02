"""Files and JSON beside measurements: kept for the front, found again after a kill."""

from collections.abc import Sequence
from pathlib import Path

import pytest

import nas
from nas.searching.kept import KeepingFront, KeptFiles
from nas.searching.measurement import Evaluated
from search_spaces import Candidate, Choice, Space

SPACE = Space((Choice("a", range(1, 9)), Choice("b", range(1, 9))))
OBJECTIVES = (nas.Objective("error"), nas.Objective("cost"))


class Training:
    """An evaluation that writes a file for each candidate, and stops the search at the given call."""

    def __init__(self, files: KeptFiles, stop: int | None = None) -> None:
        self.files, self.stop, self.calls = files, stop, 0

    def __call__(self, candidates: Sequence[Candidate]) -> Evaluated:
        self.calls += 1
        values, extras = [], []
        for candidate in candidates:
            with self.files.writing(candidate) as folder:
                (folder / "weights").write_text(f"{candidate['a']} {candidate['b']}")
            if self.calls == self.stop:
                raise KeyboardInterrupt
            a, b = int(candidate["a"]), int(candidate["b"])  # type: ignore[arg-type]
            values.append([abs(5 - a) + 8 - b, a + b])
            extras.append({"sum": a + b, "note": "trained"})
        return Evaluated(values, extras)


def searched(folder: Path, stop: int | None = None) -> nas.Study:
    files = KeptFiles(folder / "kept")
    return nas.nsga2(
        SPACE,
        Training(files, stop),
        OBJECTIVES,
        budget=30,
        seed=0,
        config=nas.Nsga2Config(population=6),
        storage=folder / "study.journal",
        on_result=KeepingFront(files),
    )


def contents(folder: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in folder.glob("kept/*/weights")}


def test_the_front_and_nothing_else_is_kept(tmp_path: Path) -> None:
    study = searched(tmp_path)
    files = KeptFiles(tmp_path / "kept")
    front = [each.candidate for each in study.front()]
    assert {files.of(candidate).name for candidate in front} == set(contents(tmp_path))
    assert len(front) < len(study.measurements)
    for candidate in front:
        assert (files.of(candidate) / "weights").read_text() == f"{candidate['a']} {candidate['b']}"


@pytest.mark.parametrize("stop", [1, 7, 30])
def test_an_interrupted_search_keeps_the_same(tmp_path: Path, stop: int) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir(), cut.mkdir()
    searched(whole)
    with pytest.raises(KeyboardInterrupt):
        searched(cut, stop)
    searched(cut)
    assert contents(cut) == contents(whole)


def test_extras_are_stored_with_the_measurement(tmp_path: Path) -> None:
    study = searched(tmp_path)
    again = nas.load_study(tmp_path / "study.journal")
    for measurement, found in zip(study.measurements, again.measurements, strict=True):
        assert dict(found.extras) == dict(measurement.extras) == {"sum": measurement.values["cost"], "note": "trained"}
