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
from conftest import TellCases

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


def damaged() -> Iterator[tuple[str, Rows]]:
    """The rows with each cell of one row missing, and of each value; what is wrong comes first."""
    for name in ROW:
        without = rows()
        del without[2][name]
        yield f"{name} missing", without
        for value in (*VALUES, *TEXTS):
            yield f"{name} = {value!r}", [{**row, name: value} if at == 2 else row for at, row in enumerate(rows())]


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


class Answers:
    """Reads files and folders as rows of every task, counts these cases and keeps what went wrong."""

    def __init__(self) -> None:
        self.cases, self.bad = 0, list[str]()

    def read(self, path: Path, what: object, **said: Any) -> None:
        """Read `path`, which is `what`: it must give a table, or a refusal that can be shown."""
        for task in TASKS.values():
            self.cases += 1
            wrong = self._trouble(Source(str(path), task=task, **said))
            if wrong:
                self.bad.append(f"{path.name}, {str(what)[:200]}, {task.metric}: {wrong}")

    def _trouble(self, source: Source) -> str:
        try:
            found = read_table(source)
        except UserError as error:
            sentence = str(error)
            shown = sentence.isprintable() and len(sentence) <= LONGEST
            return "" if shown else f"said {sentence[:300]!r} of {len(sentence)} characters"
        except Exception as error:
            return f"{type(error).__name__}: {error}"[:600]
        return "" if isinstance(found, Table) else f"gave {type(found).__name__}"


@pytest.fixture
def answers(tell_cases: TellCases, request: pytest.FixtureRequest) -> Iterator[Answers]:
    """What was read of one test, whose cases are told at its end."""
    made = Answers()
    yield made
    tell_cases(request.node.name, made.cases, made.bad)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", FORMS)
def test_damaged_cells(tmp_path: Path, answers: Answers, name: str) -> None:
    for number, (what, table) in enumerate(damaged()):
        try:
            content = FORMS[name](table)
        except Exception:  # what cannot be written in this form is none of its files
            continue
        path = tmp_path / name
        path.write_bytes(content)
        answers.read(path, what, **NAMED[number % len(NAMED)])


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", FORMS)
def test_damaged_bytes(tmp_path: Path, answers: Answers, name: str) -> None:
    whole, rng = FORMS[name](rows()), np.random.default_rng(0)
    path = tmp_path / name
    for length in np.linspace(0, len(whole), 12, dtype=int):
        path.write_bytes(whole[:length])
        answers.read(path, f"cut off at {length}")
    for place, byte in itertools.product(rng.integers(0, len(whole), 8), (0, 10, 34, 44, 0xE9, 0xFF)):
        path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
        answers.read(path, f"{byte} at {place}")
    squeezed = tmp_path / f"{name}.gz"
    for what, content in (
        ("compressed", gzip.compress(whole)),
        ("compressed and cut off", gzip.compress(whole)[:-9]),
        ("not compressed", whole),
        ("empty", b""),
    ):
        squeezed.write_bytes(content)
        answers.read(squeezed, what)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["a.csv", "a.json"])
def test_every_separator_and_encoding(tmp_path: Path, answers: Answers, name: str) -> None:
    encodings = ("utf-8", "utf-16", "utf-16-le", "utf-32", "cp1252", "utf-7", "idna", "unicode_escape", "undefined", "")
    whole = FORMS[name](rows()).decode()
    for written, told, separator in itertools.product(encodings[:5], encodings, (None, ",", "tab", '"', "ab")):
        path = tmp_path / name
        path.write_bytes(whole.encode(written))
        answers.read(path, f"{written} read as {told} with {separator}", encoding=told, separator=separator)


@pytest.mark.exhaustive
def test_folders_of_anything(tmp_path: Path, answers: Answers) -> None:
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
        answers.read(folder, sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()))
