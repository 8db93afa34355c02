"""Read labelled data from files, folders or the hub, and check it.

`location.py` finds the files and reads them; this module finds the columns, the kind of rows and the classes. Texts and
classes are strings as the data holds them: `007` is no 7, and `01` and `1` are two classes.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.data.location import encoded_images, located
from nas.data.split import Data, InputKind, Preprocessor, RawRow
from nas.data.table import Table, prepare_data
from nas.data.tasks import CLASSIFICATION, Classification, Regression, Task, TokenClassification
from nas.errors import UserError

_TEXT = ("text", "sentence", "content", "review", "question", "document", "tweet", "comment", "utterance")
_IMAGE = ("image", "img", "picture", "photo")
_LABEL = ("label", "labels", "target", "class", "category", "sentiment", "intent", "coarse_label", "fine_label", "y")
_NUMBER = ("score", "rating", "value", "stars", "similarity_score", *_LABEL)
_WORDS = ("tokens", "words", *_TEXT)
_TAGS = ("tags", "ner_tags", "pos_tags", "chunk_tags", "ner", *_LABEL)
_NUMERAL = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_NO_LABEL = (None, "", -1, -100, "-1", "-100")
_MAX_CLASSES = 10_000


@dataclass(frozen=True)
class Source:
    """A data set and the columns of it to use.

    Args:
        location: a CSV, TSV, Parquet or JSON-lines file (also .gz), a folder with one sub-folder of images per class, a
            folder with files for train, validation and test, or the name of a data set on the hub.
        text: column of the text or of the words; None: the first column with one of the usual names.
        image: column of the image; None: the first column with one of the usual names.
        label: column of the label, number or tags; None: the first column with one of the usual names.
        config: configuration of a hub data set, e.g. "sst2" of "nyu-mll/glue".
        task: the kind of labels.
    """

    location: str
    text: str | None = None
    image: str | None = None
    label: str | None = None
    config: str | None = None
    task: Task = CLASSIFICATION


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
    with located(source.location, source.config) as found:
        kind, column, label = _columns(source, form, found.parts["train"].column_names)
        rows: dict[str, list[RawRow]] = {}
        labels: dict[str, list[Any]] = {}
        for name, part in found.parts.items():
            values = form.read_labels(part, label, source.location)
            if all(_unlabelled(value) for value in values):
                continue
            missing = next((row for row, value in enumerate(values) if _missing(value)), None)
            if missing is not None:
                raise UserError(
                    f"every row must have a label, row {missing + 1} of {name} in {source.location} has none"
                )
            labels[name] = values
            rows[name] = (form.read_rows or _READERS[kind])(part, column)
        if "train" not in labels:
            raise UserError(
                f"column {label} of {source.location} must hold labels, but none of its training rows has one"
            )
        _as_long(rows, labels, source.location)
        names = _names(found.parts["train"].features[label])
        unlabelled = {name: part.num_rows for name, part in found.parts.items() if name not in labels}
    classes, indices = form.classes(labels, names, label, source.location)
    parts = {name: (rows[name], source.task.labels(indices[name])) for name in labels}
    return Table(
        kind, tuple(str(value) for value in classes), parts, source.task, (*found.notes, *_counts(rows, unlabelled))
    )


def _counts(rows: Mapping[str, Sequence[RawRow]], unlabelled: Mapping[str, int]) -> list[str]:
    """Sentences with the numbers of rows that were read, and of those without labels."""
    read = f"Rows read: {', '.join(f'{len(part):,} {name}' for name, part in rows.items())}"
    return [read, *(f"Rows of {name} left out, none has a label: {count:,}" for name, count in unlabelled.items())]


def _columns(source: Source, form: "_Form", columns: Sequence[str]) -> tuple[InputKind, str, str]:
    """The kind of the rows, their column and the column of the labels."""
    shown = ", ".join(columns)
    if source.text and source.image:
        raise UserError("name a text column or an image column, not both")
    if source.image and form.read_rows:
        raise UserError("tags belong to words: name a column of words, not of images")
    for name in (source.text, source.image, source.label):
        if name is not None and name not in columns:
            raise UserError(f"the data in {source.location} has no column {name}; its columns are {shown}")
    label = source.label or _usual(form.label_names, columns)
    if label is None:
        raise UserError(f"the data in {source.location} has no label column that I know; name one of {shown}")
    if source.text:
        return "text", source.text, label
    if source.image:
        return "image", source.image, label
    image, text = None if form.read_rows else _usual(_IMAGE, columns), _usual(form.text_names, columns)
    if image is not None:
        return "image", image, label
    if text is not None:
        return "text", text, label
    raise UserError(f"the data in {source.location} has no text or image column that I know; name one of {shown}")


def _usual(names: Sequence[str], columns: Sequence[str]) -> str | None:
    lower = {column.lower(): column for column in columns}
    return next((lower[name] for name in names if name in lower), None)


def _texts(part: Any, column: str) -> list[RawRow]:
    return ["" if value is None else str(value) for value in part[column][:]]


def _images(part: Any, column: str) -> list[RawRow]:
    return list(encoded_images(part, column))


_READERS: Mapping[InputKind, Callable[[Any, str], list[RawRow]]] = {"text": _texts, "image": _images}


def _words(part: Any, column: str) -> list[RawRow]:
    rows: list[RawRow] = []
    for number, value in enumerate(part[column][:]):
        if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value):
            raise UserError(
                f"column {column} must hold a list of words a row, row {number + 1} holds {str(value)[:60]!r}"
            )
        rows.append(tuple(value))
    return rows


def _as_long(rows: Mapping[str, Sequence[RawRow]], labels: "_RawLabels", location: str) -> None:
    """Raise UserError unless each row has as many tags as words."""
    for name, part in rows.items():
        for number, (row, tags) in enumerate(zip(part, labels[name], strict=True)):
            if isinstance(row, tuple) and len(row) != len(tags):
                raise UserError(
                    f"every word must have one tag, but row {number + 1} of {name} in {location} has {len(row)} words "
                    f"and {len(tags)} tags"
                )


def _unlabelled(value: Any) -> bool:
    """Whether a value means "no label"; -1 does so in test sets whose labels are secret."""
    return all(map(_unlabelled, value)) if isinstance(value, list) else value in _NO_LABEL


def _missing(value: Any) -> bool:
    if isinstance(value, list):
        return not value or any(tag in _NO_LABEL for tag in value)
    return value is None or value == ""


def _names(feature: Any) -> Sequence[str] | None:
    """The class names that the data defines for a label column or a column of tags, if any."""
    names: Sequence[str] | None = getattr(getattr(feature, "feature", feature), "names", None)
    return names


def _raw_labels(part: Any, label: str, location: str) -> list[Any]:
    """Class labels as whole numbers or words; a column of type ClassLabel gives the names of the classes."""
    feature, values = part.features[label], part[label][:]
    if getattr(feature, "names", None):
        return [_named_class(feature, value) for value in values]
    values = [value.strip() if isinstance(value, str) else value for value in values]
    if all(value is None or (isinstance(value, float) and value.is_integer()) for value in values):
        return [None if value is None else int(value) for value in values]
    there = [value for value in values if value not in (None, "")]
    numerals = all(isinstance(value, str) and _NUMERAL.fullmatch(value) for value in there)
    wrong = next((value for value in there if not isinstance(value, (int, str))), None)
    if wrong is None and numerals:
        wrong = next((value for value in there if not float(value).is_integer()), None)
    if wrong is not None:
        raise UserError(
            f"column {label} of {location} must hold one class a row (whole numbers or words), got {wrong}; "
            "numbers to predict are the task regression, lists of tags token-classification"
        )
    return _plain_classes(values, there)


def _plain_classes(values: list[Any], there: Sequence[Any]) -> list[Any]:
    """Whole numbers that are all written as 1.0, and truth values, under the names that they have in other files."""
    if there and all(isinstance(value, str) for value in there):
        if all(value.endswith(".0") and _NUMERAL.fullmatch(value) for value in there):
            return [value.removesuffix(".0") if value else value for value in values]
        if {value.lower() for value in there} <= {"true", "false"}:
            return [value.capitalize() if value else value for value in values]
    return values


def _named_class(feature: Any, value: Any) -> Any:
    return None if value in _NO_LABEL else feature.int2str(value)


def _raw_numbers(part: Any, label: str, location: str) -> list[Any]:
    """Numbers of a regression, None where the value is missing."""
    values = [_number(value) for value in part[label][:]]
    wrong = next((v for v in values if v is not None and not (isinstance(v, int | float) and math.isfinite(v))), None)
    if wrong is not None:
        raise UserError(f"column {label} of {location} must hold one number a row, got {wrong!r}")
    return values


def _number(value: Any) -> Any:
    """The number that a string writes; None for a missing one, and other values as they are."""
    if isinstance(value, str):
        value = value.strip()
        numeral = _NUMERAL.fullmatch(value) or value.lower().strip("+-") == "inf"
        return float(value) if numeral else value or None
    return None if value is None or value != value else value


def _raw_tags(part: Any, label: str, location: str) -> list[Any]:
    """Lists of tags as whole numbers or words; a column of type ClassLabel gives the names of the tags."""
    feature = part.features[label]
    values: list[Any] = part[label][:]
    wrong = next((v for v in values if not _is_tags(v)), None)
    if wrong is not None:
        raise UserError(f"column {label} of {location} must hold a list of tags a row, got {str(wrong)[:60]!r}")
    if _names(feature):
        return [[_named_class(feature.feature, tag) for tag in tags or ()] for tags in values]
    return values


def _is_tags(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(tag, int | str | None) for tag in value))


_RawLabels = Mapping[str, Sequence[Any]]
_Indexed = tuple[Sequence[Any], dict[str, list[Any]]]


def _of_classes(labels: _RawLabels, names: Sequence[str] | None, column: str, location: str) -> _Indexed:
    """The classes, and the labels of each split as indices into them."""
    ordered = _ordered({value for values in labels.values() for value in values}, names, location)
    index = {value: number for number, value in enumerate(ordered)}
    return ordered, {name: [index[value] for value in values] for name, values in labels.items()}


def _of_numbers(labels: _RawLabels, names: Sequence[str] | None, column: str, location: str) -> _Indexed:
    """The name of the column, and the numbers unchanged."""
    return [column], {name: list(values) for name, values in labels.items()}


def _of_tags(labels: _RawLabels, names: Sequence[str] | None, column: str, location: str) -> _Indexed:
    """The tags, and the lists of tags of each split as indices into them."""
    ordered = _ordered({tag for rows in labels.values() for tags in rows for tag in tags}, names, location)
    index = {tag: number for number, tag in enumerate(ordered)}
    return ordered, {name: [[index[tag] for tag in tags] for tags in rows] for name, rows in labels.items()}


@dataclass(frozen=True)
class _Form:
    """How data of a task is read: usual column names, and functions for rows, labels and classes."""

    text_names: Sequence[str]
    label_names: Sequence[str]
    read_labels: Callable[[Any, str, str], list[Any]]
    classes: Callable[[_RawLabels, Sequence[str] | None, str, str], _Indexed]
    read_rows: Callable[[Any, str], list[RawRow]] | None = None


_FORMS: Mapping[type[Task], _Form] = {
    Classification: _Form(_TEXT, _LABEL, _raw_labels, _of_classes),
    Regression: _Form(_TEXT, _NUMBER, _raw_numbers, _of_numbers),
    TokenClassification: _Form(_WORDS, _TAGS, _raw_tags, _of_tags, _words),
}


def _ordered(values: set[Any], names: Sequence[str] | None, location: str) -> list[Any]:
    """Order the distinct labels as classes: in the order of `names`, else numbers ascending, else words sorted."""
    if len(values) < 2:
        raise UserError(f"the labels in {location} must have at least two classes, all are {next(iter(values))}")
    if len(values) > _MAX_CLASSES:
        raise UserError(f"the labels in {location} must have at most {_MAX_CLASSES} classes, got {len(values)}")
    # Classes without any row are left out: nothing could be learned about them.
    if names is not None:
        return [name for name in names if name in values]
    try:
        return sorted(values, key=lambda value: (int(value), str(value)))
    except ValueError:
        return sorted(values, key=str)
