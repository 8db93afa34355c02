"""Wrong words of a command line: the sentence names the flag, what came, what it takes, and what may be meant."""

import fcntl
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Command

from nas.command.cli import _COMMANDS
from nas.command.flags import flags_of
from nas.console import Bar
from nas.errors import NoFeasible, UserError
from nas.learning.progress import TrainingFigures
from nas.learning.training import Step
from nas.number_lists import number_list
from nas.runs.folder import AtWork, RunFolder, Unfinished, no_search
from nas.runs.loaded_search import study_at
from nas.runs.makers import MAKERS, Product
from nas.searching.measurement import Objective
from nas.searching.selection import select
from nas.sentences import did_you_mean, may_mean

REPORT = ("report", "run")
SEARCH = ("search", "run")
FINETUNE = ("finetune", "m", "--out", "r")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["serch"], "there is no command 'serch' (did you mean search?)"),
        ([*SEARCH, "--max-latency", "5"], "nas search has no flag '--max-latency' (did you mean --max-latency-ms?)"),
        ([*SEARCH, "--min-acc=0.9"], "nas search has no flag '--min-acc' (did you mean --min-accuracy?)"),
        ([*SEARCH, "-b", "3"], "nas search has no flag '-b';"),
        (["search", "--run", "run"], "nas search takes RUN without --run"),
        ([*SEARCH, "--max-latency-ms", "5ms"], "got '5ms': at most this latency in milliseconds;"),
        ([*SEARCH, "--max-latency-ms=5,5"], "--max-latency-ms takes a number such as 5 or 0.5, without a unit"),
        ([*REPORT, "--min-accuracy", "40%"], "got '40%': at least this accuracy (0 to 1);"),
        ([*SEARCH, "--budget", "1k"], "--budget takes a whole number without a unit, got '1k': how many sub-networks"),
        ([*SEARCH, "--rows", "1.5"], "got '1.5': how many of the validation rows measure accuracy;"),
        (["finetune", "m", "--out", "r", "--task", "clasification"], "(did you mean classification?)"),
        (
            [*SEARCH, "--runtime", "onnx"],
            "one of pytorch, onnxruntime, openvino, got 'onnx' (did you mean onnxruntime?)",
        ),
        ([*SEARCH, "--objectives", "accuracy", "macs"], "nas search takes RUN besides its flags, got 'macs' too"),
        (["evolve", "x", "--out", "r"], "nas evolve takes no word besides its flags, got 'x' too"),
        (["search"], "nas search needs RUN: the run folder;"),
        (["export", "run"], "nas export needs --out: the folder to write"),
        ([*SEARCH, "--objectives"], "--objectives needs a value: most important first"),
        ([*SEARCH, "--objectives", "--json"], "--objectives needs a value"),
        ([*SEARCH, "--json=1"], "--json takes no value, got '1'; see nas search --help"),
        ([*SEARCH, "--quantize=true"], "--quantize takes no value, got 'true'"),
        ([*SEARCH, "--json", "true"], "besides its flags, got 'true' too; --json takes no value"),
        (["search", "--json", "True", "run"], "got 'True' too; --json takes no value"),
        (["search", "--json", "run", "run2"], "got 'run2' too; the items of a list are separated by commas"),
        ([*FINETUNE, "--trackers", "a", "b"], "got 'b' too; give --trackers once for each"),
        (["finetune", "--trackers=a", "b", "m", "--out", "r"], "got 'm' too; give --trackers once for each"),
        ([*FINETUNE, "--depth", "4,", "5"], "got '5' too; the items of a list are separated by commas without spaces"),
    ],
)
def test_wrong_words(nas_command: Command, words: list[str], sentence: str) -> None:
    answer = nas_command(*words)
    assert (answer.status, answer.out) == (2, "") and answer.err.count("\n") == 1
    assert sentence in answer.err and "None" not in answer.err


@pytest.mark.parametrize("command", _COMMANDS)
def test_every_flag_says_what_it_takes(command: str) -> None:
    flags = list(flags_of(_COMMANDS[command]))
    assert len({flag.name for flag in flags}) == len(flags)
    for flag in flags:
        assert flag.about and "\n" not in flag.about and "; None" not in flag.about, flag.name


@pytest.mark.parametrize("text", ["0,5", "0.25,0,5", "0, 5"])
def test_a_decimal_comma_in_a_list(text: str) -> None:
    with pytest.raises(UserError, match=r"a comma separates numbers, so write 0\.5 with a point"):
        number_list("ffn", text.replace(" ", ""), "sizes", lambda sizes: min(sizes) > 0)


@pytest.mark.parametrize("text", ["", "few", "50%", "1,", "3;4", "-1"])
def test_lists_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match=f"--ffn must be sizes, got '{text}'$"):
        number_list("ffn", text, "sizes", lambda sizes: min(sizes) > 0)
    assert number_list("ffn", "4,5,0.5", "sizes", lambda sizes: True) == (4, 5, 0.5)


def test_numbers_may_have_an_exponent_and_are_finite() -> None:
    found = number_list("rates", "5e-1,1e2,3", "rates", lambda rates: True)
    assert found == (0.5, 100.0, 3) and [type(number) for number in found] == [float, float, int]
    for text in ("1.0e999", "-inf", "0.5,nan", "1" * 400 + ".0"):
        with pytest.raises(UserError, match="--rates must be rates"):
            number_list("rates", text, "rates", lambda rates: True)


def test_limits_are_offered_in_the_direction_that_means_something() -> None:
    objectives = [Objective("accuracy", "maximize"), Objective("macs")]
    with pytest.raises(UserError, match=r"one of min_accuracy, max_macs, got 'max_mac' .did you mean max_macs"):
        select([], objectives, {"max_mac": 1.0})


def nothing(folder: Path) -> Path:
    return folder / "none"


def data(folder: Path) -> Path:
    (folder / "data").mkdir()
    return folder / "data"


def a_file(folder: Path) -> Path:
    (folder / "data.csv").touch()
    return folder / "data.csv"


def above(folder: Path) -> Path:
    (folder / "demo" / "run").mkdir(parents=True)
    (folder / "demo" / "run" / "run.json").touch()
    return folder / "demo"


def below(folder: Path) -> Path:
    above(folder)
    (folder / "demo" / "run" / "searches" / "default").mkdir(parents=True)
    return folder / "demo" / "run" / "searches" / "default"


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (nothing, "it is not there;"),
        (data, "it holds no run.json;"),
        (a_file, "it is a file;"),
        (above, "it holds no run.json (did you mean {}/demo/run?)"),
        (below, "it holds no run.json (did you mean {}/demo/run?)"),
    ],
)
@pytest.mark.parametrize("command", ["report", "search", "export", "refine"])
def test_what_is_no_run_folder(
    nas_command: Command, tmp_path: Path, command: str, make: Callable[[Path], Path], what: str
) -> None:
    flags = {"export": ["--out", "out"], "refine": ["--out", "out", "--candidate", "smallest"]}.get(command, [])
    answer = nas_command(command, make(tmp_path), *flags)
    assert answer.status == 2 and "is not a run folder" in answer.err and what.format(tmp_path) in answer.err
    assert "the folder that `nas finetune` or `nas prune` or `nas evolve` wrote to its --out" in answer.err


@pytest.mark.parametrize("command", ["finetune", "prune", "evolve"])
def test_data_that_is_not_named(nas_command: Command, tmp_path: Path, command: str) -> None:
    model = [] if command == "evolve" else [tmp_path / "model"]
    answer = nas_command(command, *model, "--out", tmp_path / "run")
    assert answer.status == 2 and answer.err.startswith("nas: error: --data must name the ")
    assert "None" not in answer.err and not (tmp_path / "run").exists()


def test_a_search_that_is_not_there(tmp_path: Path) -> None:
    assert no_search("run", "defalt", ["default", "b"]) == (
        "run has no search named 'defalt' (did you mean default?) (searches: default, b)"
    )
    (tmp_path / "run.json").touch()
    with pytest.raises(UserError, match=r"has no search named 'default' \(searches: none yet\); name the folder"):
        study_at(str(tmp_path), besides=tmp_path / "searches" / "default")
    for name in ("defaults", "b"):
        (tmp_path / "searches" / name).mkdir(parents=True)
        (tmp_path / "searches" / name / "search.json").touch()
    with pytest.raises(UserError, match=r"'default' \(did you mean defaults\?\) \(searches: b, defaults\); name"):
        study_at(str(tmp_path), besides=tmp_path / "searches" / "default")


def test_what_may_be_meant_is_cut_off() -> None:
    assert may_mean("a" * 99) == f" (did you mean {'a' * 60}...?)" == did_you_mean("a" * 98, ["a" * 99])
    assert may_mean("run\n\x1b[31m", 9) == " (did you mean run?)"


def cut_off(folder: Path, work: str) -> None:
    """What a command leaves whose process dies."""
    folder.mkdir(exist_ok=True)
    (folder / "run.json").touch()
    (folder / ".lock").write_text(f"123 {work}\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("before", "now", "own", "advised"),
    [
        ("search a", "search a", "mine:of", True),
        ("search a", "search a", None, False),
        ("search b", "search a", "mine:of", False),
        ("", "search a", "mine:of", False),
        ("", "", None, False),
    ],
)
def test_workers_are_advised_where_a_function_of_ones_own_was_at_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, before: str, now: str, own: str | None, advised: bool
) -> None:
    cut_off(tmp_path / "run", before)
    with RunFolder(tmp_path / "run").locked(now, own):
        said = capsys.readouterr().err
    assert "did not end by itself; what it had done is kept" in said
    assert ("If mine:of ends its process, --workers 2" in said) == advised
    with RunFolder(tmp_path / "run").locked(now, own):
        assert capsys.readouterr().err == "", "it is said once"


def test_who_reads_needs_no_lock(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "run.json").touch()
    folder = RunFolder(tmp_path)
    with (tmp_path / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(AtWork, match="another command is at work"), folder.locked():
            pass
        with folder.shared():
            pass
        assert "this is of what it has kept so far" in capsys.readouterr().err
        with pytest.raises(NoFeasible), folder.shared():
            raise NoFeasible("nothing fits")
        assert "this is of what it has kept so far" in capsys.readouterr().err
        wait = r"^it is not there; another command is at work in .*, wait for it to end$"
        with pytest.raises(AtWork, match=wait), folder.shared():
            raise Unfinished("it is not there", "repeat the command")
        with pytest.raises(UserError, match=r"^it is damaged$"), folder.shared():
            raise UserError("it is damaged")
        assert capsys.readouterr().err == "", "nothing is promised of what is refused"
    with folder.shared(), pytest.raises(AtWork), folder.locked():
        pass
    with pytest.raises(UserError, match=r"^it is not there; repeat the command$"), folder.shared():
        raise Unfinished("it is not there", "repeat the command")
    assert capsys.readouterr().err == ""


def test_who_reads_leaves_the_trace_of_what_was_cut_off(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cut_off(tmp_path, "search a")
    for _ in range(2):
        with RunFolder(tmp_path).shared():
            assert "did not end by itself; what it had done is kept\n" in capsys.readouterr().err
    with RunFolder(tmp_path).locked("search a", "mine:of"):
        assert "If mine:of ends its process, --workers 2" in capsys.readouterr().err
    with RunFolder(tmp_path).shared():
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize("product", MAKERS)
def test_a_report_of_what_is_not_there_yet(nas_command: Command, tmp_path: Path, product: Product) -> None:
    record = {"version": 1, "product": product, "asked": {}, "versions": {}, "kind": "image", "classes": ["a"]}
    fingerprints = {"model_fingerprint": "1", "data_fingerprint": "2", "rows": {"train": 1}}
    (tmp_path / "run.json").write_text(json.dumps({**record, **fingerprints}), encoding="utf-8")
    answer = nas_command("report", tmp_path)
    assert answer.status == 2 and f"; repeat the {MAKERS[product].command} command to go on" in answer.err
    with (tmp_path / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        answer = nas_command("report", tmp_path)
    assert answer.status == 2 and answer.err.count("\n") == 1, answer.err
    assert f"; another command is at work in {tmp_path}, wait for it to end" in answer.err


def test_what_follows_the_last_step_is_said_before_it(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("Fine-tuning", 2) as bar:
        figures = TrainingFigures(bar, "now sub-networks are scored")
        figures(Step(1, 2, 1.0, 0.1, 0.0))
        assert capsys.readouterr().err == ""
        figures(Step(2, 2, 1.0, 0.1, 0.0))
        said = capsys.readouterr().err
        assert said.startswith("Fine-tuning: 2/2, loss 1.000") and "; now sub-networks are scored" in said
    assert capsys.readouterr().err == "", "a line is printed once"
    with Bar("Fine-tuning", 1) as bar:
        TrainingFigures(bar)(Step(1, 1, 1.0, 0.1, 0.0))
    assert ";" not in capsys.readouterr().err
