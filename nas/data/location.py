"""Find the splits of a data set in a file, in a folder or on the hub, and read them; the only home of `datasets`.

Folders are read file by file with the functions that read a file alone. A folder is a split, and so is a file, only by
an exact name ("train", "val", ...): a class "crash test" or an image "latest_01.png" is not. What is left out is said.
"""

import glob
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.data.delimited import Columns, read_delimited, read_json_rows
from nas.errors import UserError
from nas.files import expanded
from nas.quiet import quiet

_SUFFIXES = (".csv", ".tsv", ".parquet", ".json", ".jsonl", ".ndjson")
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SPLIT_OF = {name: split for split, names in _SPLITS.items() for name in names}
# What splits of the hub are called; those of other names ("unsupervised", "eval") are left out.
_ALIASES = {"validation": _SPLITS["validation"], "test": ("test",)}
_SHARD = re.compile(r"[-_.]\d+(-of-\d+)?$")
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_FILE_NAME = "file_name"
# Files that describe a data set and hold no rows of it.
_ABOUT = ("readme.md", "config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "license")
_SHOWN = 3


@dataclass(frozen=True)
class Found:
    """What was found at a location.

    Args:
        parts: tables of `datasets` by the name of the split.
        notes: sentences for the user about what was left out.
    """

    parts: Mapping[str, Any]
    notes: tuple[str, ...] = ()


@contextmanager
def located(location: str, config: str | None) -> Iterator[Found]:
    """Context with the splits train, validation and test at a location; the tables end with it.

    Args:
        location: a file, a folder or the name of a hub data set.
        config: configuration of a hub data set.

    Raises:
        UserError: there is nothing, it cannot be read, or it has no training rows.
    """
    with _quiet(), tempfile.TemporaryDirectory(prefix="nas-data-", ignore_cleanup_errors=True) as cache:
        found = _load(location, config, cache)
        named, ignored = _named(found.parts, location)
        notes = () if not ignored else (f"Splits of {location} left out, which have other names: {ignored}",)
        yield Found(named, (*found.notes, *notes))


def _quiet() -> AbstractContextManager[None]:
    """Suppress the progress bars and log lines of `datasets` and of the hub's client."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    loggers = ("datasets", "huggingface_hub")
    return quiet(loggers, lambda: not are_progress_bars_disabled(), disable_progress_bars, enable_progress_bars)


def encoded_images(part: Any, column: str) -> list[bytes]:
    """The encoded images of a column; raises UserError where it holds something else."""
    import datasets

    if isinstance(part.features[column], datasets.Image):
        part = part.cast_column(column, datasets.Image(decode=False))
    rows: list[bytes] = []
    for number, value in enumerate(part[column][:]):
        # `datasets` gives the bytes of an image from a table, and the path of one from a folder.
        if isinstance(value, dict):
            value = value.get("bytes") or (Path(value["path"]).read_bytes() if value.get("path") else None)
        if not isinstance(value, bytes | None):
            raise UserError(f"column {column} must hold encoded images (bytes), row {number + 1} holds something else")
        # An empty value is no image; `prepare_data` then counts it among the images that cannot be read.
        rows.append(value or b"")
    return rows


def _load(location: str, config: str | None, cache: str) -> Found:
    path = expanded(location)
    if path.is_file():
        return Found({"train": _table([path], cache)})
    if path.is_dir():
        return _load_folder(path, cache)
    if path.suffix in {*_SUFFIXES, ".gz"} or location.startswith((".", "/", "~")) or len(path.parts) > 2:
        raise UserError(f"the data must be a file, a folder or the name of a hub data set, there is no {path}")
    return Found(_readable(lambda: _described(location, config, cache), location))


def _described(location: str, config: str | None, cache: str) -> Any:
    """A data set that says itself what its splits are: on the hub, or a folder in the hub's form."""
    import datasets
    from datasets.packaged_modules.csv.csv import CsvConfig

    builder = datasets.load_dataset_builder(location, config, cache_dir=cache)
    if not isinstance(builder.config, CsvConfig):
        return datasets.load_dataset(location, config)
    # Left alone, pandas reads "NA" as missing and "007" as a number. What was read so before may be in the usual cache.
    builder.config.keep_default_na = False
    builder.config.dtype = str
    builder.download_and_prepare()
    return builder.as_dataset()


# One file, or several of one split ------------------------------------------------------------------------------------


def _table(paths: Sequence[Path], cache: str) -> Any:
    """The rows of files as one table of `datasets`, each file read as it is alone."""
    import datasets

    tables = [_one_table(path, cache) for path in paths]
    columns = tables[0].column_names
    for path, table in zip(paths, tables, strict=True):
        if set(table.column_names) != set(columns):
            raise UserError(
                f"files that are read as one table must have the same columns: {paths[0]} has {', '.join(columns)}, "
                f"{path} has {', '.join(table.column_names)}"
            )
    if len(tables) == 1:
        return tables[0]
    return _readable(lambda: datasets.concatenate_datasets(tables), str(paths[0].parent))


def _one_table(path: Path, cache: str) -> Any:
    import datasets

    kind = _kind(path)
    if kind is None:
        raise UserError(f"the data file must end in {', '.join(_SUFFIXES)} (or these with .gz), got {path.name}")
    if not path.stat().st_size:
        raise UserError(f"the data file {path} must hold rows, it is empty")
    if kind == ".parquet":
        files = {"train": glob.escape(str(path.resolve()))}
        return _readable(lambda: datasets.load_dataset("parquet", data_files=files, cache_dir=cache), str(path))[
            "train"
        ]
    if kind in (".csv", ".tsv"):
        return _readable(lambda: _of_strings(read_delimited(path)), str(path))
    return _readable(lambda: datasets.Dataset.from_dict(read_json_rows(path)), str(path))


def _of_strings(columns: Columns) -> Any:
    import datasets

    features = datasets.Features({name: datasets.Value("large_string") for name in columns})
    return datasets.Dataset.from_dict(columns, features=features)


def _kind(path: Path) -> str | None:
    """The suffix that says what a file holds, without .gz; None where it is no table."""
    suffix = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"][-1:]
    return suffix[0] if suffix and suffix[0] in _SUFFIXES else None


def _readable(load: Callable[[], Any], name: str) -> Any:
    """Call `load`; anything that it raises becomes a UserError with the innermost cause."""
    try:
        return load()
    except UserError:
        raise
    except Exception as error:
        # The library wraps the error that a user can act on in several of its own.
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        lines = str(cause).strip().splitlines() or [""]
        if "corresponds to no data" in lines[0]:
            raise UserError(f"the data in {name} must hold rows, it is empty") from error
        if isinstance(error, ConnectionError):
            raise UserError(
                f"there is no file or folder {name}, and no such data set can be reached on the hub"
            ) from error
        raise UserError(f"{name} cannot be read as a data set: {type(cause).__name__}: {lines[0][:300]}") from error


def _named(found: Mapping[Any, Any], location: str) -> tuple[dict[str, Any], str]:
    """The splits under the names train, validation and test, and the names of the others; empty splits do not count."""
    filled = {str(name): part for name, part in found.items() if part.num_rows}
    if not filled:
        raise UserError(f"the data in {location} must hold rows, it is empty")
    if "train" not in filled and len(filled) == 1:
        return {"train": next(iter(filled.values()))}, ""
    if "train" not in filled:
        raise UserError(f"the data in {location} must have a train split, got the splits {', '.join(filled)}")
    used = {"train": "train"}
    for split, aliases in _ALIASES.items():
        alias = next((alias for alias in aliases if alias in filled), None)
        if alias is not None:
            used[split] = alias
    ignored = [name for name in filled if name not in used.values()]
    return {split: filled[name] for split, name in used.items()}, ", ".join(ignored)


# Folders --------------------------------------------------------------------------------------------------------------


def _load_folder(folder: Path, cache: str) -> Found:
    import datasets
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    files = _files(folder)
    if not files:
        raise UserError(f"the data folder {folder} must hold files, it is empty")
    images = [path for path in files if path.suffix.lower() in ImageFolder.EXTENSIONS]
    tables = [path for path in files if _kind(path) and path.name.lower() not in _ABOUT]
    metadata = [path for path in tables if path.name.lower() in _METADATA] if images else []
    if _declares_splits(folder) or not (images or tables):
        return Found(_readable(lambda: _described(str(folder.resolve()), None, cache), str(folder)))
    if metadata:
        return _described_images(folder, metadata, files, cache)
    if len(images) > len(tables):
        groups, notes = _image_splits(folder, images)
        classes = sorted({path.parent.name for path in images})
        features = datasets.Features(
            {"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=classes)}
        )
        parts = {
            split: datasets.Dataset.from_dict(
                {"image": [str(path) for path in paths], "label": [path.parent.name for path in paths]}, features
            )
            for split, paths in groups.items()
        }
        return Found(parts, (*notes, *_left_out(folder, files, images, "no images")))
    groups, used = _table_splits(folder, tables)
    together = [] if len(groups) > 1 or len(used) == 1 else [f"Files of {folder} read as one table: {len(used):,}"]
    notes = [*together, *_left_out(folder, files, tables, "no tables")]
    notes += _left_out(folder, tables, used, "without the name of a split beside files that have one")
    return Found({split: _table(paths, cache) for split, paths in groups.items()}, tuple(notes))


def _files(folder: Path) -> list[Path]:
    """All files below a folder but hidden ones, by their paths; links are followed, each folder once."""
    found: list[Path] = []
    seen: set[str] = set()
    for where, folders, names in os.walk(folder.resolve(), followlinks=True):
        seen.add(os.path.realpath(where))
        folders[:] = [
            name
            for name in folders
            if not name.startswith((".", "__")) and os.path.realpath(Path(where, name)) not in seen
        ]
        found += [Path(where, name) for name in names if not name.startswith(".")]
    return sorted(found, key=str)


def _declares_splits(folder: Path) -> bool:
    """Whether a README.md in the hub's form says which files are the splits."""
    readme = folder / "README.md"
    head = readme.read_bytes()[:4096] if readme.is_file() else b""
    return head.startswith(b"---") and (b"\nconfigs:" in head or b"\ndataset_info:" in head)


def _image_splits(folder: Path, images: Sequence[Path]) -> tuple[dict[str, list[Path]], list[str]]:
    """The images of each split: of folders with exact names of splits, one of them train, and nothing beside these."""
    top = Path(os.path.commonpath([path.parent for path in images]))
    beside = sorted({path.relative_to(top).parts[0] if path.parent != top else "" for path in images})
    taken = [name for name in beside if name.lower() in _SPLIT_OF]
    groups: dict[str, list[Path]] = {"train": list(images)}
    notes: list[str] = []
    depth = 1
    if taken == beside and "train" in {_SPLIT_OF[name.lower()] for name in taken}:
        groups, depth = {}, 2
        for path in images:
            groups.setdefault(_SPLIT_OF[path.relative_to(top).parts[0].lower()], []).append(path)
    elif taken:
        notes = [f"No splits in {folder}, because not all of its folders have the name of one: {', '.join(beside[:9])}"]
    depths = {len(path.parts) for path in images}
    top_level = next((path for path in images if len(path.relative_to(top).parts) <= depth), None)
    if len(depths) > 1 or (top_level is not None and len(beside) > 1):
        usual = max(depths)
        odd = top_level or next(path for path in images if len(path.parts) != usual)
        raise UserError(f"every image of {folder} must be in the folder of its class, {odd} is not")
    return groups, notes


def _table_splits(folder: Path, tables: Sequence[Path]) -> tuple[dict[str, list[Path]], list[Path]]:
    """The files of each split, and all that are used: those with names of splits where there are any, else all."""
    root = folder.resolve()
    exact = {path: _exact_split(path.relative_to(root)) for path in tables}
    if not any(exact.values()):
        exact = _common_form(tables)
    named = {path: split for path, split in exact.items() if split}
    groups: dict[str, list[Path]] = {}
    for path, split in named.items():
        groups.setdefault(split, []).append(path)
    if "train" not in groups and len(named) < len(tables):
        return {"train": list(tables)}, list(tables)
    return groups, list(named)


def _stem(path: Path) -> str:
    """The name of a file without suffixes and without its number among several (train-00000-of-00002.parquet)."""
    kind = _kind(path) or path.suffix
    return _SHARD.sub("", path.name[: path.name.lower().rindex(kind)]).lower()


def _exact_split(path: Path) -> str | None:
    own = _SPLIT_OF.get(_stem(path))
    above = [_SPLIT_OF[name.lower()] for name in path.parts[:-1] if name.lower() in _SPLIT_OF]
    return own or (above[-1] if above else None)


def _common_form(tables: Sequence[Path]) -> dict[Path, str | None]:
    """Splits of files whose names differ in nothing but the name of the split: reviews_train and reviews_test."""
    forms: dict[Path, tuple[str, str]] = {}
    for path in tables:
        words = re.split(r"([-_. ]+)", _stem(path))
        places = [place for place, word in enumerate(words) if word in _SPLIT_OF]
        if len(places) != 1:
            continue
        split = _SPLIT_OF[words[places[0]]]
        forms[path] = (split, "".join("*" if place == places[0] else word for place, word in enumerate(words)))
    alike = len({form for _, form in forms.values()}) == 1 and "train" in {split for split, _ in forms.values()}
    return {path: split for path, (split, _) in forms.items()} if alike else {}


def _described_images(folder: Path, metadata: Sequence[Path], files: Sequence[Path], cache: str) -> Found:
    """Images whose labels stand in tables beside them, by the name of each file."""
    import datasets

    groups, _ = _table_splits(folder, metadata)
    parts, named = {}, set(metadata)
    for split, paths in groups.items():
        tables = []
        for path in paths:
            table = _one_table(path, cache)
            if _FILE_NAME not in table.column_names:
                raise UserError(
                    f"{path} must have a column {_FILE_NAME}, its columns are {', '.join(table.column_names)}"
                )
            images = [Path(path.parent, str(name)) for name in table[_FILE_NAME][:]]
            missing = next((image for image in images if not image.is_file()), None)
            if missing is not None:
                raise UserError(f"{path} names {missing}, which is not there")
            named.update(Path(os.path.normpath(image)) for image in images)
            table = table.remove_columns([name for name in (_FILE_NAME, "image") if name in table.column_names])
            cells = [{"bytes": None, "path": str(image)} for image in images]
            tables.append(table.add_column("image", cells, feature=datasets.Image(decode=False)))
        parts[split] = tables[0] if len(tables) == 1 else datasets.concatenate_datasets(tables)
    return Found(parts, tuple(_left_out(folder, files, list(named), "not in the metadata")))


def _left_out(folder: Path, files: Sequence[Path], used: Sequence[Path], why: str) -> list[str]:
    known = set(used)
    names = [
        path.relative_to(folder.resolve()).as_posix()
        for path in files
        if path not in known and path.name.lower() not in _ABOUT
    ]
    if not names:
        return []
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return [f"Files of {folder} left out, {why}: {len(names):,} ({shown})"]
