"""The journal: resumed after any kill, refused for another search; choosing by limits; tables."""

import json
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import forked
import numpy as np
import optuna
import pytest

from nas.errors import NoFeasible, UserError
from nas.searching.measurement import Evaluated, Measurement, Objective
from nas.searching.nsga2 import Nsga2Config, nsga2
from nas.searching.random_search import random_search
from nas.searching.storage import copy_to_journal
from nas.searching.storage_address import Storage
from nas.searching.study import Study, load_study
from search_spaces.space import Candidate, Choice, Space

SPACE = Space(
    (
        Choice("depth", (1, 2, 3)),
        *(Choice(f"heads.{i}", (2, 4, 6, 8), active_if=("depth", tuple(range(i + 1, 4)))) for i in range(3)),
        Choice("channels", range(8, 65, 8)),
        Choice("precision", ("int8", "fp32"), ordered=False),
    )
)
OBJECTIVES = (Objective("accuracy", "maximize"), Objective("latency_ms"))


def _evaluate(candidates: Sequence[Candidate]) -> np.ndarray:
    rows = SPACE.encode(candidates).astype(float)
    total = rows.sum(axis=1)
    values = np.stack([1 - np.exp(-total / 5), 2 + total + rows[:, 4]], axis=1)
    values[(rows[:, 0] == 1) & (rows[:, 1] == 3)] = np.nan
    return values


class _Killed:
    """An evaluation that is interrupted after `calls` candidates."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, candidates: Sequence[Candidate]) -> np.ndarray:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return _evaluate(candidates)


def _search(path: Storage | None = None, evaluate: Any = _evaluate, **changed: Any) -> Study:
    settings: dict[str, Any] = {"budget": 30, "seed": 5, "config": Nsga2Config(population=8), "storage": path}
    return nsga2(SPACE, evaluate, OBJECTIVES, **{**settings, **changed})


def _told(study: Study) -> list[tuple[Candidate, dict[str, float], str, str | None]]:
    return [(m.candidate, dict(m.values), m.state, m.reason) for m in study.measurements]


def _study(*values: tuple[float, float], limit: float | None = None) -> Study:
    rows = SPACE.random(1000, np.random.default_rng(0))
    candidates = list(dict.fromkeys(SPACE.decode(rows)))
    objectives = (OBJECTIVES[0], Objective("latency_ms", limit=limit))
    return Study(
        SPACE,
        objectives,
        [
            Measurement(c, {"accuracy": a, "latency_ms": ms}, "measured", None, 0.1)
            if math.isfinite(a)
            else Measurement(c, {}, "failed", "accuracy is nan", 0.1)
            for c, (a, ms) in zip(candidates, values, strict=False)
        ],
    )


def test_the_journal_holds_one_finished_trial_a_candidate_in_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "study.journal"
    study = _search(path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 2 + 30  # the study, its attribute, the trials
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    stored = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))
    states = [trial.state.name for trial in stored.trials]
    assert states == ["FAIL" if m.state == "failed" else "COMPLETE" for m in study.measurements]
    for trial, measurement in zip(stored.trials, study.measurements, strict=True):
        assert trial.params == {name: option for name, option in measurement.candidate.items() if option is not None}
        assert trial.values is None or trial.values == list(measurement.values.values())
    assert _told(load_study(path)) == _told(study)
    assert load_study(path).space == SPACE


@pytest.mark.parametrize(
    ("name", "values", "reasons"),
    [
        (
            "accuracy",
            (87.5, 1e-120, -1e120, -0.5),
            (None, "accuracy is 1e-120", "accuracy is -1e+120", "accuracy is -0.5"),
        ),
        ("r2", (-3.0, -1e21, math.nan, math.inf), (None, "r2 is -1e+21", "r2 is nan", "r2 is inf")),
        ("own:number", (0.0, 1e21, -1e21, 1e200), (None, "own:number is 1e", "own:number is -1e", "own:number is 1e")),
        ("macs", (1.0, 0.0, -1.0, 1e30), (None, "macs is 0.0, which it cannot be", "macs is -1", "macs is 1e")),
        ("latency_ms", (1.0, 0.0, -1.0, 1e30), (None, "latency_ms is 0", "latency_ms is -1", "latency_ms is 1e")),
    ],
)
@pytest.mark.parametrize("kind", ["study.journal", "sqlite:///{}/studies.db"])
def test_a_study_holds_what_can_be_read_again(
    tmp_path: Path, kind: str, name: str, values: Sequence[float], reasons: Sequence[str | None]
) -> None:
    """Scores of one's own may be percentages; what no study can hold has failed, with its reason."""
    storage = kind.format(tmp_path) if "://" in kind else tmp_path / kind
    left = iter(values)
    study = random_search(
        SPACE,
        lambda candidates: np.array([[next(left)] for _ in candidates]),
        [Objective(name, "maximize")],
        budget=4,
        seed=0,
        storage=storage,
    )
    assert [m.state for m in study.measurements] == ["measured", "failed", "failed", "failed"]
    for measurement, reason in zip(study.measurements, reasons, strict=True):
        assert (measurement.reason is None) if reason is None else (measurement.reason or "").startswith(reason)
    assert _told(load_study(storage)) == _told(study)


@pytest.mark.parametrize(
    ("kept", "reason"),
    [
        ({"change": math.nan}, "extras cannot be kept: change must be a number of usual size, got nan"),
        ({"far": {"below": [1.0, 1e200]}}, r"extras cannot be kept: far\.below\.1 must be a number of usual size"),
        ({"count": 2**70}, "extras cannot be kept: count must be a number of usual size"),
        ({"array": np.zeros(2)}, "extras cannot be kept: .*not JSON serializable"),
    ],
)
@pytest.mark.parametrize("failed", [False, True])
def test_extras_that_no_study_can_hold_fail_their_candidate(
    tmp_path: Path, kept: dict[str, Any], reason: str, failed: bool
) -> None:
    def evaluate(candidates: Sequence[Candidate]) -> Evaluated:
        wrong = [c["depth"] == 1 for c in candidates]
        values = [[math.nan if each and failed else 1.0] for each in wrong]
        return Evaluated(values, [kept if each else {"fine": 0.5} for each in wrong])

    path = tmp_path / "study.journal"
    study = random_search(SPACE, evaluate, [Objective("own:number")], budget=12, seed=0, storage=path)
    for each in study.measurements:
        if each.candidate["depth"] == 1:
            assert (each.state, dict(each.extras)) == ("failed", {})
            assert re.search(reason, each.reason or "") and ("own:number is nan" in (each.reason or "")) == failed
        else:
            assert (each.state, dict(each.extras)) == ("measured", {"fine": 0.5})
    assert {each.state for each in study.measurements} == {"measured", "failed"}
    assert _told(load_study(path)) == _told(study)
    again = random_search(SPACE, evaluate, [Objective("own:number")], budget=13, seed=0, storage=path)
    assert len(again.measurements) == 13


def test_known_results_are_such_that_a_study_can_hold(tmp_path: Path) -> None:
    candidate = SPACE.smallest()
    for wrong, sentence in (
        (Measurement(candidate, {"macs": 0.0}, "measured", None, 0.0, True), "macs is 0"),
        (Measurement(candidate, {"macs": 1.0}, "measured", None, 0.0, True, {"a": math.nan}), "extras cannot be kept"),
    ):
        with pytest.raises(UserError, match=f"known results must have .*{sentence}"):
            random_search(SPACE, _evaluate, [Objective("macs")], budget=1, seed=0, known=[wrong])


def test_a_killed_search_resumes_to_the_same_study(tmp_path: Path) -> None:
    whole = _search()
    for killed_after in (0, 1, 7, 8, 20):
        path = tmp_path / f"{killed_after}.journal"
        with pytest.raises(KeyboardInterrupt):
            _search(path, _Killed(killed_after))
        assert len(load_study(path).measurements) == killed_after
        assert _told(_search(path)) == _told(whole)


def test_a_line_torn_by_a_kill_costs_one_measurement(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    whole = _told(_search(path))
    content = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == 10]
    for cut in (3, ends[0] - 5, ends[0], ends[0] + 20, ends[1], ends[10] + 1, ends[10] + 300, len(content) - 1):
        path.write_bytes(content[:cut])
        Path(f"{path}.lock").symlink_to(path)  # a kill inside a write leaves the lock of the writer
        assert _told(_search(path)) == whole
        assert _told(load_study(path)) == whole


def test_measured_results_are_replayed_not_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    _search(path)
    calls: list[int] = []

    def evaluate(candidates: Sequence[Candidate]) -> np.ndarray:
        calls.append(len(candidates))
        return _evaluate(candidates)

    assert len(_search(path, evaluate).measurements) == 30 and not calls
    assert len(_search(path, evaluate, budget=10).measurements) == 30 and not calls
    assert _told(_search(path, evaluate, budget=45)) == _told(_search(budget=45)) and sum(calls) == 15


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("seed", lambda path: _search(path, seed=2)),
        ("lag", lambda path: _search(path, lag=3)),
        ("config", lambda path: _search(path, config=Nsga2Config(population=9))),
        ("algorithm", lambda path: random_search(SPACE, _evaluate, OBJECTIVES, budget=5, seed=1, storage=path)),
        ("objectives", lambda path: nsga2(SPACE, _evaluate, OBJECTIVES[::-1], budget=5, seed=1, storage=path)),
        (
            "space",
            lambda path: nsga2(Space(SPACE.choices[:-1]), _evaluate, OBJECTIVES, budget=5, seed=1, storage=path),
        ),
    ],
)
def test_the_study_of_another_search_is_refused_and_kept(tmp_path: Path, what: str, change: Any) -> None:
    path = tmp_path / "study.journal"
    _search(path, budget=5)
    before = path.read_bytes()
    with pytest.raises(UserError, match=f"another {what}"):
        change(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.replace(b'"op_code"', b'"op"', 8),
        lambda content: content[:400] + b"\x00\x00" + content[402:],
        lambda content: content + b"not a journal\n",
        lambda content: content + b"not a journal",
        lambda content: content.replace(b'"seconds"', b'"minutes"'),
        lambda _: b"a,b\n1,2\n",
        lambda _: b"\xff\xfe\n[1]\n",
    ],
)
def test_a_damaged_journal_is_a_clear_error_and_stays_as_it_is(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "study.journal"
    _search(path, budget=12)
    path.write_bytes(damage(path.read_bytes()))
    before = path.read_bytes()
    for use in (lambda: _search(path), lambda: load_study(path)):
        with pytest.raises(UserError, match="study at"):
            use()
    assert path.read_bytes() == before


def test_of_a_candidate_recorded_twice_the_first_counts(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    study = _search(path, budget=12)
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[-1])
    assert load_study(path).measurements == study.measurements == _search(path, budget=12).measurements


def test_missing_unwritable_and_busy_storages(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no study"):
        load_study(tmp_path / "none.journal")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        _search(tmp_path / "file" / "study.journal")
    path = tmp_path / "study.journal"

    def nested(candidates: Sequence[Candidate]) -> np.ndarray:
        with pytest.raises(UserError, match="another process"):
            _search(path)
        return _evaluate(candidates)

    assert all(m.reason is None or "nan" in m.reason for m in _search(path, nested, budget=2).measurements)


def test_a_bad_request_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    open_space = Space((Choice("heads", (1, 2), active_if=("depth", (1,))),))
    for bad, sentence in (
        (lambda: _search(path, budget=0), "budget must be at least 1"),
        (lambda: _search(path, seed=-1), "seed must not be negative"),
        (lambda: _search(path, chunk_size=0), "chunk_size must be at least 1"),
        (lambda: nsga2(SPACE, _evaluate, [], budget=5, seed=1, storage=path), "objectives must be at least one"),
        (lambda: nsga2(SPACE, _evaluate, [OBJECTIVES[0]] * 2, budget=5, seed=1, storage=path), "distinct names"),
        (lambda: nsga2(open_space, _evaluate, OBJECTIVES, budget=5, seed=1, storage=path), "depth"),
    ):
        with pytest.raises(UserError, match=sentence):
            bad()
    assert not path.exists()


def test_the_front_is_measured_within_limits_and_sorted() -> None:
    study = _study((0.9, 9), (0.8, 5), (0.7, 6), (float("nan"), 1), (0.95, 20), (0.8, 5), limit=10)
    assert [dict(m.values) for m in study.front()] == [
        {"accuracy": 0.9, "latency_ms": 9},
        {"accuracy": 0.8, "latency_ms": 5},
        {"accuracy": 0.8, "latency_ms": 5},
    ]


def test_select_takes_the_best_within_limits_ties_by_the_next_objective() -> None:
    study = _study((0.9, 9), (0.8, 6), (0.8, 5), (float("nan"), 1))
    assert study.select().values["accuracy"] == 0.9
    assert study.select(max_latency_ms=8).values == {"accuracy": 0.8, "latency_ms": 5}
    assert study.select({"min_accuracy": 0.85}).values["latency_ms"] == 9
    assert _study((0.9, 9), (0.8, 6), limit=7).select().values["latency_ms"] == 6


def test_select_names_the_nearest_when_nothing_is_feasible() -> None:
    study = _study((0.9, 9), (0.8, 6))
    with pytest.raises(NoFeasible, match=r"meets latency_ms <= 5; the nearest has accuracy 0.8, latency_ms 6"):
        study.select(max_latency_ms=5)
    with pytest.raises(NoFeasible, match="no candidate was measured successfully"):
        _study((float("nan"), 1)).select()
    for wrong in ({"latency_ms": 5}, {"max_energy": 1}, {"max_latency_ms": float("nan")}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            study.select(wrong)


def test_hypervolume_uses_raw_values() -> None:
    study = _study((0.9, 9), (0.8, 5), (float("nan"), 1))
    assert study.hypervolume([0.5, 10]) == pytest.approx(0.4 * 1 + 0.3 * 4)
    with pytest.raises(UserError, match="one finite number each for accuracy, latency_ms"):
        study.hypervolume([0.5])


def test_tables_and_optuna_copies_tell_the_same() -> None:
    study = _search()
    table = study.to_pandas()
    assert len(table) == 30 and table["values_accuracy"].isna().sum() == (table["state"] == "failed").sum() > 0
    assert table["params_precision"].isin(["int8", "fp32"]).all()
    copy = study.to_optuna()
    best = {tuple(m.values.values()) for m in study.front()}
    assert {tuple(trial.values) for trial in copy.best_trials} == best
    assert len(Study(SPACE, OBJECTIVES).to_pandas()) == 0


def test_nothing_is_printed_and_no_logging_is_changed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _search(tmp_path / "study.journal")
    assert capfd.readouterr() == ("", "") and optuna.logging.get_verbosity() == before


def test_a_database_keeps_what_a_journal_keeps(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db#mine"
    whole = _search()
    with pytest.raises(KeyboardInterrupt):
        _search(url, _Killed(9))
    assert len(load_study(url).measurements) == 9
    assert _told(_search(url)) == _told(load_study(url)) == _told(whole)
    stored = optuna.load_study(study_name="mine", storage=url.partition("#")[0])
    assert [trial.number for trial in stored.trials] == list(range(30)) and len(stored.best_trials) > 0
    assert _told(_search(url.replace("mine", "other"), seed=6)) == _told(_search(seed=6)), "one database, two studies"
    with pytest.raises(UserError, match="belongs to a search with another seed"):
        _search(url, seed=6)
    journal = tmp_path / "study.journal"
    copy_to_journal(url, journal)
    assert _told(load_study(journal)) == _told(whole)
    assert _told(_search(journal)) == _told(whole), "the copy can be gone on with"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["studies.db", "study.journal"]


def test_a_database_has_one_writer_the_last_to_begin(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    whole = _told(_search())

    def overtaken(candidates: Sequence[Candidate]) -> np.ndarray:
        assert _told(_search(url)) == whole
        return _evaluate(candidates)

    with pytest.raises(UserError, match="taken over by another process"):
        _search(url, overtaken)
    assert _told(load_study(url)) == whole


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("nothing://somewhere", "nothing://somewhere cannot be reached"),
        ("sqlite:////no/such/folder/studies.db", "cannot be reached"),
        ("postgresql://me:secret@localhost:1/studies", r"postgresql://me:\*\*\*@localhost:1/studies cannot be reached"),
    ],
)
def test_a_database_out_of_reach(url: str, sentence: str) -> None:
    for use in (lambda: _search(url), lambda: load_study(url)):
        with pytest.raises(UserError, match=sentence) as error:
            use()
        assert "secret" not in str(error.value)


def test_a_database_without_our_study(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    optuna.create_study(study_name="theirs", storage=url)
    with pytest.raises(UserError, match="holds no study of this project"):
        load_study(f"{url}#theirs")
    with pytest.raises(UserError, match="holds no study of this project"):
        load_study(url)


def test_a_budget_past_the_size_measures_everything_once() -> None:
    small = Space(SPACE.choices[:2])
    calls: list[Candidate] = []

    def evaluate(candidates: Sequence[Candidate]) -> np.ndarray:
        calls.extend(candidates)
        return np.array([[float(c["depth"] or 0), 1.0] for c in candidates])

    for algorithm in (nsga2, random_search):
        calls.clear()
        found = algorithm(small, evaluate, OBJECTIVES, budget=1000, seed=0).measurements
        assert len(calls) == len(found) == len({m.candidate for m in found}) == small.size()
    some = nsga2(small, evaluate, OBJECTIVES, budget=3, seed=0, known=found[:4])
    assert [m.known for m in some.measurements] == [True] * 4 + [False] * 3


def test_a_limit_that_a_formula_shows_to_be_out_of_reach() -> None:
    small = Space(SPACE.choices[:2])
    macs = Objective("macs", limit=5.0, exact=lambda rows: 10.0 + rows[:, 0])
    with pytest.raises(NoFeasible, match=r"none of the \d+ candidates has macs of at most 5; the nearest has 10"):
        random_search(small, lambda _: [[1.0]], [macs], budget=5, seed=0)
    depth = Objective("depth", "maximize", limit=9.0, exact=lambda rows: rows[:, 0] + 1.0)
    with pytest.raises(NoFeasible, match="depth of at least 9; the nearest has 3"):
        random_search(small, lambda _: [[1.0]], [depth], budget=5, seed=0)


def test_known_results_make_another_study(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    known = _search(seed=9, budget=8).measurements
    study = _search(path, known=known, budget=10)
    assert [m.candidate for m in study.measurements[:8]] == [m.candidate for m in known]
    assert study.to_pandas()["known"].tolist() == [True] * 8 + [False] * 10
    assert _told(load_study(path)) == _told(study) == _told(_search(path, known=known, budget=10))
    assert [m.known for m in load_study(path).measurements] == [m.known for m in study.measurements]
    with pytest.raises(UserError, match="another known"):
        _search(path, budget=10)


@pytest.mark.slow
def test_kill_9_in_another_process_resumes(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    program = (
        "import os, signal\nfrom pathlib import Path\nfrom tests import test_study as t\n"
        "def evaluate(c):\n evaluate.n += 1\n"
        " if evaluate.n == 13: os.kill(os.getpid(), signal.SIGKILL)\n return t._evaluate(c)\n"
        f"evaluate.n = 0\nt._search(Path({str(path)!r}), evaluate)\n"
    )
    root = Path(__file__).parents[1]
    assert forked.run(["-c", program], cwd=root).status == -9
    assert len(load_study(path).measurements) == 12
    assert _told(_search(path)) == _told(_search())
