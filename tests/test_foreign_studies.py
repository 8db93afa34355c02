"""A study that others used or changed: their trials are left out and said, changes are refused and left alone."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from conftest import Command
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from test_study import _search, _told

from nas.errors import UserError
from nas.searching.study import load_study

Change = Callable[[list[str]], list[str]]


def opened(path: Path) -> optuna.Study:
    return optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(str(path))))


def asked(study: optuna.Study) -> None:
    study.ask()


def enqueued(study: optuna.Study) -> None:
    study.enqueue_trial({"anything": 1})


def told(study: optuna.Study) -> None:
    trial = study.ask()
    trial.suggest_int("theirs", 1, 3)
    trial.set_user_attr("note", "by hand")
    study.tell(trial, [0.5] * len(study.directions))


@pytest.mark.parametrize("add", [asked, enqueued, told])
@pytest.mark.filterwarnings("ignore")
def test_trials_of_others_are_left_out_and_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], add: Callable[[optuna.Study], None]
) -> None:
    path = tmp_path / "study.journal"
    _search(path, budget=12)
    add(opened(path))
    found = load_study(path)
    assert "Trials of other programs" in (said := capfd.readouterr().err) and said.strip().endswith("left out: 1")
    assert len(found.measurements) == 12
    add(opened(path))
    assert _told(_search(path)) == _told(_search()) == _told(load_study(path))
    assert "left out: 2" in capfd.readouterr().err


def test_trials_of_others_in_a_database(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    _search(f"{url}#mine", budget=12)
    asked(optuna.load_study(study_name="mine", storage=url))
    assert _told(_search(f"{url}#mine")) == _told(_search())
    assert "left out: 1" in capfd.readouterr().err


def shuffled(lines: list[str]) -> list[str]:
    trials = lines[2:]
    random.Random(0).shuffle(trials)
    return [*lines[:2], *trials]


def all_shuffled(lines: list[str]) -> list[str]:
    mixed = list(lines)
    random.Random(1).shuffle(mixed)
    return mixed


def swapped(lines: list[str]) -> list[str]:
    return [*lines[:3], lines[4], lines[3], *lines[5:]]


def one_missing(lines: list[str]) -> list[str]:
    return [*lines[:5], *lines[6:]]


def renamed_in_trials(lines: list[str]) -> list[str]:
    return [*lines[:2], *(line.replace("depth", "depths") for line in lines[2:])]


def renamed(lines: list[str]) -> list[str]:
    return [line.replace("depth", "depths") for line in lines]


def three_directions(lines: list[str]) -> list[str]:
    record = json.loads(lines[0])
    record["directions"] = [*record["directions"], record["directions"][0]]
    return [json.dumps(record, separators=(",", ":")), *lines[1:]]


def turned_directions(lines: list[str]) -> list[str]:
    record = json.loads(lines[0])
    return [json.dumps({**record, "directions": record["directions"][::-1]}, separators=(",", ":")), *lines[1:]]


CHANGES = [
    shuffled,
    all_shuffled,
    swapped,
    one_missing,
    renamed_in_trials,
    three_directions,
    turned_directions,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_journal_that_was_changed_is_refused_and_stays_as_it_is(tmp_path: Path, change: Change) -> None:
    path = tmp_path / "study.journal"
    _search(path, budget=12)
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(change(lines)) + "\n", encoding="utf-8")
    before = path.read_bytes()
    assert before.splitlines() != [line.encode() for line in lines]
    for use in (lambda: _search(path), lambda: load_study(path)):
        with pytest.raises(UserError, match="study at") as caught:
            use()
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("change", [*CHANGES, renamed])
def test_commands_refuse_a_changed_journal(
    nas_command: Command, finished: Path, tmp_path: Path, change: Change
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    path = run / "searches" / "default" / "study.journal"
    path.write_text("\n".join(change(path.read_text(encoding="utf-8").splitlines())) + "\n", encoding="utf-8")
    before = path.read_bytes()
    for command in (("report", run), ("export", run, "--out", tmp_path / "out"), ("search", run, "--budget", 14)):
        answer = nas_command(*command, *(["--objectives", "accuracy,macs"] if command[0] == "search" else []))
        assert answer.status == 2, (command, answer.err)
        assert len([line for line in answer.err.splitlines() if line.startswith("nas: error:")]) == 1
    assert path.read_bytes() == before
    assert not (tmp_path / "out").exists()


def test_commands_say_how_many_trials_of_others_there_are(nas_command: Command, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    asked(opened(run / "searches" / "default" / "study.journal"))
    for command in (("report", run), ("search", run, "--objectives", "accuracy,macs", "--budget", 13)):
        answer = nas_command(*command)
        assert answer.status == 0, answer.err
        assert "left out: 1" in answer.err
