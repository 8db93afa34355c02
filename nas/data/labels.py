"""Labels as data hold them: classes, numbers and tags, made plain, and the classes that there are.

Classes are what the data says: `01` and `1` are two. A label that is missing is None; a tag that is missing, or -100,
is `IGNORED` in the end, as everywhere.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from nas.data.parts import Part
from nas.data.places import Places, cell_of
from nas.data.tasks import IGNORED
from nas.errors import UserError
from nas.sentences import listed, quoted

Indexed = tuple[Sequence[Any], dict[str, list[Any]]]
"""Names of the outputs, and the labels of each split as they are trained on."""

_CLASSES = "where labels are classes, leave --task out"
LISTS = "lists are in Parquet and JSON files, as a CSV file has none"
_NUMERAL = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_DECIMAL_COMMA = re.compile(r"([-+]?\d*),(\d+)")
_NO_LABEL = (None, "", -1, -100, "-1", "-100")
_NO_TAG = (None, "", IGNORED, str(IGNORED))
_MAX_CLASSES = 10_000


@dataclass(frozen=True)
class RawLabels:
    """The labels of a data set, as `raw_classes` and the others read them.

    Args:
        splits: the labels of each split.
        names: of the classes, where the data defines them; None: its labels are the classes.
        places: where the rows of each split stand.
        column: of the labels.
        location: of the data.
    """

    splits: Mapping[str, Sequence[Any]]
    names: Sequence[str] | None
    places: Mapping[str, Places]
    column: str
    location: str


def is_unlabelled(value: Any) -> bool:
    """Whether a label means "none"; -1 does so in test sets whose labels are secret."""
    return all(map(is_unlabelled, value)) if isinstance(value, list) else value in _NO_LABEL


def is_missing(value: Any) -> bool:
    """Whether a single label among others is missing."""
    return value is None or value == ""


def is_tag(value: Any) -> bool:
    """Whether a value of a list of tags is one."""
    return value not in _NO_TAG


# Reading --------------------------------------------------------------------------------------------------------------


def raw_classes(part: Part, label: str) -> list[Any]:
    """Classes as whole numbers or words; a column of type ClassLabel gives the names of the classes."""
    feature, values = part.feature(label), part.cells(label)
    if getattr(feature, "names", None):
        return [_named_class(part, label, row, feature, value) for row, value in enumerate(values)]
    values = [value.strip() if isinstance(value, str) else _plain_number(value) for value in values]
    if all(value is None or (isinstance(value, float) and value.is_integer()) for value in values):
        return [None if value is None else int(value) for value in values]
    there = [value for value in values if value not in (None, "")]
    # Where all labels are numbers, those that are not whole are no classes.
    numerals = all(isinstance(value, str) and _NUMERAL.fullmatch(value) for value in there)
    for row, value in enumerate(values):
        if is_missing(value):
            continue
        if not isinstance(value, int | str) or (numerals and not float(value).is_integer()):
            raise UserError(
                f"{part.cell(row, label)} must hold one class (a whole number or a word), got {quoted(value)}; numbers "
                "to predict need --task regression, lists of tags --task token-classification"
            )
    return values


def _plain_number(value: Any) -> Any:
    """Exact decimal numbers as those of Python, None for one that is none; other values as they are."""
    if isinstance(value, Decimal) and value.is_finite():
        return int(value) if value == value.to_integral_value() else float(value)
    return None if value != value else value


def _named_class(part: Part, label: str, row: int, feature: Any, value: Any) -> Any:
    if value in _NO_LABEL:
        return None
    if not 0 <= value < len(feature.names):
        raise UserError(
            f"{part.cell(row, label)} must hold one of the {len(feature.names)} classes, got {quoted(value)}"
        )
    return feature.int2str(value)


def raw_numbers(part: Part, label: str) -> list[Any]:
    """Numbers of a regression, None where one is missing."""
    cells = _with_points(part.cells(label))
    values = [_number(cell) for cell in cells]
    for row, value in enumerate(values):
        if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
            raise UserError(f"{part.cell(row, label)} must hold one number, got {quoted(value)}; {_CLASSES}")
    return values


def _with_points(cells: list[Any]) -> list[Any]:
    """The cells with decimal points, where all that have a comma mean it as one.

    "1,234" may be a thousand: commas are decimal ones only if one has another number of digits behind it than three.
    """
    found = [_DECIMAL_COMMA.fullmatch(cell.strip()) if isinstance(cell, str) else None for cell in cells]
    pairs = zip(cells, found, strict=True)
    commas = all(match is not None for cell, match in pairs if isinstance(cell, str) and "," in cell)
    if not commas or all(len(match[2]) == 3 for match in found if match is not None):
        return cells
    return [cell if match is None else f"{match[1]}.{match[2]}" for cell, match in zip(cells, found, strict=True)]


def _number(value: Any) -> Any:
    """The number that a string writes; None for a missing one, and other values as they are."""
    if isinstance(value, str):
        value = value.strip()
        numeral = _NUMERAL.fullmatch(value) or value.lower().strip("+-") == "inf"
        return float(value) if numeral else value or None
    return _plain_number(value)


def raw_tags(part: Part, label: str) -> list[Any]:
    """Lists of tags as whole numbers or words; a column of type ClassLabel gives the names of the tags."""
    feature, values = part.feature(label), part.cells(label)
    for row, value in enumerate(values):
        if not _are_tags(value):
            raise UserError(
                f"{part.cell(row, label)} must hold a list of tags, got {quoted(value)}; {_CLASSES}; {LISTS}"
            )
    if class_names(feature):
        return [
            [_named_class(part, label, row, feature.feature, tag) for tag in tags or ()]
            for row, tags in enumerate(values)
        ]
    return [tags or [] for tags in values]


def _are_tags(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(tag, int | str | None) for tag in value))


def class_names(feature: Any) -> Sequence[str] | None:
    """The class names that the data defines for a label column or a column of tags, if any."""
    names: Sequence[str] | None = getattr(getattr(feature, "feature", feature), "names", None)
    return names


def all_class_names(features: Mapping[str, Any]) -> Sequence[str] | None:
    """The class names that all splits define, those of "train" first; None where "train" defines none.

    Args:
        features: the type of the label column in each split.
    """
    if not class_names(features["train"]):
        return None
    train_first = sorted(features, key=lambda split: split != "train")
    return list(dict.fromkeys(name for split in train_first for name in class_names(features[split]) or ()))


# Classes --------------------------------------------------------------------------------------------------------------


def of_classes(labels: RawLabels) -> Indexed:
    """The classes, and the labels of each split as indices into them; UserError for one that is no class."""
    plain = _plain_class(labels, (value for values in labels.splits.values() for value in values))
    splits = {name: [plain(value) for value in values] for name, values in labels.splits.items()}
    _check_named(labels, {name: ([value] for value in values) for name, values in splits.items()})
    ordered = _ordered((value for values in splits.values() for value in values), labels)
    index = {value: number for number, value in enumerate(ordered)}
    return ordered, {name: [index[value] for value in values] for name, values in splits.items()}


def of_tags(labels: RawLabels) -> Indexed:
    """The tags, and the lists of tags of each split as indices into them; `IGNORED` for a word without a tag.

    Raises:
        UserError: a tag is none of those that the data names.
    """
    tags_there = (tag for rows in labels.splits.values() for tags in rows for tag in tags if is_tag(tag))
    plain = _plain_class(labels, tags_there)
    splits = {
        name: [[plain(tag) if is_tag(tag) else None for tag in tags] for tags in rows]
        for name, rows in labels.splits.items()
    }
    there = {name: [[tag for tag in tags if tag is not None] for tags in rows] for name, rows in splits.items()}
    _check_named(labels, there)
    ordered = _ordered((tag for rows in there.values() for tags in rows for tag in tags), labels)
    index = {None: IGNORED, **{tag: number for number, tag in enumerate(ordered)}}
    return ordered, {name: [[index[tag] for tag in tags] for tags in rows] for name, rows in splits.items()}


def of_numbers(labels: RawLabels) -> Indexed:
    """The name of the column, and the numbers unchanged."""
    return [labels.column], {name: list(values) for name, values in labels.splits.items()}


def _plain_class(labels: RawLabels, values: Iterable[Any]) -> Callable[[Any], Any]:
    """What gives a class the name that it has in other files, by what all splits hold together.

    Whole numbers that are all written as 1.0 are numbers, truth values begin with a capital letter, and the number of
    one file is the word `1` of another. Where the data names its classes, these names stay as they are.
    """
    if labels.names is not None:
        return str
    there = set(values)
    words = {value for value in there if isinstance(value, str)}
    if not words:
        return lambda value: value
    if all(_NUMERAL.fullmatch(value) for value in words) and any(value.endswith(".0") for value in words):
        return lambda value: str(value).removesuffix(".0")
    if words == there and {value.lower() for value in words} <= {"true", "false"}:
        return lambda value: str(value).capitalize()
    return str


def _check_named(labels: RawLabels, found: Mapping[str, Iterable[Iterable[Any]]]) -> None:
    """UserError for a class of a row that is none of those that the data names."""
    if labels.names is None:
        return
    known = set(labels.names)
    for name, rows in found.items():
        for row, values in enumerate(rows):
            unknown = next((value for value in values if value not in known), None)
            if unknown is not None:
                raise UserError(
                    f"{cell_of(labels.places[name], row, labels.column)} must hold classes that the data names "
                    f"({listed(labels.names)}), got {quoted(unknown)}"
                )


def _ordered(values_of: Iterable[Any], labels: RawLabels) -> list[Any]:
    """The distinct labels as classes: in the order of the data's names, else numbers ascending, else words sorted."""
    values, location = set(values_of), labels.location
    if len(values) < 2:
        raise UserError(
            f"the labels in {location} must have at least two classes, all are {quoted(next(iter(values)))}"
        )
    if len(values) > _MAX_CLASSES:
        raise UserError(
            f"the labels in {location} must have at most {_MAX_CLASSES} classes, got {len(values)}; numbers to predict "
            "need --task regression"
        )
    # Classes without any row are left out: nothing could be learned about them.
    if labels.names is not None:
        return [name for name in labels.names if name in values]
    try:
        return sorted(values, key=lambda value: (int(value), str(value)))
    except ValueError:
        return sorted(values, key=str)
