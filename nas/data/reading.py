"""Read labelled data from files, folders or the hub, and check it.

`location.py` finds the files and reads them, `labels.py` reads labels; this module finds the columns and the kind of
rows. Texts and classes are strings as the data holds them: `007` is no 7, and `01` and `1` are two classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.data.labels import (
    LISTS,
    Indexed,
    RawLabels,
    all_class_names,
    is_missing,
    is_tag,
    is_unlabelled,
    of_classes,
    of_numbers,
    of_tags,
    raw_classes,
    raw_numbers,
    raw_tags,
)
from nas.data.location import located
from nas.data.parts import Part
from nas.data.places import Chosen, Places
from nas.data.split import Data, InputKind, Preprocessor, RawRow
from nas.data.table import Table, prepare_data
from nas.data.tasks import CLASSIFICATION, Classification, Regression, Task, TokenClassification
from nas.data.text_files import TextForm
from nas.errors import UserError
from nas.sentences import did_you_mean, listed, one_line, quoted

_TEXT = ("text", "sentence", "content", "review", "question", "document", "tweet", "comment", "utterance")
_IMAGE = ("image", "img", "picture", "photo")
_LABEL = ("label", "labels", "target", "class", "category", "sentiment", "intent", "coarse_label", "fine_label", "y")
_NUMBER = ("score", "rating", "value", "stars", "similarity_score", *_LABEL)
_WORDS = ("tokens", "words", *_TEXT)
_TAGS = ("tags", "ner_tags", "pos_tags", "chunk_tags", "ner", *_LABEL)


@dataclass(frozen=True)
class Source:
    """A data set and the columns of it to use.

    Args:
        location: a CSV, TSV, Parquet or JSON file (also .gz), a folder with one sub-folder of images per class, a
            folder with files for train, validation and test, or the name of a data set on the hub.
        text: column of the text or of the words; None: the first column with one of the usual names.
        image: column of the image or of the name of its file; None: the first column with one of the usual names.
        label: column of the label, number or tags; None: the first column with one of the usual names.
        config: configuration of a data set that has several, e.g. "sst2" of "nyu-mll/glue".
        task: the kind of labels.
        separator: the character between the fields of a CSV file; None: found out.
        encoding: the encoding of text files, e.g. "cp1252"; None: found out where that is certain.
    """

    location: str
    text: str | None = None
    image: str | None = None
    label: str | None = None
    config: str | None = None
    task: Task = CLASSIFICATION
    separator: str | None = None
    encoding: str | None = None


def load_data(
    source: Source,
    preprocess: Preprocessor,
    *,
    seed: int,
    shares: tuple[float, float, float] = (0.7, 0.15, 0.15),
    max_tokens: int = 128,
) -> Data:
    """Read a data set, split it and preprocess its rows.

    Args:
        source: the data set and its columns.
        preprocess: the preprocessor of the network.
        seed: decides which rows become validation and test rows where the data has no such splits.
        shares: relative sizes of train, validation and test; only those of missing splits have an effect.
        max_tokens: texts are truncated to this many tokens, or to the limit of the model.

    Raises:
        UserError: as `read_table` and `nas.data.table.prepare_data`.
    """
    return prepare_data(read_table(source), preprocess, seed=seed, shares=shares, max_tokens=max_tokens)


def read_table(source: Source) -> Table:
    """Read all rows and determine their kind and their classes.

    Splits without any labels (as the test sets of many benchmarks) are ignored.

    Raises:
        UserError: the data does not exist, is empty or not readable, lacks a column or labels, or has one class only.
    """
    form = _FORMS[type(source.task)]
    with located(source.location, source.config, TextForm(source.separator, source.encoding)) as found:
        train = found.parts["train"]
        kind, column, label = _columns(source, form, train)
        labelled = {name: _labelled(part, form, kind, column, label) for name, part in found.parts.items()}
        splits = {name: split for name, split in labelled.items() if split is not None}
        if "train" not in splits:
            raise UserError(
                f"column {label} of {source.location} must hold labels, but none of its training rows has one"
            )
        names = all_class_names({name: found.parts[name].feature(label) for name in splits})
        unlabelled = {name: len(part) for name, part in found.parts.items() if name not in splits}
    places = {name: split.places for name, split in splits.items()}
    labels = {name: split.labels for name, split in splits.items()}
    classes, indices = form.classes(RawLabels(labels, names, places, label, source.location))
    return Table(
        kind,
        tuple(str(value) for value in classes),
        {name: (split.rows, source.task.labels(indices[name])) for name, split in splits.items()},
        source.task,
        (*found.notes, *_counts(splits, unlabelled, (column, label))),
        places,
    )


@dataclass(frozen=True)
class _Labelled:
    """The rows of a split that have labels, and how many were left out."""

    rows: Sequence[RawRow]
    labels: Sequence[Any]
    places: Places
    left_out: int = 0
    untagged: int = 0


def _labelled(part: Part, form: "_Form", kind: InputKind, column: str, label: str) -> _Labelled | None:
    """The rows of a split with their labels; None where none has one."""
    values = form.read_labels(part, label) if label in part.columns else []
    if all(map(is_unlabelled, values)):
        return None
    if column not in part.columns:
        raise UserError(
            f"every split must have a column {one_line(column, 40)}, {part.places.place(0)} has none; its columns are "
            f"{listed(part.columns)}"
        )
    missing = next((row for row, value in enumerate(values) if is_missing(value)), None)
    if missing is not None:
        raise UserError(f"every row must have a label, {part.cell(missing, label)} has none")
    rows = (form.read_rows or _READERS[kind])(part, column)
    return form.choose(_Labelled(rows, values, part.places))


def _counts(splits: Mapping[str, _Labelled], unlabelled: Mapping[str, int], columns: tuple[str, str]) -> list[str]:
    """Sentences with the numbers of rows that were read, of which columns, and of those without labels."""
    counts = ", ".join(f"{len(split.rows):,} {name}" for name, split in splits.items())
    notes = [f"Rows read: {counts}; columns {' and '.join(one_line(column, 40) for column in columns)}"]
    notes += [f"Rows of {name} left out, none has a label: {count:,}" for name, count in unlabelled.items()]
    for name, split in splits.items():
        if split.left_out:
            notes.append(f"Rows of {name} left out, without words or without a tag: {split.left_out:,}")
        if split.untagged:
            notes.append(f"Words of {name} without a tag (-100 or empty), which do not count: {split.untagged:,}")
    return notes


def _columns(source: Source, form: "_Form", train: Part) -> tuple[InputKind, str, str]:
    """The kind of the rows, their column and the column of the labels."""
    if source.text and source.image:
        raise UserError("name a text column or an image column, not both")
    if source.image and form.read_rows:
        raise UserError("tags belong to words: name a column of words, not of images")
    hint = f"its columns are {listed(train.columns, 20)}"
    if len(train.columns) == 1 and not train.columns[0].isidentifier():
        hint += "; where another character is between its fields, name it with --separator"

    def named(name: str | None) -> str:
        return quoted(name) + did_you_mean(name or "", train.columns)

    text, image, label = (
        _own(name, train, f"the data in {source.location} has no column {named(name)}; {hint}")
        for name in (source.text, source.image, source.label)
    )
    label = label or _usual(form.label_names, train)
    if label is None:
        raise UserError(
            f"the data in {source.location} has no label column that I know; {hint}: name the right one with --label"
        )
    found = _rows_column(text, image, form, train)
    if found is None:
        raise UserError(
            f"the data in {source.location} has no text or image column that I know; {hint}: name the right one with "
            "--text or --image"
        )
    if found[1] == label:
        raise UserError(f"the rows and their labels must be in two columns, both are in {quoted(label)}")
    return *found, label


def _own(name: str | None, train: Part, otherwise: str) -> str | None:
    """The column that the user names, without regard to spaces around it; UserError where there is none."""
    if not name:
        return None
    found = name if name in train.columns else None
    found = found or next((column for column in train.columns if column.strip() == name.strip()), None)
    if found is None:
        raise UserError(otherwise)
    return found


def _usual(names: Sequence[str], train: Part) -> str | None:
    """The column with the first of the usual names, without regard to case and to spaces around it."""
    lower = {column.strip().lower(): column for column in train.columns}
    return next((lower[name] for name in names if name in lower), None)


def _rows_column(
    named_text: str | None, named_image: str | None, form: "_Form", train: Part
) -> tuple[InputKind, str] | None:
    """The kind of the rows and their column: as named, else images by a usual name, else texts, else names of files."""
    if named_text is not None:
        return "text", named_text
    if named_image is not None:
        return "image", named_image
    image, text = None if form.read_rows else _usual(_IMAGE, train), _usual(form.text_names, train)
    # An address of a picture beside a text is no picture.
    if image is not None and (text is None or not train.holds_texts(image) or train.names_images(image)):
        return "image", image
    if text is not None:
        return "text", text
    image = None if form.read_rows else next((name for name in train.columns if train.names_images(name)), None)
    return None if image is None else ("image", image)


# Rows -----------------------------------------------------------------------------------------------------------------


def _texts(part: Part, column: str) -> list[RawRow]:
    if part.holds_images(column):
        raise UserError(f"column {quoted(column)} holds images: name it with --image")
    cells = part.cells(column)
    for row, cell in enumerate(cells):
        if isinstance(cell, list | dict | bytes):
            raise UserError(f"{part.cell(row, column)} must hold a text, got {quoted(cell)}")
    return ["" if cell is None else str(cell) for cell in cells]


def _images(part: Part, column: str) -> list[RawRow]:
    return list(part.images(column))


_READERS: Mapping[InputKind, Callable[[Part, str], list[RawRow]]] = {"text": _texts, "image": _images}


def _words(part: Part, column: str) -> list[RawRow]:
    rows: list[RawRow] = []
    for row, value in enumerate(part.cells(column)):
        words = [] if value is None else value
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise UserError(f"{part.cell(row, column)} must hold a list of words, got {quoted(value)}; {LISTS}")
        rows.append(tuple(words))
    return rows


def _all(split: _Labelled) -> _Labelled:
    return split


def _tagged(split: _Labelled) -> _Labelled:
    """The rows that have words and a tag; UserError unless each row has as many tags as words."""
    kept: list[int] = []
    untagged = 0
    for row, (words, tags) in enumerate(zip(split.rows, split.labels, strict=True)):
        if len(words) != len(tags):
            raise UserError(
                f"every word must have one tag, {split.places.place(row)} has {len(words)} words and {len(tags)} tags"
            )
        there = sum(map(is_tag, tags))
        if there:
            kept.append(row)
            untagged += len(tags) - there
    return _Labelled(
        [split.rows[row] for row in kept],
        [split.labels[row] for row in kept],
        Chosen(split.places, kept),
        len(split.rows) - len(kept),
        untagged,
    )


@dataclass(frozen=True)
class _Form:
    """How data of a task is read: usual column names, and functions for labels, classes and rows."""

    text_names: Sequence[str]
    label_names: Sequence[str]
    read_labels: Callable[[Part, str], list[Any]]
    classes: Callable[[RawLabels], Indexed]
    read_rows: Callable[[Part, str], list[RawRow]] | None = None
    choose: Callable[[_Labelled], _Labelled] = _all


_FORMS: Mapping[type[Task], _Form] = {
    Classification: _Form(_TEXT, _LABEL, raw_classes, of_classes),
    Regression: _Form(_TEXT, _NUMBER, raw_numbers, of_numbers),
    TokenClassification: _Form(_WORDS, _TAGS, raw_tags, of_tags, _words, _tagged),
}
