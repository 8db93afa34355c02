"""Reading data of every form, splitting it without leaks, batches of like lengths, and one sentence for bad input."""

import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.data.pixels import PlainImages
from nas.data.reading import Source, load_data, read_table
from nas.data.split import Data, InputKind, RawRow, Split, make_split
from nas.data.table import Table, prepare_data
from nas.data.tasks import Regression, TokenClassification
from nas.data.tokens import TextPreprocessor
from nas.errors import UserError
from tests import toy_task

TEXTS, LABELS = toy_task.sentences(90)
TEXTS = [f"{text} {'it ' * (number % 7)}{number}" for number, text in enumerate(TEXTS)]


def csv(path: Path, texts=TEXTS, labels=LABELS, header: str = "text,label", between: str = ",") -> Path:
    lines = [header, *(f"{text}{between}{label}" for text, label in zip(texts, labels, strict=True))]
    content = "\n".join(lines) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content.encode()))
    else:
        path.write_text(content, encoding="utf-8")
    return path


def png(value: int, size: int = 4) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def source(path: Path, **columns) -> Source:
    return Source(str(path), **columns)


def load(path: Path, seed: int = 0, **columns) -> Data:
    return load_data(source(path, **columns), toy_task.preprocessor(), seed=seed)


# Forms ---------------------------------------------------------------------------------------------------------------


def write_json_lines(path: Path) -> Path:
    rows = [json.dumps({"text": text, "label": label}) for text, label in zip(TEXTS, LABELS, strict=True)]
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def write_parquet(path: Path) -> Path:
    import pandas

    pandas.DataFrame({"text": TEXTS, "label": LABELS}).to_parquet(path)
    return path


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: csv(folder / "a.csv"),
        lambda folder: csv(folder / "a.csv.gz"),
        lambda folder: csv(folder / "a.tsv", header="text\tlabel", between="\t"),
        lambda folder: write_json_lines(folder / "a.jsonl"),
        lambda folder: write_parquet(folder / "a.parquet"),
    ],
    ids=["csv", "csv.gz", "tsv", "jsonl", "parquet"],
)
def test_every_form_of_file_gives_the_same_rows(tmp_path: Path, write, capfd: pytest.CaptureFixture[str]) -> None:
    table = read_table(source(write(tmp_path)))
    assert (table.kind, table.classes) == ("text", ("0", "1"))
    assert table.parts["train"][0] == TEXTS
    assert table.parts["train"][1].tolist() == LABELS
    assert capfd.readouterr() == ("", "")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_with_a_file_a_split(tmp_path: Path) -> None:
    csv(tmp_path / "train.csv", TEXTS[:60], LABELS[:60])
    csv(tmp_path / "dev.csv", TEXTS[60:70], LABELS[60:70])
    csv(tmp_path / "test.csv", TEXTS[70:], LABELS[70:])
    data = load(tmp_path)
    assert data.train.rows == tuple(TEXTS[:60])
    assert data.validation.rows == tuple(TEXTS[60:70])
    assert data.test.rows == tuple(TEXTS[70:])


def test_a_folder_of_images(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number in range(10):
            (tmp_path / label / f"{number}.png").write_bytes(png(number + 100 * (label == "dog")))
    data = load_data(source(tmp_path), PlainImages("x", (4, 4)), seed=0)
    assert (data.kind, data.classes) == ("image", ("cat", "dog"))
    assert len(data.train) == 14
    for number, row in enumerate(data.train.batch(range(len(data.train)))["x"]):
        red = round((float(row[0, 0, 0]) + 1) * 127.5)
        assert (red >= 100) == data.train.labels[number]


def test_parquet_with_encoded_images(tmp_path: Path) -> None:
    import pandas

    images, labels = [png(value) for value in range(20)], [value % 2 for value in range(20)]
    pandas.DataFrame({"image": images, "label": labels}).to_parquet(tmp_path / "a.parquet")
    pandas.DataFrame({"image": [{"bytes": image, "path": None} for image in images], "label": labels}).to_parquet(
        tmp_path / "b.parquet"
    )
    for name in ("a", "b"):
        table = read_table(source(tmp_path / f"{name}.parquet"))
        assert table.kind == "image"
        assert list(table.parts["train"][0]) == images


# Columns and labels --------------------------------------------------------------------------------------------------


def test_columns_are_found_or_named(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv", header="Sentence,Target")
    assert read_table(source(path)).parts["train"][0] == TEXTS
    other = csv(tmp_path / "b.csv", header="words,kind")
    assert read_table(source(other, text="words", label="kind")).parts["train"][0] == TEXTS


@pytest.mark.parametrize(
    ("given", "classes"),
    [
        (["10", "9"], ("9", "10")),
        (["yes", "no"], ("no", "yes")),
        (["-1", "1"], ("-1", "1")),
        (["0.0", "1.0"], ("0", "1")),
        (["true", "false"], ("False", "True")),
        (["NA", "null"], ("NA", "null")),
    ],
)
def test_labels_become_classes(tmp_path: Path, given: list[str], classes: tuple[str, str]) -> None:
    table = read_table(source(csv(tmp_path / "a.csv", labels=[given[label] for label in LABELS])))
    assert table.classes == classes
    lowered = [name.lower() for name in classes]
    expected = [lowered.index(given[label].removesuffix(".0").lower()) for label in LABELS]
    assert table.parts["train"][1].tolist() == expected


def test_a_test_split_without_labels_does_not_count(tmp_path: Path) -> None:
    csv(tmp_path / "train.csv", TEXTS[:60], LABELS[:60])
    csv(tmp_path / "validation.csv", TEXTS[60:70], LABELS[60:70])
    csv(tmp_path / "test.csv", TEXTS[70:], [-1] * 20)
    data = load(tmp_path)
    assert data.validation.rows == tuple(TEXTS[60:70])
    assert set(data.test.rows) < set(TEXTS[:60])
    assert len(data.train) + len(data.test) == 60


# Splits --------------------------------------------------------------------------------------------------------------


def test_split_is_stratified_and_follows_from_the_seed(tmp_path: Path) -> None:
    path = csv(tmp_path / "a.csv")
    data = load(path)
    assert [len(data.train), len(data.validation), len(data.test)] == pytest.approx([63, 13.5, 13.5], abs=2)
    share = np.mean(LABELS)
    for split in (data.train, data.validation, data.test):
        assert split.labels.mean() == pytest.approx(share, abs=0.06)
    assert sorted(data.train.rows + data.validation.rows + data.test.rows) == sorted(TEXTS)
    assert load(path).fingerprint == data.fingerprint
    assert load(path, seed=1).fingerprint != data.fingerprint


def test_copies_of_a_row_stay_together_when_we_split() -> None:
    texts = [f"good {number % 15}" for number in range(60)] + [f"bad {number % 15} " for number in range(60)]
    table = Table("text", ("bad", "good"), {"train": (texts, np.repeat([1, 0], 60))})
    data = prepare_data(table, toy_task.preprocessor(), seed=0)
    parts = [{row.strip() for row in split.rows} for split in (data.train, data.validation, data.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 30
    assert data.left_out == 0
    assert len(data.train) + len(data.validation) + len(data.test) == 120


def test_rows_of_test_are_kept_out_of_own_splits(tmp_path: Path) -> None:
    csv(tmp_path / "train.csv", TEXTS[:60], LABELS[:60])
    csv(tmp_path / "validation.csv", TEXTS[55:65], LABELS[55:65])
    csv(tmp_path / "test.csv", [TEXTS[0], f" {TEXTS[60]} ", *TEXTS[70:]], [LABELS[0], LABELS[60], *LABELS[70:]])
    data = load(tmp_path)
    assert data.left_out == 1 + 1 + 5
    assert not {row.strip() for row in data.test.rows} & {*data.train.rows, *data.validation.rows}
    assert not {*data.validation.rows} & {*data.train.rows}
    assert len(data.test) == 22


# Batches -------------------------------------------------------------------------------------------------------------


def test_batches_hold_every_row_once_and_like_lengths_together() -> None:
    split = make_split(TEXTS * 10, LABELS * 10, toy_task.preprocessor())
    lengths = split.inputs.lengths
    for rng in (None, np.random.default_rng(0)):
        batches = split.batches(16, rng)
        assert sorted(np.concatenate(batches).tolist()) == list(range(900))
        assert {len(rows) for rows in batches} <= {15, 16}
        padded = np.mean([lengths[rows].max() for rows in batches])
        assert padded < lengths.mean() + 1.5
    first, again, other = (split.batches(16, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert not np.all(np.diff([lengths[rows].max() for rows in first]) <= 0)


def test_batch_pads_to_its_longest_row() -> None:
    split = make_split(["good", "the film was bad", "it"], [1, 0, 0], toy_task.preprocessor())
    batch = split.batch([1, 2])
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]
    assert batch["input_ids"].shape == (2, 6)
    assert split.batch([0])["input_ids"].shape == (1, 3)


def test_texts_are_cut_off() -> None:
    split = make_split(["it " * 50], [0], toy_task.preprocessor(), max_tokens=8)
    assert split.inputs.lengths.tolist() == [8]


def test_some_rows_of_a_split() -> None:
    split = make_split(TEXTS, LABELS, toy_task.preprocessor())
    some = split.take(20, np.random.default_rng(0))
    assert len(some) == 20
    number = TEXTS.index(some.rows[3])
    assert some.batch([3])["input_ids"].equal(split.batch([number])["input_ids"])
    assert some.labels[3] == LABELS[number]


# Storage -------------------------------------------------------------------------------------------------------------


def test_saved_data_comes_back(tmp_path: Path) -> None:
    data = load(csv(tmp_path / "a.csv"))
    data.save(tmp_path / "data")
    again = Data.load(tmp_path / "data", toy_task.preprocessor())
    assert again.fingerprint == data.fingerprint
    assert again.validation.rows == data.validation.rows
    assert again.test.batch([0, 5])["input_ids"].equal(data.test.batch([0, 5])["input_ids"])
    with pytest.raises(UserError, match="must be image rows"):
        Data.load(tmp_path / "data", PlainImages("x", (4, 4)))


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_saved_split_comes_back(tmp_path: Path, kind: InputKind) -> None:
    rows: list[RawRow] = ["", 'a "quoted", text\n'] if kind == "text" else [png(3), png(200)]
    preprocessor = toy_task.preprocessor() if kind == "text" else PlainImages("x", (4, 4))
    make_split(rows, [0, 1], preprocessor).save(tmp_path / "a.parquet")
    again = Split.load(tmp_path / "a.parquet", preprocessor)
    assert (again.rows, again.labels.tolist()) == (tuple(rows), [0, 1])


def test_damaged_data_is_refused(tmp_path: Path) -> None:
    load(csv(tmp_path / "a.csv")).save(tmp_path / "data")
    preprocessor = toy_task.preprocessor()
    make_split(["other"], [0], preprocessor).save(tmp_path / "data" / "test.parquet")
    with pytest.raises(UserError, match="not those that were saved"):
        Data.load(tmp_path / "data", preprocessor)
    (tmp_path / "data" / "test.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="cannot be read"):
        Data.load(tmp_path / "data", preprocessor)
    (tmp_path / "data" / "data.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        Data.load(tmp_path / "data", preprocessor)


# Tasks ---------------------------------------------------------------------------------------------------------------

WORDS = [["the", "film", "was", "good"], ["bad", "plot"], ["it", "unheard", "fine"]] * 10
TAGS = [["O", "N", "O", "A"], ["A", "N"], ["O", "N", "A"]] * 10


def tagged(path: Path, words=None, tags=None) -> Path:
    words = [[*row, str(number)] for number, row in enumerate(words or WORDS)]
    rows = [{"tokens": row, "tags": [*own, "O"]} for row, own in zip(words, tags or TAGS, strict=True)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_numbers_are_standardised_by_the_training_rows(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(5, 3, 90).round(3)
    path = csv(tmp_path / "a.csv", labels=numbers, header="text,score")
    data = load(path, task=Regression())
    assert (data.kind, data.classes) == ("text", ("score",))
    assert data.task == Regression(float(data.train.labels.mean()), float(data.train.labels.std()))
    assert data.test.task == data.task
    truth = dict(zip(TEXTS, numbers, strict=True))
    for split in (data.train, data.validation, data.test):
        wanted = [(truth[row] - data.task.mean) / data.task.std for row in split.rows]
        assert split.targets(range(len(split))).numpy() == pytest.approx(wanted, abs=1e-5)
    data.save(tmp_path / "data")
    again = Data.load(tmp_path / "data", toy_task.preprocessor())
    assert (again.task, again.fingerprint) == (data.task, data.fingerprint)
    assert np.array_equal(again.test.labels, data.test.labels)


def test_words_and_tags(tmp_path: Path) -> None:
    data = load(tagged(tmp_path / "a.jsonl"), task=TokenClassification())
    assert (data.kind, data.classes, data.task) == ("text", ("A", "N", "O"), TokenClassification())
    assert [len(data.train), len(data.validation), len(data.test)] == [21, 5, 4]
    words = toy_task.WORDS
    known = dict(zip(words, range(len(words)), strict=True))
    tag_of = {word: tag for row, tags in zip(WORDS, TAGS, strict=True) for word, tag in zip(row, tags, strict=True)}
    for row in range(len(data.train)):
        ids, targets = data.train.batch([row])["input_ids"][0], data.train.targets([row])[0]
        own = data.train.rows[row]
        assert ids.tolist() == [2, *(known.get(word, 1) for word in own), 3]
        assert targets.tolist() == [-100, *(data.classes.index(tag_of.get(word, "O")) for word in own), -100]
    data.save(tmp_path / "data")
    again = Data.load(tmp_path / "data", toy_task.preprocessor())
    assert again.fingerprint == data.fingerprint
    assert again.test.rows == data.test.rows
    rows = range(len(data.test))
    assert again.test.targets(rows).equal(data.test.targets(rows))


def test_a_word_of_several_tokens_has_its_tag_on_the_first(tmp_path: Path) -> None:
    split = make_split([("goodbad film", "it")], [[1, 0]], pieces(), task=TokenClassification())
    assert split.inputs.lengths.tolist() == [4]
    assert split.targets([0]).tolist() == [[1, -100, -100, 0]]
    cut = make_split([("good", "bad", "it")], [[1, 0, 1]], pieces(), max_tokens=2, task=TokenClassification())
    assert cut.targets([0]).tolist() == [[1, 0]]
    assert cut.inputs.truncated == 1


def pieces() -> TextPreprocessor:
    """A tokenizer that cuts words in pieces and adds nothing around them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = {word: number for number, word in enumerate([*toy_task.WORDS, "##bad", "##film"])}
    tokenizer = Tokenizer(models.WordPiece(known, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return TextPreprocessor(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]"))


def test_classes_of_a_data_set_name_the_tags(tmp_path: Path) -> None:
    import datasets

    names = datasets.ClassLabel(names=["O", "A", "N"])
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "ner_tags": datasets.List(names)})
    tags = [[names.str2int(tag) for tag in row] for row in TAGS]
    datasets.Dataset.from_dict({"tokens": WORDS, "ner_tags": tags}, features).to_parquet(tmp_path / "train.parquet")
    table = read_table(source(tmp_path / "train.parquet", task=TokenClassification()))
    assert table.classes == ("O", "A", "N")
    assert table.parts["train"][0] == [tuple(row) for row in WORDS]
    assert table.parts["train"][1][1].tolist() == [1, 2, -100, -100]


def test_a_class_that_the_data_leaves_out_is_named(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = {"text": ["a film", "a bad film", "bad"], "label": [1, -1, 0]}
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(UserError, match=r"label of row 2 of .*train\.parquet has none"):
        read_table(source(tmp_path / "train.parquet"))


def test_texts_cut_off_are_counted(tmp_path: Path) -> None:
    data = load_data(source(csv(tmp_path / "a.csv")), toy_task.preprocessor(), seed=0, max_tokens=10)
    assert data.truncated == sum(len(text.split()) + 2 > 10 for text in TEXTS) > 0
    data.save(tmp_path / "data")
    assert Data.load(tmp_path / "data", toy_task.preprocessor()).truncated == data.truncated
    assert load(tmp_path / "a.csv").truncated == 0


def pictures(damaged: dict[int, bytes], count: int = 200) -> Table:
    rows: list[RawRow] = [damaged.get(number, png(number)) for number in range(count)]
    return Table("image", ("even", "odd"), {"train": (rows, np.arange(count) % 2)})


def jpeg() -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize("damaged", [b"", b"no image", png(3)[:-30], jpeg()[: len(jpeg()) // 2]])
def test_a_few_damaged_images_are_left_out_and_counted(tmp_path: Path, damaged: bytes) -> None:
    preprocessor = PlainImages("x", (4, 4))
    data = prepare_data(pictures({7: damaged, 12: jpeg()}), preprocessor, seed=0)
    splits = (data.train, data.validation, data.test)
    assert (data.undecodable, data.left_out, sum(map(len, splits))) == (1, 0, 199)
    truth = {row: number % 2 for number, row in enumerate(pictures({12: jpeg()}).parts["train"][0])}
    for split in splits:
        split.batch(range(len(split)))
        assert split.labels.tolist() == [truth[row] for row in split.rows]
    data.save(tmp_path / "data")
    assert Data.load(tmp_path / "data", preprocessor).undecodable == 1


def test_more_than_one_damaged_image_in_a_hundred_is_refused() -> None:
    two = {150: b"no", 31: b"image"}
    assert prepare_data(pictures(two), PlainImages("x", (4, 4)), seed=0).undecodable == 2
    with pytest.raises(UserError, match="but 3 of 200 cannot be decoded; the first is row 32 of train"):
        prepare_data(pictures({**two, 199: b""}), PlainImages("x", (4, 4)), seed=0)


def test_data_of_another_version_is_refused(tmp_path: Path) -> None:
    load(csv(tmp_path / "a.csv")).save(tmp_path / "data")
    path = tmp_path / "data" / "data.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 1}))
    with pytest.raises(UserError, match=r"is of version 1, this nas reads 2; start a new run$"):
        Data.load(tmp_path / "data", toy_task.preprocessor())


@pytest.mark.parametrize(
    ("write", "task", "message"),
    [
        (
            lambda path: csv(path, labels=["x", *LABELS[1:]]),
            Regression(),
            r"label of row 1 of .*a\.csv must hold one number, got 'x'",
        ),
        (lambda path: csv(path, labels=["inf", *LABELS[1:]]), Regression(), "must hold one number, got inf"),
        (lambda path: csv(path, labels=[2] * 90), Regression(), "must differ, all are 2"),
        (lambda path: csv(path, TEXTS[:2], [1, 2]), Regression(), "the data needs at least 3 different rows .* has 2"),
        (
            lambda path: tagged(path, tags=[TAGS[0][:-1], *TAGS[1:]]),
            TokenClassification(),
            r"row 1 of .*a\.jsonl has 5 words and 4 tags",
        ),
        (lambda path: tagged(path, tags=[["O"] * 4, ["O"] * 2, ["O"] * 3] * 10), TokenClassification(), "two classes"),
        (lambda path: write_json_lines(path), TokenClassification(), "must hold a list of tags"),
    ],
)
def test_labels_that_are_not_those_of_the_task(tmp_path: Path, write, task, message: str) -> None:
    path = tmp_path / ("a.csv" if isinstance(task, Regression) else "a.jsonl")
    with pytest.raises(UserError, match=message) as caught:
        load(write(path), task=task)
    assert "\n" not in str(caught.value)


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "columns", "message"),
    [
        (lambda path: path.with_name("none.csv"), {}, "there is no"),
        (lambda path: (path.write_bytes(b""), path)[1], {}, "must hold rows, it is empty"),
        (lambda path: csv(path, [], []), {}, "must hold rows, it is empty"),
        (lambda path: csv(path, ["good, really", "bad"], [1, 0]), {}, "as many fields as its header"),
        (lambda path: csv(path), {"text": "words"}, "has no column 'words'; its columns are text, label"),
        (lambda path: csv(path), {"label": "kind"}, "has no column 'kind'; its columns are text, label"),
        (lambda path: csv(path), {"text": "text", "image": "text"}, "not both"),
        (
            lambda path: csv(path, header="text,number"),
            {},
            "has no label column that I know; its columns are text, number: name .* --label",
        ),
        (lambda path: csv(path, header="words,label"), {}, "has no text or image column that I know"),
        (lambda path: csv(path, labels=[1] * 90), {}, "at least two classes, all are '1'"),
        (
            lambda path: csv(path, map("text {}".format, range(10_001)), range(10_001)),
            {},
            r"at most 10000 classes, got 10001; numbers to predict need --task regression",
        ),
        (
            lambda path: csv(path, labels=[0.5, *LABELS[1:]]),
            {},
            r"label of row 1 of .*a\.csv must hold one class .* got '0.5'; numbers to predict need --task regression",
        ),
        (
            lambda path: csv(path, labels=["", *map("c{}".format, LABELS[1:])]),
            {},
            r"label of row 1 of .*a\.csv has none",
        ),
        (lambda path: csv(path, labels=["", *LABELS[1:]]), {}, r"label of row 1 of .*a\.csv has none"),
        (lambda path: csv(path, TEXTS[:2], [0, 1]), {}, "needs at least 3 different rows .* class 0 has 1"),
        (lambda path: csv(path, labels=range(90)), {}, "needs at least 3 different rows"),
        (
            lambda path: (path.write_bytes(b"text,label\n\xff\xfe\xfa,1\n"), path)[1],
            {},
            "must be in UTF-8, but line 2 is not",
        ),
        (
            lambda path: (path.with_name("a.parquet").write_bytes(b"no"), path.with_name("a.parquet"))[1],
            {},
            "cannot be",
        ),
        (lambda path: (path.with_name("a.xlsx").write_bytes(b"no"), path.with_name("a.xlsx"))[1], {}, "must end in"),
        (lambda path: (path.with_name("e").mkdir(), path.with_name("e"))[1], {}, "must hold files, it is empty"),
        (lambda path: (path.with_name("a.csv.gz").write_bytes(b"no"), path.with_name("a.csv.gz"))[1], {}, "cannot be"),
    ],
)
def test_bad_input_gets_one_sentence(tmp_path: Path, write, columns: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load(write(tmp_path / "a.csv"), **columns)
    assert "\n" not in str(caught.value)


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reads image rows, but the data holds text rows"):
        load_data(source(csv(tmp_path / "a.csv")), PlainImages("x", (4, 4)), seed=0)


def test_a_class_without_training_rows_is_refused(tmp_path: Path) -> None:
    csv(tmp_path / "train.csv", TEXTS[:60], LABELS[:60])
    csv(tmp_path / "test.csv", TEXTS[60:], [2] * 30)
    with pytest.raises(UserError, match="class '2' has none"):
        load(tmp_path)


def test_undecodable_images_are_refused_before_training() -> None:
    with pytest.raises(UserError, match="image 2 is not"):
        make_split([png(1), b"no image"], [0, 1], PlainImages("x", (4, 4)))
