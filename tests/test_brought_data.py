"""Tables, folders and data sets as people have them: read where that is certain, else one sentence with the remedy."""

import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.data.reading import Source, load_data, read_table
from nas.data.split import Data, make_split
from nas.data.table import Table
from nas.data.tasks import Regression, TokenClassification
from nas.errors import UserError
from nas.sentences import LONGEST
from tests import toy_task
from tests.toy_pictures import picture, pictures

ROWS = [("good, really", "yes"), ("bad; no", "no"), ("fine", "yes"), ("na\u00efve \u4e2d\u6587", "no")]
TEXTS, LABELS = [text for text, _ in ROWS], [0 if label == "no" else 1 for _, label in ROWS]
REGRESSION, TAGGING = Regression(), TokenClassification()


def table(path: Path, **named: Any) -> Table:
    return read_table(Source(str(path), **named))


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refused(path: Path, **named: Any) -> str:
    with pytest.raises(UserError) as caught:
        table(path, **named)
    sentence = str(caught.value)
    assert sentence.isprintable()
    assert len(sentence) <= LONGEST
    return sentence


def lines(separator: str, rows: Sequence[Sequence[str]] = ROWS, header: Sequence[str] = ("text", "label")) -> str:
    quoted = [[f'"{cell}"' if separator in cell else cell for cell in row] for row in (header, *rows)]
    return "\n".join(separator.join(row) for row in quoted) + "\n"


# Separators -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize(("separator", "word"), [(",", "commas"), (";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_a_separator_that_is_certain_is_taken_and_said(tmp_path: Path, name: str, separator: str, word: str) -> None:
    found = table(written(tmp_path / name, lines(separator)))
    assert (list(found.parts["train"][0]), found.parts["train"][1].tolist()) == (TEXTS, LABELS)
    usual = separator == ("," if name == "a.csv" else "\t")
    assert [word in note for note in found.notes] == ([False] if usual else [True, False])


@pytest.mark.parametrize("first", ["sep=;", "SEP=;", '"sep=;"'])
def test_the_first_line_may_name_the_separator(tmp_path: Path, first: str) -> None:
    found = table(written(tmp_path / "a.csv", f"{first}\r\n{lines(';')}"))
    assert list(found.parts["train"][0]) == TEXTS
    found = table(written(tmp_path / "b.csv", f"{first.replace(';', '#')}\n{lines('#')}"))
    assert list(found.parts["train"][0]) == TEXTS
    assert "#" in found.notes[0]


def test_a_separator_that_is_not_certain_is_named_by_a_flag(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "text,label\ngood, really,1\nbad,0\n")
    assert "name another --separator (row 1 has 3 fields, the header 2)" in refused(path)
    path = written(tmp_path / "b.csv", lines("#", [("good", "yes"), ("bad", "no")]))
    assert "its columns are text#label; where another character" in refused(path)
    assert list(table(path, separator="#").parts["train"][0]) == ["good", "bad"]
    # Both divide all lines alike: the usual one holds, unless another one is named.
    path = written(tmp_path / "c.csv", "text,label;text,label\n" + "a,b;c,d\n" * 3)
    assert refused(path, text="text", label="label;text").endswith("all are 'b;c'")
    assert refused(path, text="text,label", label="text,label.1", separator=";").endswith("all are 'c,d'")


@pytest.mark.parametrize("given", ["tab", "\\t", "\t", "TAB"])
def test_the_separator_may_be_a_tab(tmp_path: Path, given: str) -> None:
    path = written(tmp_path / "a.csv", "id,x\ttext\tlabel\n" + "1,2\tgood\t1\n" + "3\tbad,er\t0\n")
    assert list(table(path, separator=given).parts["train"][0]) == ["good", "bad,er"]


@pytest.mark.parametrize("given", ["", ";;", '"', "\n", "\0"])
def test_a_separator_is_one_character(tmp_path: Path, given: str) -> None:
    assert "--separator must be one character" in refused(written(tmp_path / "a.csv", lines(",")), separator=given)


def test_quotes_that_match_under_another_separator(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", 'text;label\n"good; ""really""";1\n"bad, no";0\n"two\nlines";1\n')
    assert list(table(path).parts["train"][0]) == ['good; "really"', "bad, no", "two\nlines"]


@pytest.mark.parametrize(
    "content", ["id, Text , label\n1,good,1\n2,bad,0\n", '"id", "text", "label"\n"1", "good", "1"\n"2", "bad", "0"\n']
)
def test_a_space_after_a_separator(tmp_path: Path, content: str) -> None:
    found = table(written(tmp_path / "a.csv", content))
    assert (list(found.parts["train"][0]), found.classes) == (["good", "bad"], ("0", "1"))
    assert table(tmp_path / "a.csv", label=" label ").parts["train"][1].tolist() == [1, 0]


def test_names_of_columns_in_any_file_may_have_spaces(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{" text": "good", "label ": 1}\n{" text": "bad", "label ": 0}')
    assert list(table(path).parts["train"][0]) == ["good", "bad"]
    assert list(table(path, text="text", label="label").parts["train"][0]) == ["good", "bad"]


# Encodings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json"])
def test_an_encoding_that_is_certain_is_taken_and_said(tmp_path: Path, encoding: str, name: str) -> None:
    rows = [{"text": text, "label": label} for text, label in ROWS]
    content = {
        "a.csv": lines(","),
        "a.jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        "a.json": json.dumps(rows, ensure_ascii=False),
    }[name]
    found = table(written(tmp_path / name, content.encode(encoding)))
    assert list(found.parts["train"][0]) == TEXTS
    assert (encoding.upper() in found.notes[0]) == (encoding != "utf-8-sig")


def test_an_encoding_that_is_not_certain_is_named_by_a_flag(tmp_path: Path) -> None:
    content = "text,label\nplain,0\ncaf\u00e9 \u2013 cr\u00e8me,1\n".encode("cp1252")
    sentence = refused(written(tmp_path / "a.csv", content))
    assert "a.csv must be in UTF-8, but line 3 is not" in sentence
    assert "--encoding cp1252 (Western Europe) if that line has 'plain" not in sentence
    assert "'caf\u00e9 \u2013 cr\u00e8m" in sentence
    assert list(table(tmp_path / "a.csv", encoding="cp1252").parts["train"][0]) == [
        "plain",
        "caf\u00e9 \u2013 cr\u00e8me",
    ]
    assert "not in the encoding ascii: its line 3" in refused(tmp_path / "a.csv", encoding="ascii")
    for encoding in ("shift_jis", "gb18030"):
        path = written(tmp_path / f"{encoding}.csv", "text,label\n\u6620\u753b,1\n\u65e5\u672c,0\n".encode(encoding))
        assert list(table(path, encoding=encoding).parts["train"][0]) == ["\u6620\u753b", "\u65e5\u672c"]


@pytest.mark.parametrize(
    "content", [lines(",").encode("utf-16-be"), b"te\0xt,label\na,1\nb,0\n", b"\xff\xfet\0\0\xd8\0"]
)
def test_a_wrong_encoding_is_told_by_the_first_line(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path / "a.csv", content)
    assert "--encoding" in refused(path, encoding="cp1252" if content.startswith(b"\0") else None)


@pytest.mark.parametrize("given", ["none", "rot13", "hex", "", "\0", "x" * 999])
def test_an_encoding_is_one_of_python(tmp_path: Path, given: str) -> None:
    assert "--encoding must be one that Python knows" in refused(
        written(tmp_path / "a.csv", lines(",")), encoding=given
    )


def test_separator_and_encoding_reach_a_data_set_that_names_its_files(tmp_path: Path) -> None:
    written(tmp_path / "a.csv", "text;label\ncaf\u00e9;NA\nx;01\n".encode("cp1252"))
    readme = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: a.csv\n---\n"
    written(tmp_path / "README.md", readme)
    found = table(tmp_path, separator=";", encoding="cp1252")
    assert (list(found.parts["train"][0]), found.classes) == (["caf\u00e9", "x"], ("01", "NA"))


# Images ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["image", "img", "file_name", "path", "foto"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_table_may_name_images_beside_it(tmp_path: Path, column: str, suffix: str) -> None:
    import pandas

    names = [f"files/{number}.png" for number in range(4)]
    pictures(tmp_path / "data", names)
    names[3] = str(tmp_path / "data" / names[3])
    rows = pandas.DataFrame({column: names, "label": [0, 1, 0, 1]})
    path = tmp_path / "data" / f"labels{suffix}"
    if suffix == ".csv":
        rows.to_csv(path, index=False)
    elif suffix == ".jsonl":
        rows.to_json(path, orient="records", lines=True)
    else:
        rows.to_parquet(path)
    for place in (path, path.parent):
        found = table(place)
        assert (found.kind, found.classes) == ("image", ("0", "1"))
        assert list(found.parts["train"][0]) == [Path(path.parent, name).read_bytes() for name in names]
    assert table(path, image=column).kind == "image"
    assert table(path, text=column).kind == "text"


def test_a_name_without_its_image_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "0.png")
    path = written(tmp_path / "a.csv", "image,label\n0.png,0\nfiles/1.png,1\n")
    assert refused(path) == f"column image of row 2 of {path} names 'files/1.png', which is no file in {tmp_path}/files"
    for name in (".", "x" * 999, "a\x1b[31m.png"):
        assert "column image of row 2" in refused(written(path, f"image,label\n0.png,0\n{name},1\n"), image="image")
    path = written(tmp_path / "b.parquet", b"")
    import pandas

    pandas.DataFrame({"image": [b"x", "a.png"][:1] * 2, "label": [0, 1]}).to_parquet(path)
    assert table(path).kind == "image"
    assert "must hold a text" in refused(path, text="image")


def test_an_address_of_a_picture_beside_a_text_is_no_picture(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "image,text,label\nhttps://x/1,good,1\nhttps://x/2,bad,0\n")
    assert list(table(path).parts["train"][0]) == ["good", "bad"]


@pytest.mark.parametrize(
    "names",
    [
        ["{c}/{i}.png"],
        ["all/{c}/{i}.png"],
        ["{c}/images/{i}.png"],
        ["x/{c}/y/{i}.png"],
        ["train/{c}/{i}.png", "test/{c}/{i}.png"],
        ["train/all/{c}/{i}.png", "test/{c}/images/{i}.png"],
        ["data/train/{c}/{i}.png", "data/val/{c}/{i}.png", "data/test/{c}/{i}.png"],
    ],
)
def test_classes_are_the_one_level_of_folders_that_differs(tmp_path: Path, names: Sequence[str]) -> None:
    pictures(tmp_path, [name.format(c=c, i=i) for name in names for c in ("cat", "dog") for i in range(3)])
    found = table(tmp_path)
    assert found.classes == ("cat", "dog")
    assert [labels.tolist() for _, labels in found.parts.values()] == [[0, 0, 0, 1, 1, 1]] * len(names)


@pytest.mark.parametrize(
    ("names", "rule"),
    [
        (["{c}.{i}.png"], "in several folders, one for each class, or a table"),
        (["train/{c}{i}.png", "test/{i}.png"], "in several folders, one for each class, or a table"),
        (["cat/{c}/{i}.png", "dog/{c}/{i}.png"], "in folders cat, dog, and in these in folders cat, dog"),
        (["{c}/{i}.png", "{c}/more/{i}.png", "{c}/more/a{i}.png"], "must be in the folder of its class, "),
        (["train/{c}/{i}.png", "test/{c}/{i}.png", "extra/{c}/{i}.png"], "in folders extra, test, train, and in these"),
    ],
)
def test_folders_that_say_no_classes(tmp_path: Path, names: Sequence[str], rule: str) -> None:
    pictures(tmp_path, [name.format(c=c, i=i) for name in names for c in ("cat", "dog") for i in range(3)])
    assert rule in refused(tmp_path)


@pytest.mark.parametrize("names", ["test/{i}.png", "test/test/{i}.png", "test/unknown/{i}.png"])
def test_an_unlabelled_test_folder_is_left_out_and_said(tmp_path: Path, names: str) -> None:
    pictures(tmp_path, [f"train/{c}/{i}.png" for c in ("cat", "dog") for i in range(3)])
    pictures(tmp_path, [names.format(i=i) for i in range(4)])
    found = table(tmp_path)
    assert (list(found.parts), found.classes) == (["train"], ("cat", "dog"))
    assert "Rows of test left out, none has a label: 4" in found.notes


def test_a_test_folder_of_one_class_has_it(tmp_path: Path) -> None:
    pictures(tmp_path, [f"train/{c}/{i}.png" for c in ("cat", "dog") for i in range(3)])
    pictures(tmp_path, [f"test/dog/{i}.png" for i in range(2)])
    assert table(tmp_path).parts["test"][1].tolist() == [1, 1]


def test_a_damaged_image_is_named_by_its_file(tmp_path: Path) -> None:
    pictures(tmp_path, [f"{c}/{i}.png" for c in ("cat", "dog") for i in range(3)])
    path = written(tmp_path / "dog" / "9.png", b"no image")
    from nas.data.pixels import PlainImages

    with pytest.raises(UserError, match=f"the first is {path}"):
        load_data(Source(str(tmp_path)), PlainImages("x", (4, 4)), seed=0)


# Data sets ------------------------------------------------------------------------------------------------------------


def saved(split: bool, path: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = datasets.Dataset.from_dict({"text": TEXTS, "label": LABELS}, features)
    if split:
        datasets.DatasetDict({"train": rows, "test": rows.select([0, 1])}).save_to_disk(path)
    else:
        rows.with_format("numpy", columns=["label"]).save_to_disk(path)


@pytest.mark.parametrize("split", [False, True])
def test_a_saved_data_set(tmp_path: Path, split: bool) -> None:
    saved(split, tmp_path / "saved")
    found = table(tmp_path / "saved")
    assert (list(found.parts["train"][0]), found.parts["train"][1].tolist()) == (TEXTS, LABELS)
    assert (list(found.parts), found.classes) == (["train", "test"] if split else ["train"], ("no", "yes"))
    if split:
        assert list(table(tmp_path / "saved" / "test").parts["train"][0]) == TEXTS[:2]


def test_a_damaged_saved_data_set(tmp_path: Path) -> None:
    saved(False, tmp_path)
    for name in ("state.json", "dataset_info.json"):
        content = (tmp_path / name).read_bytes()
        for wrong in (b"", b"[1]", content[:40]):
            written(tmp_path / name, wrong)
            refused(tmp_path)
        written(tmp_path / name, content)
    arrow = next(tmp_path.glob("*.arrow"))
    written(arrow, arrow.read_bytes()[:100])
    refused(tmp_path)


@pytest.mark.parametrize("orient", ["columns", "index", "split", "records", "table", "values"])
def test_json_as_pandas_writes_it(tmp_path: Path, orient: Any) -> None:
    import pandas

    rows = pandas.DataFrame({"text": TEXTS * 9, "label": LABELS * 9})
    rows.to_json(tmp_path / "a.json", orient=orient)
    if orient == "values":
        assert "must be JSON objects, one a row; row 1 is none" in refused(tmp_path / "a.json")
        return
    assert list(table(tmp_path / "a.json").parts["train"][0]) == TEXTS * 9
    rows.index = [f"id{number}" for number in rows.index]
    rows.to_json(tmp_path / "b.json", orient=orient)
    if orient in ("columns", "index"):
        assert 'orient="records"' in refused(tmp_path / "b.json")
    else:
        assert list(table(tmp_path / "b.json").parts["train"][0]) == TEXTS * 9


def test_json_with_its_rows_under_a_name(tmp_path: Path) -> None:
    rows = [{"text": text, "label": label} for text, label in ROWS]
    path = written(tmp_path / "a.json", json.dumps({"version": "1", "license": [], "data": rows}))
    assert list(table(path).parts["train"][0]) == TEXTS
    path = written(tmp_path / "B.JSON", json.dumps({"rows": rows}))
    assert list(table(path).parts["train"][0]) == TEXTS
    assert "no label column" in refused(written(tmp_path / "c.jsonl", json.dumps({"rows": rows})))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("3", "row 1 is none"),
        ('[{"text": "a"}, 3]', "row 2 is none"),
        ('{"text": "a"}\n{"text": "b"', "line 2: "),
        ('[{"text": "a"},\n{"text"]', "line 2 column 8"),
        ("[" * 100_000, "nested too deeply"),
        ('{"text": {}, "label": {}}', "must hold rows"),
        ('{"columns": ["text", "label"], "data": [["a", 1], ["b"]]}', "row 2 has not"),
        ('[{"text": "a", "label": 1}, {"text": "b", "label": "x"}]', "column label of .* row 2 has 'x', .* 1"),
        ('[{"text": "a", "label": 1}, {"text": "\\ud800", "label": 2}]', "column text of .* cannot be read"),
        ('[{"text": "a", "label": [1]}, {"text": "b", "label": [[2]]}]', "column label of .* cannot be read"),
        ('[{"text": ["a"], "label": 1}, {"text": ["b"], "label": 2}]', "column text of row 1 .* must hold a text, got"),
        ('[{"text": "a", "label": [1]}, {"text": "b", "label": [2]}]', "column label of row 1 .* must hold one class"),
    ],
)
def test_json_that_is_no_table(tmp_path: Path, content: str, sentence: str) -> None:
    import re

    assert re.search(sentence, refused(written(tmp_path / "a.json", content)))


@pytest.mark.parametrize("empty", ["", "\n \n", "text,label\n", "\ufeff"])
def test_a_split_without_rows_is_left_out_and_said(tmp_path: Path, empty: str) -> None:
    written(tmp_path / "train.csv", lines(",", ROWS * 15))
    written(tmp_path / "test.csv", empty)
    found = table(tmp_path)
    assert list(found.parts) == ["train"]
    assert "No rows for test in" in found.notes[0]
    written(tmp_path / "train-1.csv", empty)
    assert any("File without rows left out: " in note for note in table(tmp_path).notes)
    written(tmp_path / "train.csv", empty)
    assert "must hold rows, all of its 2 files are empty" in refused(tmp_path)


def test_a_split_without_rows_in_other_forms(tmp_path: Path) -> None:
    import datasets
    import pandas

    written(tmp_path / "a" / "train.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": 0}')
    written(tmp_path / "a" / "test.jsonl", "[]")
    pandas.DataFrame({"text": [], "label": []}).to_parquet(tmp_path / "a" / "dev.parquet")
    notes = table(tmp_path / "a").notes
    assert any("No rows for test in" in note for note in notes)
    assert any("No rows for validation in" in note for note in notes)
    rows = datasets.Dataset.from_dict({"text": TEXTS, "label": LABELS})
    datasets.DatasetDict({"train": rows, "test": rows.select([])}).save_to_disk(tmp_path / "b")
    assert f"Splits of {tmp_path / 'b'} left out, without rows: test" in table(tmp_path / "b").notes


def test_an_unlabelled_table_is_left_out_and_said(tmp_path: Path) -> None:
    written(tmp_path / "train.csv", lines(","))
    written(tmp_path / "test.csv", "id,text\n1,good\n2,bad\n")
    found = table(tmp_path)
    assert list(found.parts) == ["train"]
    assert "Rows of test left out, none has a label: 2" in found.notes
    written(tmp_path / "test.csv", "id,label\n1,yes\n")
    assert f"must have a column text, row 1 of {tmp_path}/test.csv has none; its columns are id, label" in refused(
        tmp_path
    )


def test_a_configuration_of_a_folder(tmp_path: Path) -> None:
    for number, name in enumerate(("one", "two")):
        written(tmp_path / name / "train.csv", f"text,label\na{number},0\nb{number},1\n")
    parts = "".join(f"- config_name: {name}\n  data_files: {name}/train.csv\n" for name in ("one", "two"))
    written(tmp_path / "README.md", f"---\nconfigs:\n{parts}---\n")
    assert list(table(tmp_path, config="two").parts["train"][0]) == ["a1", "b1"]
    assert refused(tmp_path).endswith("has several configurations; name one with --data-config: one, two")
    assert "it has no 'three'; name one with --data-config: one, two" in refused(tmp_path, config="three")
    assert "has none" in refused(tmp_path / "one", config="two")
    written(tmp_path / "README.md", "---\nconfigs:\n- data_files: one/train.csv\n---\n")
    assert str(tmp_path) in refused(tmp_path)
    assert "has none" in refused(tmp_path / "one" / "train.csv", config="two")


# Labels ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "test", "classes"),
    [
        (("true", "false", "unknown"), ("true", "false"), ("false", "true", "unknown")),
        (("true", "false"), ("True",), ("False", "True")),
        (("1.0", "x"), ("1.0",), ("1.0", "x")),
        (("1.0", "2.0"), ("2.0",), ("1", "2")),
    ],
)
def test_the_classes_of_all_splits_together_say_how_they_are_written(
    tmp_path: Path, train: tuple[str, ...], test: tuple[str, ...], classes: tuple[str, ...]
) -> None:
    for name, labels in (("train", train), ("test", test)):
        written(tmp_path / f"{name}.csv", "text,label\n" + "".join(f"{name} {each},{each}\n" for each in labels))
    assert table(tmp_path).classes == classes


def test_the_number_of_one_file_is_the_word_of_another(tmp_path: Path) -> None:
    import pandas

    written(tmp_path / "train.csv", "text,label\na,1\nb,2\n")
    pandas.DataFrame({"text": ["c", "d"], "label": [1, 2]}).to_parquet(tmp_path / "test.parquet")
    assert table(tmp_path).classes == ("1", "2")


def test_exact_decimal_numbers(tmp_path: Path) -> None:
    import pandas

    path = tmp_path / "a.parquet"
    numbers = [Decimal("1.25"), Decimal("-3.50"), Decimal("2.00")]
    pandas.DataFrame({"text": TEXTS[:3], "score": numbers}).to_parquet(path)
    assert table(path, task=REGRESSION).parts["train"][1].tolist() == [1.25, -3.5, 2.0]
    pandas.DataFrame({"text": TEXTS[:3], "label": [Decimal(1), Decimal(10), Decimal(2)]}).to_parquet(path)
    assert table(path).classes == ("1", "2", "10")
    pandas.DataFrame({"text": TEXTS[:3], "label": numbers}).to_parquet(path)
    assert "column label of row 1 of" in refused(path)


def test_decimal_commas(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "text;score\na;3,5\nb;-0,125\nc;2\nd;,5\n")
    assert table(path, task=REGRESSION).parts["train"][1].tolist() == [3.5, -0.125, 2.0, 0.5]
    # Thousands or thousandths.
    written(path, "text;score\na;3,500\nb;1,125\n")
    assert "column score of row 1 of" in refused(path, task=REGRESSION)
    written(path, "text;score\na;3,5\nb;1,125.0\n")
    assert "got '3,5'" in refused(path, task=REGRESSION)


def test_a_missing_number_is_named(tmp_path: Path) -> None:
    import pandas

    path = tmp_path / "a.parquet"
    pandas.DataFrame({"text": TEXTS[:3], "label": [1.0, np.nan, 0.0]}).to_parquet(path)
    for task in (REGRESSION, Source("").task):
        assert refused(path, task=task) == f"every row must have a label, column label of row 2 of {path} has none"


def test_a_class_that_the_data_does_not_name(tmp_path: Path) -> None:
    import datasets
    import pyarrow.parquet

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = datasets.Dataset.from_dict({"text": TEXTS, "label": LABELS}, features)
    broken = rows.data.table.set_column(1, "label", [[0, 1, 2, 0]]).replace_schema_metadata(
        rows.data.table.schema.metadata
    )
    pyarrow.parquet.write_table(broken, tmp_path / "a.parquet")
    assert "column label of row 3 of" in refused(tmp_path / "a.parquet")


def test_lists_in_a_csv_are_refused_with_the_remedy(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", """tokens,tags\n"['a', 'b']","['X', 'Y']"\n""")
    assert f"column tags of row 1 of {path} must hold a list of tags, got '['X', 'Y']'; where labels are" in refused(
        path, task=TAGGING
    )


def tagged(path: Path, rows: Sequence[tuple[list[str] | None, list[Any] | None]]) -> Path:
    content = [json.dumps({"tokens": words, "tags": tags}) for words, tags in rows]
    return written(path, "\n".join(content))


def test_a_row_without_words_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = [(["a", "b"], ["X", "Y"]), ([], []), (["c"], ["Y"]), (None, None), (["d"], [None])]
    found = table(tagged(tmp_path / "a.jsonl", rows), task=TAGGING)
    assert list(found.parts["train"][0]) == [("a", "b"), ("c",)]
    assert "Rows of train left out, without words or without a tag: 3" in found.notes
    assert found.places["train"].place(1) == f"row 3 of {tmp_path}/a.jsonl"
    sentence = refused(tagged(tmp_path / "b.jsonl", [*rows, (["e", "f"], None)]), task=TAGGING)
    assert sentence.endswith("row 6 of " + str(tmp_path / "b.jsonl") + " has 2 words and 0 tags")


@pytest.mark.parametrize("none", [-100, "-100", None, ""])
def test_words_without_a_tag_do_not_count(tmp_path: Path, none: Any) -> None:
    numbers = none == -100
    x, y = (0, 1) if numbers else ("X", "Y")
    rows = [(["good", "bad", "it"], [x, none, y]), (["it", "good"], [none, y]), (["bad", "it"], [x, none])] * 5
    rows = [([*words, str(number)], [*tags, none]) for number, (words, tags) in enumerate(rows)]
    data = load_data(Source(str(tagged(tmp_path / "a.jsonl", rows)), task=TAGGING), toy_task.preprocessor(), seed=0)
    assert data.classes == (("0", "1") if numbers else ("X", "Y"))
    wanted = {tuple(words): [-1 if tag == none else (x, y).index(tag) for tag in tags] for words, tags in rows}
    data.save(tmp_path / "data")
    again = Data.load(tmp_path / "data", toy_task.preprocessor())
    assert again.fingerprint == data.fingerprint
    for split in (data.train, data.validation, data.test, again.train, again.test):
        for number, words in enumerate(split.rows):
            targets = split.targets([number])[0].tolist()
            assert targets == [-100, *(tag if tag >= 0 else -100 for tag in wanted[tuple(words)]), -100]


def test_the_share_of_right_words_is_of_those_with_a_tag() -> None:
    split = make_split([("good", "bad", "it")], [[1, -100, 0]], toy_task.preprocessor(), task=TAGGING)
    logits = np.zeros((1, 5, 2))
    logits[0, 1, 1] = logits[0, 2, 1] = logits[0, 3, 1] = 1
    assert split.task.score(logits, split) == 0.5
    nothing = make_split([("good",)], [[-100]], toy_task.preprocessor(), task=TAGGING)
    assert nothing.targets([0]).tolist() == [[-100, -100, -100]]


# Sentences ------------------------------------------------------------------------------------------------------------


def wide(path: Path) -> Path:
    return written(path, ",".join(f"{'x' * 50}{n}" for n in range(2000)) + "\n" + ",".join(["1"] * 2000) + "\n")


@pytest.mark.parametrize(
    "write",
    [
        wide,
        lambda path: written(path, f"text,label\na,{'x' * 100_000}\nb,{'x' * 100_000}\n"),
        lambda path: written(path, "text,label\na,\x1b[31m\x07\u202e\nb,\x1b[31m\x07\u202e\n"),
        lambda path: written(path, "\x1b[2J" * 500 + ",label\na,1\n"),
        lambda path: written(path, f"text,label\n{'a,' * 10_000}1\n"),
        lambda path: written(path, b"text,label\n" + b"\xff\x1b" * 10_000),
        lambda path: written(path.with_suffix(".json"), json.dumps({"x" * 9999: {"\x1b": 1}, "y": {"\x1b": 2}})),
        lambda path: written(path.with_suffix(".xls\x1b[31mx"), "a"),
        lambda path: path.with_name("\x1b[31m" + "x" * 200 + ".csv"),
    ],
)
def test_a_sentence_about_any_data_is_bounded_and_printable(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    refused(write(tmp_path / "a.csv"))
