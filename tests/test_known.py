"""Warm starts: results of another study or of a table, and one sentence for those that cannot be used."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from nas.errors import UserError
from nas.searching.measurement import Measurement, Objective
from nas.searching.random_search import random_search
from nas.searching.study import Study
from nas.searching.warm_start import known_results
from search_spaces.space import Candidate, Choice, Space

SPACE = Space(
    (
        Choice("depth", (1, 2, 3)),
        Choice("heads", (2, 4), active_if=("depth", (2, 3))),
        Choice("share", (0.5, 1.0)),
        Choice("precision", ("int8", "fp32"), ordered=False),
    )
)
ACCURACY, LATENCY = Objective("accuracy", "maximize"), Objective("latency_ms")
MACS = Objective("macs", exact=lambda rows: 10.0 + rows.sum(axis=1))


def _evaluate(candidates: Sequence[Candidate]) -> np.ndarray:
    return np.array([[np.nan if c["share"] == 1.0 else float(c["depth"] or 0), 5.0] for c in candidates])


@pytest.fixture
def study(tmp_path: Path) -> Study:
    where = tmp_path / "study.journal"
    return random_search(SPACE, _evaluate, [ACCURACY, LATENCY], budget=20, seed=0, storage=where)


def test_from_a_study_the_measured_ones_in_order(study: Study, tmp_path: Path) -> None:
    good = [m for m in study.measurements if m.state == "measured"]
    found = known_results(tmp_path / "study.journal", SPACE, [ACCURACY, LATENCY])
    assert [(m.candidate, dict(m.values)) for m in found] == [(m.candidate, dict(m.values)) for m in good]
    assert all(m.known for m in found)


def test_formulas_are_computed_and_latencies_left_out(study: Study, tmp_path: Path) -> None:
    found = known_results(tmp_path / "study.journal", SPACE, [LATENCY, MACS, ACCURACY], without=["latency_ms"])
    assert len(found) == sum(m.state == "measured" for m in study.measurements) > 0
    for m in found:
        assert list(m.values) == ["macs", "accuracy"] and m.values["macs"] == 10 + SPACE.encode([m.candidate]).sum()


@pytest.mark.parametrize("plain", [True, False])
def test_from_a_table_as_this_project_writes_it(study: Study, tmp_path: Path, plain: bool) -> None:
    table = study.to_pandas()
    if plain:
        table = table[table["state"] == "measured"].rename(columns=lambda name: name.split("_", 1)[-1])
        table = table.rename(columns={"ms": "latency_ms"})[["accuracy", *(choice.name for choice in SPACE.choices)]]
        table = table.assign(macs=1.0, size_mib=2.0, latency_ms_laptop=3.0)
    table.to_csv(tmp_path / "table.csv", index=False)
    found = known_results(tmp_path / "table.csv", SPACE, [ACCURACY, MACS], ignored=["size_mib"])
    found = [Measurement(m.candidate, {"accuracy": m.values["accuracy"]}, m.state, None, 0.0) for m in found]
    expected = known_results(tmp_path / "study.journal", SPACE, [ACCURACY])
    assert [(m.candidate, dict(m.values)) for m in found] == [(m.candidate, dict(m.values)) for m in expected]


HEADER = "accuracy,depth,heads,share,precision"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (f"{HEADER},beauty\n.5,2,4,0.5,int8,3\n", "has a column 'beauty', which is no choice"),
        ("accuracy,depth,heads,share\n.5,2,4,0.5\n", "must have a column 'precision', it has accuracy, depth"),
        ("depth,heads,share,precision\n2,4,0.5,int8\n", "must have a column 'accuracy'"),
        (f"{HEADER}\n.5,7,4,0.5,int8\n", "line 2: depth has no option '7'"),
        (f"{HEADER}\n.5,2,,0.5,int8\n", "line 2: heads must be given"),
        (f"{HEADER}\n.5,2,4,0.5,int9\n", "line 2: precision has no option 'int9'"),
        (f"{HEADER}\n.5,2,4,0.5,int8\nnan,1,,0.5,int8\n", "line 3: accuracy is nan; mend"),
        (f"{HEADER}\n-1,2,4,0.5,int8\n", "line 2: accuracy is -1.0, which it cannot be"),
        (f"{HEADER}\nhigh,2,4,0.5,int8\n", "line 2: could not convert"),
        (f"{HEADER}\n.5,2\n", "line 2: "),
        ("", "must have a column 'depth'"),
    ],
)
def test_wrong_tables(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "table.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=sentence):
        known_results(tmp_path / "table.csv", SPACE, [ACCURACY])


def _missing(folder: Path) -> Path:
    return folder / "none.csv"


def _binary(folder: Path) -> Path:
    (folder / "table.csv").write_bytes(b"\xff\xfe\x00")
    return folder / "table.csv"


def _no_study(folder: Path) -> Path:
    return folder / "none.journal"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [(_missing, "cannot read"), (_binary, "must be a CSV file in UTF-8"), (_no_study, "there is no study at")],
)
def test_sources_that_cannot_be_read(tmp_path: Path, source: Callable[[Path], Path], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        known_results(source(tmp_path), SPACE, [ACCURACY])


def test_studies_of_something_else(study: Study, tmp_path: Path) -> None:
    source = tmp_path / "study.journal"
    with pytest.raises(UserError, match="is of another space"):
        known_results(source, Space(SPACE.choices[:2]), [ACCURACY])
    with pytest.raises(UserError, match=r"must have measured energy_mj \(minimized\), it has accuracy, latency_ms"):
        known_results(source, SPACE, [Objective("energy_mj")])
    with pytest.raises(UserError, match=r"must have measured accuracy \(minimized\)"):
        known_results(source, SPACE, [Objective("accuracy")])


def test_a_wide_range_and_numbers_as_pandas_writes_them(tmp_path: Path) -> None:
    wide = Space((Choice("channels", range(8, 65, 8)),))
    (tmp_path / "table.csv").write_text("accuracy,channels\n0.5,16.0\n0.6,64\n0.7,64\n", encoding="utf-8")
    found = known_results(tmp_path / "table.csv", wide, [ACCURACY])
    assert [(m.candidate["channels"], m.values["accuracy"]) for m in found] == [(16, 0.5), (64, 0.6)]
