"""Classes that the data itself names: those of all splits together, and a sentence about a row that has another one."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
import pytest

from nas.data.reading import Source, read_table
from nas.data.table import Table
from nas.data.tasks import CLASSIFICATION, IGNORED, Task, TokenClassification
from nas.errors import UserError

NAMES = ("O", "PER")
TAGGING = TokenClassification()


def named(path: Path, labels: Sequence[Any], names: Sequence[str] = NAMES) -> None:
    """A Parquet file whose labels, or lists of tags, are of the type ClassLabel."""
    _write(path, labels, datasets.ClassLabel(names=list(names)))


def numbered(path: Path, labels: Sequence[Any]) -> None:
    """The same with plain numbers."""
    _write(path, labels, datasets.Value("int64"))


def _write(path: Path, labels: Sequence[Any], kind: Any) -> None:
    text: Any = datasets.Value("string")
    texts: list[Any] = [f"{path.stem} {row}" for row in range(len(labels))]
    if isinstance(labels[0], list):
        text, kind = datasets.List(text), datasets.List(kind)
        texts = [[f"{path.stem}{row}-{word}" for word in range(len(tags))] for row, tags in enumerate(labels)]
    features = datasets.Features({"text": text, "label": kind})
    datasets.Dataset.from_dict({"text": texts, "label": list(labels)}, features).to_parquet(path)


def lines(path: Path, labels: Sequence[Any]) -> None:
    """A file of JSON lines with labels, or lists of tags, as they are given."""
    rows = [
        {"text": [str(word) for word in range(len(label))] if isinstance(label, list) else str(row), "label": label}
        for row, label in enumerate(labels)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read(folder: Path, task: Task = CLASSIFICATION) -> Table:
    return read_table(Source(str(folder), task=task))


def labels_of(table: Table) -> dict[str, list[Any]]:
    return {name: np.asarray(labels).tolist() for name, (_, labels) in table.parts.items()}


def test_the_names_of_all_splits_are_classes(tmp_path: Path) -> None:
    named(tmp_path / "train.parquet", [0, 1])
    named(tmp_path / "validation.parquet", [0, 1], ["PER", "O"])
    named(tmp_path / "test.parquet", [0, 2], ["LOC", "O", "ORG"])
    table = read(tmp_path)
    assert table.classes == ("O", "PER", "LOC", "ORG")
    assert labels_of(table) == {"train": [0, 1], "validation": [1, 0], "test": [2, 3]}


def test_the_names_of_all_splits_are_tags(tmp_path: Path) -> None:
    named(tmp_path / "train.parquet", [[0, 1], [1, -100]])
    named(tmp_path / "test.parquet", [[0, 1]], ["LOC", "O"])
    table = read(tmp_path, TAGGING)
    assert table.classes == ("O", "PER", "LOC")
    assert labels_of(table) == {"train": [[0, 1], [1, IGNORED]], "test": [[2, 0]]}


def test_a_split_without_names_of_its_own_may_say_them(tmp_path: Path) -> None:
    named(tmp_path / "train.parquet", [0, 1])
    lines(tmp_path / "test.jsonl", ["PER", "O"])
    assert labels_of(read(tmp_path)) == {"train": [0, 1], "test": [1, 0]}
    named(tmp_path / "train.parquet", [0, 1], ["0", "1"])
    numbered(tmp_path / "validation.parquet", [1, 0])
    lines(tmp_path / "test.jsonl", ["0", "1"])
    assert labels_of(read(tmp_path)) == {"train": [0, 1], "validation": [1, 0], "test": [0, 1]}


def test_names_are_not_read_as_numbers_or_truth_values(tmp_path: Path) -> None:
    named(tmp_path / "train.parquet", [0, 1], ["1.0", "2"])
    assert read(tmp_path).classes == ("1.0", "2")
    named(tmp_path / "train.parquet", [0, 1], ["true", "false"])
    assert read(tmp_path).classes == ("true", "false")


@pytest.mark.parametrize(("labels", "got"), [(["O", "LOC"], "'LOC'"), (["O", "1"], "'1'"), (["O", "o"], "'o'")])
def test_a_row_with_another_class_is_named(tmp_path: Path, labels: list[str], got: str) -> None:
    named(tmp_path / "train.parquet", [0, 1])
    path = tmp_path / "test.jsonl"
    lines(path, labels)
    with pytest.raises(UserError) as error:
        read(tmp_path)
    sentence = f"column label of row 2 of {path} must hold classes that the data names (O, PER), got {got}"
    assert str(error.value) == sentence
    # A row without a tag is left out; the one behind it keeps its number.
    lines(path, [[None], ["O", labels[1]]])
    named(tmp_path / "train.parquet", [[0, 1]])
    with pytest.raises(UserError) as error:
        read(tmp_path, TAGGING)
    assert str(error.value) == sentence


@pytest.mark.parametrize("labels", [[0, 1], [[0, 1]]])
def test_numbers_are_none_of_the_names(tmp_path: Path, labels: list[Any]) -> None:
    named(tmp_path / "train.parquet", labels)
    numbered(tmp_path / "test.parquet", labels)
    with pytest.raises(UserError, match=r"column label of row 1 of .*test\.parquet must hold classes .*, got '0'"):
        read(tmp_path, TAGGING if isinstance(labels[0], list) else CLASSIFICATION)


def test_the_number_of_one_file_is_the_tag_of_another(tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", [["0", "1"], ["2", None]])
    numbered(tmp_path / "test.parquet", [[2, -100, 0]])
    table = read(tmp_path, TAGGING)
    assert table.classes == ("0", "1", "2")
    assert labels_of(table) == {"train": [[0, 1], [2, IGNORED]], "test": [[2, IGNORED, 0]]}


def test_tags_are_written_as_classes_are(tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", [["1.0", "2.0"]])
    lines(tmp_path / "test.jsonl", [["2.0"]])
    assert read(tmp_path, TAGGING).classes == ("1", "2")
    lines(tmp_path / "train.jsonl", [["true", "false"]])
    lines(tmp_path / "test.jsonl", [["True", "False"]])
    assert read(tmp_path, TAGGING).classes == ("False", "True")
    pandas.DataFrame({"text": [["a"]], "label": [[True]]}).to_parquet(tmp_path / "validation.parquet")
    assert read(tmp_path, TAGGING).classes == ("False", "True", "false", "true")
