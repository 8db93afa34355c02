"""Classification data of any form that `datasets` loads: read, checked, split; the only home of that library."""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nas.errors import UserError
from nas.split import (
    PARTS,
    Data,
    IntArray,
    Kind,
    Preprocessor,
    Row,
    Split,
    fingerprint_of,
    make_split,
    row_key,
    stratified,
)

__all__ = ["Data", "Source", "Split", "Table", "load_data", "prepare_data", "read_table"]

_TEXT = ("text", "sentence", "content", "review", "question", "document", "tweet", "comment", "utterance")
_IMAGE = ("image", "img", "picture", "photo")
_LABEL = ("label", "labels", "target", "class", "category", "sentiment", "intent", "coarse_label", "fine_label", "y")
_BUILDERS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
}
_SPLITS = {"validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
_MAX_CLASSES = 10_000


@dataclass(frozen=True)
class Source:
    """Where the data is and which columns count.

    Args:
        location: a CSV, TSV, Parquet or JSON-lines file (also .gz), a folder of images in one folder a class, a folder
            with files for train, validation and test, or the name of a data set on the hub.
        text: column of the text; None: found by its usual names.
        image: column of the image; None: found by its usual names.
        label: column of the label; None: found by its usual names.
        config: configuration of a hub data set, e.g. "sst2" of "nyu-mll/glue".
    """

    location: str
    text: str | None = None
    image: str | None = None
    label: str | None = None
    config: str | None = None


@dataclass(frozen=True)
class Table:
    """Raw labelled rows: part name ("train", perhaps "validation", "test") -> (rows, class indices)."""

    kind: Kind
    classes: tuple[str, ...]
    parts: Mapping[str, tuple[Sequence[Row], IntArray]]


def load_data(
    source: Source,
    preprocess: Preprocessor,
    *,
    seed: int,
    shares: tuple[float, float, float] = (0.7, 0.15, 0.15),
    max_tokens: int = 128,
) -> Data:
    """Read a source and make it ready: `read_table`, then `prepare_data`; the same arguments and errors."""
    return prepare_data(read_table(source), preprocess, seed=seed, shares=shares, max_tokens=max_tokens)


def read_table(source: Source) -> Table:
    """Read all rows and find out their kind and classes.

    Splits whose labels are all missing (as in the test sets of many benchmarks) do not count as labelled data.

    Raises:
        UserError: nothing there, nothing in it, a column or labels missing, one class only, or not readable.
    """
    with _quiet(), tempfile.TemporaryDirectory(prefix="nas-data-", ignore_cleanup_errors=True) as cache:
        found = _named(_load(source, cache), source.location)
        columns = found["train"].column_names
        kind, column, label = _columns(source, columns)
        raw = {}
        for name, part in found.items():
            labels = _raw_labels(part, label, source.location)
            if all(value in (None, "", -1) for value in labels):
                continue
            missing = next((row for row, value in enumerate(labels) if value in (None, "")), None)
            if missing is not None:
                raise UserError(
                    f"every row must have a label, row {missing + 1} of {name} in {source.location} has none"
                )
            raw[name] = (_READERS[kind](part, column), labels)
        names = getattr(found["train"].features[label], "names", None)
    if "train" not in raw:
        raise UserError(f"column {label} of {source.location} must hold labels, but none of its training rows has one")
    ordered = _ordered({value for _, labels in raw.values() for value in labels}, names, source.location)
    index = {value: number for number, value in enumerate(ordered)}
    parts = {name: (rows, np.array([index[value] for value in labels])) for name, (rows, labels) in raw.items()}
    return Table(kind, tuple(str(value) for value in ordered), parts)


def prepare_data(
    table: Table,
    preprocess: Preprocessor,
    *,
    seed: int,
    shares: tuple[float, float, float] = (0.7, 0.15, 0.15),
    max_tokens: int = 128,
) -> Data:
    """Split what is not split yet and turn rows into inputs.

    Own splits of the data stay as they are; a missing one is taken from the training rows, stratified. A row that is in
    test is kept out of the others, and one that is in validation out of training.

    Args:
        table: the raw rows.
        preprocess: of the same kind as the rows.
        seed: decides which rows become validation and test.
        shares: of train, validation and test; only the shares of the parts to be made count.
        max_tokens: texts are cut off here.

    Raises:
        UserError: too few rows in a class, or rows of another kind than the model reads.
    """
    if table.kind != preprocess.kind:
        raise UserError(f"the model reads {preprocess.kind} rows, but the data holds {table.kind} rows")
    if len(shares) != len(PARTS) or min(shares) <= 0:
        raise UserError(f"shares must be three positive numbers (train, validation, test), got {shares}")
    parts = dict(table.parts)
    rows, labels = parts.pop("train")
    wanted = [("train", shares[0])] + [
        (name, share) for name, share in zip(PARTS, shares, strict=True) if name not in table.parts
    ]
    made = stratified(rows, labels, [share for _, share in wanted], seed, table.classes)
    parts |= {name: ([rows[i] for i in kept], labels[kept]) for (name, _), kept in zip(wanted, made, strict=True)}
    before = sum(len(part[0]) for part in parts.values())
    parts = _without_leaks(parts)
    absent = set(range(len(table.classes))) - set(parts["train"][1].tolist())
    if absent:
        name = table.classes[min(absent)]
        raise UserError(f"every class must have training rows of its own, class {name} has none")
    splits = {name: make_split(*parts[name], preprocess, max_tokens) for name in PARTS}
    empty = next((name for name in PARTS if not len(splits[name])), None)
    if empty is not None:
        raise UserError(f"the {empty} split must have rows that are in no other split, it has none")
    return Data(
        table.kind,
        table.classes,
        splits["train"],
        splits["validation"],
        splits["test"],
        fingerprint=fingerprint_of(table.classes, parts),
        left_out=before - sum(len(part) for part in splits.values()),
        max_tokens=max_tokens,
    )


def _without_leaks(
    parts: Mapping[str, tuple[Sequence[Row], IntArray]],
) -> dict[str, tuple[Sequence[Row], IntArray]]:
    seen: set[bytes] = set()
    kept: dict[str, tuple[Sequence[Row], IntArray]] = {}
    for name in reversed(PARTS):
        rows, labels = parts[name]
        keys = [row_key(row) for row in rows]
        rest = [i for i, key in enumerate(keys) if key not in seen]
        kept[name] = ([rows[i] for i in rest], labels[rest])
        seen.update(keys)
    return kept


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no log lines of `datasets` and of the hub's client, and their settings put back."""
    import datasets

    bars = datasets.utils.are_progress_bars_disabled()
    logs = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [log.level for log in logs]
    datasets.disable_progress_bars()
    for log in logs:
        log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()


def _load(source: Source, cache: str) -> Any:
    import datasets

    path = Path(source.location).expanduser()
    if path.is_file():
        return _load_file(path, cache)
    if path.is_dir():
        if not any(item.is_file() for item in path.rglob("*")):
            raise UserError(f"the data folder {path} must hold files, it is empty")
        return _readable(lambda: datasets.load_dataset(str(path.resolve()), cache_dir=cache), str(path))
    if path.suffix in {*_BUILDERS, ".gz"} or source.location.startswith((".", "/", "~")) or len(path.parts) > 2:
        raise UserError(f"the data must be a file, a folder or the name of a hub data set, there is no {path}")
    return _readable(lambda: datasets.load_dataset(source.location, source.config), source.location)


def _load_file(path: Path, cache: str) -> Any:
    import datasets

    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    builder = _BUILDERS.get(suffixes[-1].lower()) if suffixes else None
    if builder is None:
        raise UserError(f"the data file must end in {', '.join(_BUILDERS)} (or these with .gz), got {path.name}")
    if not path.stat().st_size:
        raise UserError(f"the data file {path} must hold rows, it is empty")
    options: dict[str, Any] = {"data_files": {"train": str(path)}, "cache_dir": cache}
    if builder == "csv":
        # A text that reads "NA" or "null" is a text, and the first of too many fields is not a name of the row.
        separator = "\t" if suffixes[-1].lower() == ".tsv" else ","
        options |= {"keep_default_na": False, "index_col": False, "sep": separator}
    return _readable(lambda: datasets.load_dataset(builder, **options), str(path))


def _readable(load: Callable[[], Any], name: str) -> Any:
    """The result of `load`; whatever `datasets` raises becomes one sentence with the innermost cause."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Length of header or names does not match")
            return load()
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        lines = str(cause).strip().splitlines() or [""]
        if "corresponds to no data" in lines[0]:
            raise UserError(f"the data in {name} must hold rows, it is empty") from error
        if "Length of header" in lines[0]:
            raise UserError(
                f"every row of {name} must have as many fields as its header; put quotes around a text with a separator"
            ) from error
        if isinstance(error, ConnectionError):
            raise UserError(
                f"there is no file or folder {name}, and no such data set can be reached on the hub"
            ) from error
        raise UserError(f"{name} cannot be read as a data set: {type(cause).__name__}: {lines[0][:300]}") from error


def _named(found: Any, location: str) -> dict[str, Any]:
    """Splits under the names train, validation, test; others are left out, empty ones too."""
    filled = {str(name): part for name, part in found.items() if part.num_rows}
    if not filled:
        raise UserError(f"the data in {location} must hold rows, it is empty")
    named = {"train": filled["train"]} if "train" in filled else {}
    if not named and len(filled) == 1:
        return {"train": next(iter(filled.values()))}
    if not named:
        raise UserError(f"the data in {location} must have a train split, got the splits {', '.join(filled)}")
    for name, aliases in _SPLITS.items():
        alias = next((alias for alias in aliases if alias in filled), None)
        if alias is not None:
            named[name] = filled[alias]
    return named


def _columns(source: Source, columns: Sequence[str]) -> tuple[Kind, str, str]:
    """(kind, column of the rows, column of the labels)."""
    shown = ", ".join(columns)
    if source.text and source.image:
        raise UserError("name a text column or an image column, not both")
    for name in (source.text, source.image, source.label):
        if name is not None and name not in columns:
            raise UserError(f"the data in {source.location} has no column {name}; its columns are {shown}")
    label = source.label or _usual(_LABEL, columns)
    if label is None:
        raise UserError(f"the data in {source.location} has no label column that I know; name one of {shown}")
    if source.text:
        return "text", source.text, label
    if source.image:
        return "image", source.image, label
    image, text = _usual(_IMAGE, columns), _usual(_TEXT, columns)
    if image is not None:
        return "image", image, label
    if text is not None:
        return "text", text, label
    raise UserError(f"the data in {source.location} has no text or image column that I know; name one of {shown}")


def _usual(names: Sequence[str], columns: Sequence[str]) -> str | None:
    lower = {column.lower(): column for column in columns}
    return next((lower[name] for name in names if name in lower), None)


def _texts(part: Any, column: str) -> list[Row]:
    return ["" if value is None else str(value) for value in part[column][:]]


def _images(part: Any, column: str) -> list[Row]:
    import datasets

    if isinstance(part.features[column], datasets.Image):
        part = part.cast_column(column, datasets.Image(decode=False))
    rows: list[Row] = []
    for number, value in enumerate(part[column][:]):
        if isinstance(value, dict):
            value = value.get("bytes") or (Path(value["path"]).read_bytes() if value.get("path") else None)
        if not isinstance(value, bytes):
            raise UserError(f"column {column} must hold encoded images (bytes), row {number + 1} has none")
        rows.append(value)
    return rows


_READERS: Mapping[Kind, Callable[[Any, str], list[Row]]] = {"text": _texts, "image": _images}


def _raw_labels(part: Any, label: str, location: str) -> list[Any]:
    """Labels as they came, whole numbers or words; those of a ClassLabel as names."""
    import datasets

    feature, values = part.features[label], part[label][:]
    if isinstance(feature, datasets.ClassLabel):
        return [value if value in (None, -1) else feature.int2str(value) for value in values]
    if all(value is None or (isinstance(value, float) and value.is_integer()) for value in values):
        return [None if value is None else int(value) for value in values]
    wrong = next((value for value in values if not isinstance(value, (int, str, type(None)))), None)
    if wrong is not None:
        raise UserError(
            f"column {label} of {location} must hold one class a row (whole numbers or words), got {wrong!r}"
        )
    return [value.strip() if isinstance(value, str) else value for value in values]


def _ordered(values: set[Any], names: Sequence[str] | None, location: str) -> list[Any]:
    """The distinct labels as classes: in the order of `names`, whole numbers ascending, or words sorted."""
    if len(values) < 2:
        raise UserError(f"the labels in {location} must have at least two classes, all are {next(iter(values))!r}")
    if len(values) > _MAX_CLASSES:
        raise UserError(f"the labels in {location} must have at most {_MAX_CLASSES} classes, got {len(values)}")
    if names is not None:
        return [name for name in names if name in values]
    try:
        return sorted(values, key=int)
    except ValueError:
        return sorted(values, key=str)
