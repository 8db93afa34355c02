"""The flags of data in the command: what is certain is said, what is not is one sentence with status 2."""

import json
from pathlib import Path

import pytest
from conftest import Command


def reviews(inputs: Path, path: Path, separator: str = ";", encoding: str = "utf-8") -> Path:
    import pandas

    rows = pandas.read_csv(inputs / "reviews.csv")
    rows["text"] += " caf\u00e9"
    rows.to_csv(path, sep=separator, index=False, encoding=encoding)
    return path


def test_what_was_found_out_is_said(nas_command: Command, inputs: Path, tmp_path: Path) -> None:
    path = reviews(inputs, tmp_path / "a.csv", encoding="utf-16")
    answer = nas_command("finetune", inputs / "model", "--data", path, "--out", tmp_path / "run", "--dry-run")
    assert answer.status == 0
    assert f"Fields of {path} read as separated by semicolons\n" in answer.err
    assert f"Text of {path} read as UTF-16\n" in answer.err


@pytest.mark.parametrize("in_a_file", [False, True])
def test_what_is_not_certain_is_told_by_flags(
    nas_command: Command, inputs: Path, tmp_path: Path, *, in_a_file: bool
) -> None:
    path = reviews(inputs, tmp_path / "a.csv", "#", "cp1252")
    command = ["finetune", inputs / "model", "--data", path, "--out", tmp_path / "run", "--dry-run"]
    answer = nas_command(*command)
    assert (answer.status, "--encoding cp1252" in answer.err) == (2, True)
    answer = nas_command(*command, "--encoding", "cp1252")
    assert (answer.status, "name it with --separator" in answer.err) == (2, True)
    flags = {"encoding": "cp1252", "separator": "#"}
    (tmp_path / "flags.json").write_text(json.dumps(flags))
    told = (
        ["--config", tmp_path / "flags.json"] if in_a_file else [f"--{name}={value}" for name, value in flags.items()]
    )
    assert nas_command(*command, *told).status == 0
    assert not (tmp_path / "run").exists()


def test_the_help_has_both_flags(nas_command: Command) -> None:
    for command in ("finetune", "prune", "evolve"):
        answer = nas_command(command, "--help")
        assert answer.status == 0
        assert "--separator" in answer.out
        assert "--encoding" in answer.out


@pytest.mark.parametrize(
    ("content", "flags", "sentence"),
    [
        (b"text;label\na;1\nb;0\n", ["--separator", "::"], "--separator must be one character"),
        (b"text;label\na;1\nb;0\n", ["--encoding", "\x1b[31mno"], "--encoding must be one that Python knows"),
        (b"text;label\na;1\nb;0\n", ["--data-config", "one"], "--data-config is of data sets that have"),
        (b"\x1b[31mtext;label\na;1\nb;0\n", [], "has no text or image column"),
        (b'[{"text": {"0": "a"}}', [], "as many"),
    ],
)
def test_one_sentence_and_status_2(
    nas_command: Command, inputs: Path, tmp_path: Path, content: bytes, flags: list[str], sentence: str
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    answer = nas_command("finetune", inputs / "model", "--data", path, "--out", tmp_path / "run", *flags)
    said = answer.err.splitlines()[-1]
    assert answer.status == 2
    assert said.isprintable()
    assert said.startswith("nas: error: ")
    assert sentence in said or content.startswith(b"[")
