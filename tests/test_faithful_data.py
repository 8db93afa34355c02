"""What a table or a picture holds is what is read: every row, strings as strings, pixels as a viewer shows them."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.data.location import _described
from nas.data.pixels import PlainImages, undecodable
from nas.data.reading import Source, read_table
from nas.data.split import make_split
from nas.data.table import Table
from nas.data.text_files import TextForm
from nas.errors import UserError
from tests.toy_pictures import picture, pictures


def table(path: Path, **columns: str) -> Table:
    return read_table(Source(str(path), **columns))


def lines(path: Path, rows: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def rows_of(found: Table) -> dict[str, int]:
    return {name: len(rows) for name, (rows, _) in found.parts.items()}


# Names of splits ------------------------------------------------------------------------------------------------------


def test_a_class_or_a_file_is_no_split_by_a_part_of_its_name(tmp_path: Path) -> None:
    found = table(pictures(tmp_path / "a", [f"{name}/{i}.png" for name in ("car", "crash test") for i in range(8)]))
    assert (found.classes, rows_of(found)) == (("car", "crash test"), {"train": 16})
    names = [f"{kind}/{stem}_{i:02}.png" for kind in ("x", "y") for stem in ("latest", "contest") for i in range(8)]
    found = table(pictures(tmp_path / "b", names))
    assert rows_of(found) == {"train": 32}
    assert found.notes == ("Rows read: 32 train; columns image and label",)


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "dev", "Testing"), ("in/train", "in/valid")])
def test_folders_with_exact_names_are_splits(tmp_path: Path, names: Sequence[str]) -> None:
    found = table(pictures(tmp_path, [f"{split}/{kind}/{i}.png" for split in names for kind in "xy" for i in range(3)]))
    assert list(rows_of(found).values()) == [6] * len(names)
    assert set(found.parts) == {"train", "validation", "test"} if len(names) == 3 else {"train", "validation"}
    assert found.parts["train"][1].tolist() == [0, 0, 0, 1, 1, 1]


def test_folders_are_classes_where_one_has_no_name_of_a_split(tmp_path: Path) -> None:
    found = table(pictures(tmp_path, [f"{name}/{i}.png" for name in ("test", "train", "exam") for i in range(4)]))
    assert (found.classes, rows_of(found)) == (("exam", "test", "train"), {"train": 12})
    assert "No splits" in found.notes[0]


def test_files_that_are_left_out_are_said(tmp_path: Path) -> None:
    pictures(tmp_path / "a", [f"{kind}/{i}.png" for kind in "xy" for i in range(3)])
    lines(tmp_path / "a" / "x" / "notes.txt", ["hello"])
    assert "no images: 1 (x/notes.txt)" in table(tmp_path / "a").notes[0]
    lines(tmp_path / "b" / "train.csv", ["text,label", "a,0", "b,1"])
    lines(tmp_path / "b" / "sample_submission.csv", ["id,label", "1,0"])
    assert "have one: 1 (sample_submission.csv)" in table(tmp_path / "b").notes[0]
    picture(tmp_path / "a" / "top.png")
    with pytest.raises(UserError, match=r"must be in the folder of its class, .*top\.png is not"):
        table(tmp_path / "a")


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train.csv", "dev.csv"), ["train", "validation"]),
        (("train-00000-of-00002.csv", "train-00001-of-00002.csv", "data/test.csv"), ["test", "train"]),
        (("train/a.csv", "test/a.csv"), ["test", "train"]),
        (("reviews_train.csv", "reviews_test.csv"), ["test", "train"]),
        (("latest_reviews.csv", "contest.csv"), ["train"]),
        (("test.csv", "other.csv"), ["train"]),
    ],
)
def test_tables_are_splits_by_exact_names(tmp_path: Path, names: Sequence[str], splits: list[str]) -> None:
    for number, name in enumerate(names):
        lines(tmp_path / name, ["text,label", f"a{number},0", f"b{number},1"])
    found = table(tmp_path)
    assert sorted(found.parts) == splits
    assert sum(rows_of(found).values()) == 2 * len(names)


def test_images_described_by_a_table(tmp_path: Path) -> None:
    pictures(tmp_path, [f"files/latest_{i}.png" for i in range(5)])
    rows = ["file_name,label", *(f"files/latest_{i}.png,0{i % 2}" for i in range(4))]
    lines(tmp_path / "metadata.csv", rows)
    found = table(tmp_path)
    assert (found.kind, found.classes, rows_of(found)) == ("image", ("00", "01"), {"train": 4})
    assert "not named in the tables: 1 (files/latest_4.png)" in found.notes[0]
    lines(tmp_path / "metadata.csv", [*rows, "files/none.png,0"])
    with pytest.raises(UserError, match=r"row 5 of .*metadata\.csv names 'files/none\.png', which is no file"):
        table(tmp_path)


# Quotes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quoted", ['"so good', '"so" good', '"so good"', 'said "so'])
def test_quotes_of_texts_keep_all_rows_of_a_tsv(tmp_path: Path, quoted: str) -> None:
    texts = [quoted if i in (3, 20, 21, 50) else f"text, {i}" for i in range(60)]
    found = table(lines(tmp_path / "a.tsv", ["text\tlabel", *(f"{t}\t{i % 2}" for i, t in enumerate(texts))]))
    assert list(found.parts["train"][0]) == texts
    assert found.notes == ("Rows read: 60 train; columns text and label",)


@pytest.mark.parametrize("separator", [",", "\t"])
@pytest.mark.parametrize("quoting", [0, 1, 2])
def test_quotes_of_a_writer_are_no_part_of_texts(tmp_path: Path, separator: str, quoting: int) -> None:
    import pandas

    texts = ['she said "no"', "one\ttab", "a, b", "two\nlines", '"whole"', "plain"] * 2
    path = tmp_path / ("a.csv" if separator == "," else "a.tsv")
    rows = pandas.DataFrame({"text": texts, "label": [i % 2 for i in range(12)]})
    rows.to_csv(path, sep=separator, quoting=quoting, index=False)
    assert list(table(path).parts["train"][0]) == texts


def test_quotes_that_do_not_match_are_refused(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.csv", ["text,label", '"so" good, really,0', "bad,1"])
    with pytest.raises(UserError, match=r"quotes in .* must match.*line 2"):
        table(path)


# Strings --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
@pytest.mark.parametrize("alone", [True, False])
def test_texts_and_classes_are_strings(tmp_path: Path, suffix: str, alone: bool) -> None:
    path = tmp_path / f"train{suffix}"
    texts, labels = ["007", "2020-01-01", "1e3", "null", "NA", "True"], ["01", "1", "NA", "01", "1", "NA"]
    if suffix.startswith(".json"):
        rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
        path.write_text("\n".join(map(json.dumps, rows)) if suffix == ".jsonl" else json.dumps(rows))
    else:
        between = "," if suffix == ".csv" else "\t"
        rows_ = [f"{text}{between}{label}" for text, label in zip(texts, labels, strict=True)]
        lines(path, [f"text{between}label", *rows_])
    found = table(path if alone else tmp_path)
    assert list(found.parts["train"][0]) == texts
    assert found.classes == ("01", "1", "NA")
    assert found.parts["train"][1].tolist() == [0, 1, 2, 0, 1, 2]


def test_numbers_of_classes_are_in_order_and_the_same_in_all_files(tmp_path: Path) -> None:
    lines(tmp_path / "train.csv", ["text,label", *(f"t{i},{i}" for i in (10, 9, 1))])
    lines(tmp_path / "test.csv", ["text,label", *(f"t{i},{i}.0" for i in (10, 9, 1))])
    found = table(tmp_path)
    assert found.classes == ("1", "9", "10")
    assert found.parts["test"][1].tolist() == found.parts["train"][1].tolist() == [2, 1, 0]


def test_a_data_set_that_names_its_splits_is_read_as_strings_too(tmp_path: Path) -> None:
    lines(tmp_path / "a.csv", ["text,label", "007,NA", "x,01"])
    lines(tmp_path / "README.md", ["---", "configs:", "- config_name: default", "  data_files:", "  - split: train"])
    with (tmp_path / "README.md").open("a") as file:
        file.write("    path: a.csv\n---\n")
    assert list(table(tmp_path).parts["train"][0]) == ["007", "x"]
    assert table(tmp_path).classes == ("01", "NA")
    part = _described(str(tmp_path), None, TextForm(), str(tmp_path / ".cache"))["train"]
    assert part["label"][:] == ["NA", "01"]


# One reader -----------------------------------------------------------------------------------------------------------


def test_a_folder_of_tables_is_read_as_a_table_alone(tmp_path: Path) -> None:
    path = lines(tmp_path / "train.csv", ["text,label,fold", *(f"t{i},{i % 2},{i % 5}," for i in range(10))])
    for place in (path, tmp_path):
        with pytest.raises(UserError, match="as many fields as its header"):
            table(place)
    lines(path, ["text,label,fold,", *(f"t{i},{i % 2},{i % 5}," for i in range(10))])
    for place in (path, tmp_path):
        assert table(place).parts["train"][1].tolist() == [0, 1] * 5


def test_files_of_one_split_must_have_the_same_columns(tmp_path: Path) -> None:
    lines(tmp_path / "a.csv", ["text,label", "a,0", "b,1"])
    lines(tmp_path / "b.csv", ["text,kind", "a,0", "b,1"])
    with pytest.raises(UserError, match="must have the same columns"):
        table(tmp_path)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_names_of_files_are_no_patterns(tmp_path: Path, suffix: str) -> None:
    import pandas

    path = tmp_path / f"data [1]*{suffix}"
    rows = pandas.DataFrame({"text": ["a", "b"], "label": [0, 1]})
    rows.to_parquet(path) if suffix == ".parquet" else rows.to_json(path, orient="records", lines=True)
    assert list(table(path).parts["train"][0]) == ["a", "b"]


# Pixels ---------------------------------------------------------------------------------------------------------------

SHADES = np.array([[0, 65535], [32768, 257]], dtype=np.uint16)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pixels(row: bytes, size: tuple[int, int] = (2, 2)) -> np.ndarray:
    split = make_split([row], [0], PlainImages("x", size, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    return np.asarray(split.batch([0])["x"][0] * 255)


@pytest.mark.parametrize(
    "row",
    [
        encoded(Image.fromarray(SHADES), "PNG"),
        encoded(Image.fromarray(SHADES), "TIFF"),
        b"P5\n2 2\n65535\n" + SHADES.astype(">u2").tobytes(),
    ],
    ids=["png", "tiff", "pgm"],
)
def test_grey_of_16_bits_is_scaled_by_its_range(row: bytes) -> None:
    assert not undecodable([row])
    assert np.round(pixels(row)).astype(int).tolist() == [[[0, 255], [128, 1]]] * 3


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_a_viewer_does(form: str, orientation: int) -> None:
    from PIL import ImageOps

    picture = Image.new("RGB", (16, 8))
    picture.paste((255, 255, 255), (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = orientation
    row = encoded(picture, form, exif=exif)
    with Image.open(io.BytesIO(row)) as again:
        seen = np.asarray(ImageOps.exif_transpose(again).convert("RGB")).transpose(2, 0, 1)
    assert seen.shape[1:] == ((8, 16) if orientation < 5 else (16, 8))
    assert np.abs(np.round(pixels(row, seen.shape[1:])) - seen).max() == 0
    corners = seen[0][[0, 0, -1, -1], [0, -1, 0, -1]] > 128
    assert int(np.flatnonzero(corners)[0]) == (0, 1, 3, 2, 0, 1, 3, 2)[orientation - 1]


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(np.full((2, 2), 0.5, dtype=np.float32)),
        Image.fromarray(np.full((2, 2), 70_000, dtype=np.int32)),
        Image.new("LAB", (2, 2)),
    ],
    ids=["float", "int32", "lab"],
)
def test_pixels_of_unknown_range_are_not_read(image: Image.Image) -> None:
    row = encoded(image, "TIFF")
    assert undecodable([row]) == [0]
    with pytest.raises(UserError, match="must be readable"):
        pixels(row)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK"])
def test_other_images_are_read_as_before(mode: str) -> None:
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20).convert(mode)
    row = encoded(image, "TIFF" if mode == "CMYK" else "PNG")
    with Image.open(io.BytesIO(row)) as again:
        usual = np.asarray(again.convert("RGB")).transpose(2, 0, 1)
    assert not undecodable([row])
    assert np.array_equal(np.round(pixels(row)), usual)


def test_a_damaged_exif_does_not_hide_an_image() -> None:
    row = encoded(Image.new("RGB", (2, 2), (9, 9, 9)), "JPEG", exif=b"Exif\x00\x00damaged")
    assert not undecodable([row])
    assert np.round(pixels(row)).max() == 9
