"""Damage of every kind to every form of data: it is read, or refused in one printable sentence of bounded length."""

import gzip
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.data.reading import Source, read_table
from nas.data.table import Table
from nas.data.tasks import TASKS
from nas.errors import UserError
from nas.sentences import LONGEST

ROW = {"text": "a", "tokens": ["a", "b"], "label": "x", "tags": ["X", "Y"], "score": 1.5, "image": "1.png"}
VALUES = (None, "", 0, -1, -100, 10**30, float("nan"), float("inf"), True, [], ["a"], [None], [1, "a"], {}, {"a": 1})
TEXTS = ("x" * 5000, "\x00\x1b[31m", "\ud800", "1,5", '"', "\n", "\u202e", "=1+1")
Rows = list[dict[str, Any]]


def rows() -> Rows:
    return [
        {**ROW, "text": f"t{n}", "label": "xy"[n % 2], "score": n, "tags": ["X", "Y"][:: 1 - 2 * (n % 2)]}
        for n in range(6)
    ]


def damaged() -> Iterator[Rows]:
    """The rows with each cell of one row missing, and of each value."""
    for name in ROW:
        without = rows()
        del without[2][name]
        yield without
        for value in (*VALUES, *TEXTS):
            yield [{**row, name: value} if number == 2 else row for number, row in enumerate(rows())]


def of_columns(table: Rows) -> dict[str, list[Any]]:
    return {name: [row.get(name) for row in table] for name in ROW}


def delimited(table: Rows, separator: str) -> bytes:
    lines = [separator.join(ROW), *(separator.join(str(row.get(name, "")) for name in ROW) for row in table)]
    return "\n".join(lines).encode(errors="replace")


def parquet(table: Rows) -> bytes:
    import pandas

    stream = io.BytesIO()
    pandas.DataFrame(table).to_parquet(stream)
    return stream.getvalue()


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


NAMED: tuple[dict[str, Any], ...] = ({}, {"text": "text", "label": "label"}, {"image": "image", "label": "tags"})
FORMS: Mapping[str, Callable[[Rows], bytes]] = {
    "a.csv": lambda table: delimited(table, ","),
    "b.csv": lambda table: delimited(table, ";"),
    "a.tsv": lambda table: delimited(table, "\t"),
    "a.jsonl": lambda table: b"\n".join(map(dumped, table)),
    "a.json": dumped,
    "lists.json": lambda table: dumped(of_columns(table)),
    "columns.json": lambda table: dumped({name: dict(enumerate(cells)) for name, cells in of_columns(table).items()}),
    "split.json": lambda table: dumped({"columns": list(ROW), "data": [list(row.values()) for row in table]}),
    "rows.json": lambda table: dumped({"data": table, "version": 1}),
    "a.parquet": parquet,
}


def answered(path: Path, **said: Any) -> None:
    for task in TASKS.values():
        try:
            found = read_table(Source(str(path), task=task, **said))
        except UserError as error:
            sentence = str(error)
            assert "\x1b" not in sentence
            assert "\n" not in sentence
            assert len(sentence) <= LONGEST
        else:
            assert isinstance(found, Table)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", FORMS)
def test_damaged_cells(tmp_path: Path, name: str) -> None:
    for number, table in enumerate(damaged()):
        try:
            content = FORMS[name](table)
        except Exception:  # what cannot be written in this form is none of its files
            continue
        path = tmp_path / name
        path.write_bytes(content)
        answered(path, **NAMED[number % len(NAMED)])


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", FORMS)
def test_damaged_bytes(tmp_path: Path, name: str) -> None:
    whole, rng = FORMS[name](rows()), np.random.default_rng(0)
    path = tmp_path / name
    for length in np.linspace(0, len(whole), 12, dtype=int):
        path.write_bytes(whole[:length])
        answered(path)
    for place, byte in itertools.product(rng.integers(0, len(whole), 8), (0, 10, 34, 44, 0xE9, 0xFF)):
        path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
        answered(path)
    squeezed = tmp_path / f"{name}.gz"
    for content in (gzip.compress(whole), gzip.compress(whole)[:-9], whole, b""):
        squeezed.write_bytes(content)
        answered(squeezed)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["a.csv", "a.json"])
def test_every_separator_and_encoding(tmp_path: Path, name: str) -> None:
    encodings = ("utf-8", "utf-16", "utf-16-le", "utf-32", "cp1252", "utf-7", "idna", "unicode_escape", "undefined", "")
    whole = FORMS[name](rows()).decode()
    for written, told, separator in itertools.product(encodings[:5], encodings, (None, ",", "tab", '"', "ab")):
        path = tmp_path / name
        path.write_bytes(whole.encode(written))
        answered(path, encoding=told, separator=separator)


@pytest.mark.exhaustive
def test_folders_of_anything(tmp_path: Path) -> None:
    contents = (
        b"",
        b"text,label\na,1\nb,2\n",
        b"file_name,label\n1.png,1\n",
        b"{}",
        b"---\nconfigs:\n---\n",
        b"[" * 9999,
    )
    names = (
        "1.png",
        "train.csv",
        "metadata.csv",
        "a.jsonl",
        "state.json",
        "dataset_info.json",
        "dataset_dict.json",
        "README.md",
    )
    places = ("", "train", "test", "train/a", "train/b", "x\x1b[31m", "a/b/c")
    rng = np.random.default_rng(0)
    for number in range(100):
        folder = tmp_path / str(number)
        for _ in range(rng.integers(1, 7)):
            path = folder / str(rng.choice(places)) / str(rng.choice(names))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(contents[rng.integers(len(contents))])
        answered(folder)
