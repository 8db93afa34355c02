"""Labels as data hold them: classes, numbers and tags, made plain, and the classes that there are.

Classes are what the data says: `01` and `1` are two. A label that is missing is None; a tag that is missing, or -100,
is `IGNORED` in the end, as everywhere.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from nas.data.parts import Part
from nas.data.tasks import IGNORED
from nas.errors import UserError
from nas.sentences import quoted

RawLabels = Mapping[str, Sequence[Any]]
"""The labels of each split, as `raw_classes` and the others read them."""
Indexed = tuple[Sequence[Any], dict[str, list[Any]]]
"""Names of the outputs, and the labels of each split as they are trained on."""

LISTS = "lists are in Parquet and JSON files, as a CSV file has none"
_NUMERAL = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_DECIMAL_COMMA = re.compile(r"([-+]?\d*),(\d+)")
_NO_LABEL = (None, "", -1, -100, "-1", "-100")
_NO_TAG = (None, "", IGNORED, str(IGNORED))
_MAX_CLASSES = 10_000


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
                "to predict are the task regression, lists of tags token-classification"
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
            raise UserError(f"{part.cell(row, label)} must hold one number, got {quoted(value)}")
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
            raise UserError(f"{part.cell(row, label)} must hold a list of tags, got {quoted(value)}; {LISTS}")
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


# Classes --------------------------------------------------------------------------------------------------------------


def of_classes(labels: RawLabels, names: Sequence[str] | None, column: str, location: str) -> Indexed:
    """The classes, and the labels of each split as indices into them."""
    labels = labels if names is not None else _plain_classes(labels)
    ordered = _ordered((value for values in labels.values() for value in values), names, location)
    index = {value: number for number, value in enumerate(ordered)}
    return ordered, {name: [index[value] for value in values] for name, values in labels.items()}


def _plain_classes(labels: RawLabels) -> RawLabels:
    """Classes under the names that they have in other files, by what all splits hold together.

    Whole numbers that are all written as 1.0 are numbers, truth values begin with a capital letter, and the number of
    one file is the word `1` of another.
    """
    there = {value for values in labels.values() for value in values}
    words = {value for value in there if isinstance(value, str)}
    if not words:
        return labels
    if all(_NUMERAL.fullmatch(value) for value in words) and any(value.endswith(".0") for value in words):
        return {name: [str(value).removesuffix(".0") for value in values] for name, values in labels.items()}
    if words == there and {value.lower() for value in words} <= {"true", "false"}:
        return {name: [value.capitalize() for value in values] for name, values in labels.items()}
    return {name: [str(value) for value in values] for name, values in labels.items()}


def of_numbers(labels: RawLabels, names: Sequence[str] | None, column: str, location: str) -> Indexed:
    """The name of the column, and the numbers unchanged."""
    return [column], {name: list(values) for name, values in labels.items()}


def of_tags(labels: RawLabels, names: Sequence[str] | None, column: str, location: str) -> Indexed:
    """The tags, and the lists of tags of each split as indices into them; `IGNORED` for a word without a tag."""
    tags_there = (tag for rows in labels.values() for tags in rows for tag in tags if is_tag(tag))
    ordered = _ordered(tags_there, names, location)
    index = {tag: number for number, tag in enumerate(ordered)}
    indexed = {name: [[index.get(tag, IGNORED) for tag in tags] for tags in rows] for name, rows in labels.items()}
    return ordered, indexed


def _ordered(labels: Iterable[Any], names: Sequence[str] | None, location: str) -> list[Any]:
    """The distinct labels as classes: in the order of `names`, else numbers ascending, else words sorted."""
    values = set(labels)
    if len(values) < 2:
        raise UserError(
            f"the labels in {location} must have at least two classes, all are {quoted(next(iter(values)))}"
        )
    if len(values) > _MAX_CLASSES:
        raise UserError(f"the labels in {location} must have at most {_MAX_CLASSES} classes, got {len(values)}")
    # Classes without any row are left out: nothing could be learned about them.
    if names is not None:
        return [name for name in names if name in values]
    try:
        return sorted(values, key=lambda value: (int(value), str(value)))
    except ValueError:
        return sorted(values, key=str)
