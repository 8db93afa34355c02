"""A separator or an encoding that is said of data without such files is refused, not ignored."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas
import pytest

from nas.data.reading import Source, read_table
from nas.errors import UserError
from tests.toy_pictures import pictures

ROWS = {"text": ["caf\u00e9", "tea"], "label": ["yes", "no"]}


def parquet(folder: Path) -> Path:
    pandas.DataFrame(ROWS).to_parquet(folder / "train.parquet")
    return folder / "train.parquet"


def tables(folder: Path) -> Path:
    parquet(folder)
    pandas.DataFrame(ROWS).to_parquet(folder / "test.parquet")
    return folder


def images(folder: Path) -> Path:
    return pictures(folder, ["no/a.png", "no/b.png", "yes/c.png", "yes/d.png"])


def saved(folder: Path) -> Path:
    datasets.Dataset.from_dict(ROWS).save_to_disk(folder / "saved")
    return folder / "saved"


def described(folder: Path) -> Path:
    """In the hub's form, whose files Hugging Face datasets reads."""
    (folder / "a.jsonl").write_text('{"text": "a", "label": "no"}\n{"text": "b", "label": "yes"}\n', encoding="utf-8")
    readme = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: a.jsonl\n---\n"
    (folder / "README.md").write_text(readme, encoding="utf-8")
    return folder


def lines(folder: Path) -> Path:
    rows = [{"text": text, "label": label} for text, label in zip(*ROWS.values(), strict=True)]
    content = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "a.jsonl").write_text(content, encoding="cp1252")
    return folder / "a.jsonl"


@pytest.mark.parametrize("form", [{"separator": ";"}, {"encoding": "cp1252"}])
@pytest.mark.parametrize("made", [parquet, tables, images, saved, described])
def test_data_without_such_files(tmp_path: Path, made: Callable[[Path], Path], form: dict[str, Any]) -> None:
    path = made(tmp_path)
    (flag,) = form
    with pytest.raises(UserError, match=rf"^--{flag} is of CSV.* files, the data in {path} has none; leave it out$"):
        read_table(Source(str(path), **form))
    assert len(read_table(Source(str(path))).classes) == 2


def test_json_has_an_encoding_and_no_separator(tmp_path: Path) -> None:
    path = lines(tmp_path)
    assert list(read_table(Source(str(path), encoding="cp1252")).parts["train"][0]) == ROWS["text"]
    with pytest.raises(UserError, match="--separator is of CSV and TSV files"):
        read_table(Source(str(path), separator=",", encoding="cp1252"))


def test_one_such_file_is_enough(tmp_path: Path) -> None:
    pandas.DataFrame(ROWS).to_parquet(tmp_path / "train.parquet")
    (tmp_path / "test.csv").write_bytes("text;label\ncaf\u00e9;yes\n".encode("cp1252"))
    found = read_table(Source(str(tmp_path), separator=";", encoding="cp1252"))
    assert list(found.parts["test"][0]) == ["caf\u00e9"]
