"""Find the splits of a data set in a file, in a folder or on the hub, and read them.

Folders are read file by file with the functions that read a file alone. What is left out is said.
"""

import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nas.data.folders import (
    SPLITS,
    NoClasses,
    files_below,
    image_splits,
    is_about,
    left_out,
    table_splits,
)
from nas.data.parts import SUFFIXES, Part, is_image, kind_of, read_part, readable
from nas.data.places import InData, InFiles, InTables
from nas.data.text_files import NoRows, TextForm
from nas.errors import UserError
from nas.files import expanded, read_json
from nas.quiet import quiet
from nas.sentences import did_you_mean, listed, quoted

# What splits of the hub are called; those of other names ("unsupervised", "eval") are left out.
_ALIASES = {"validation": SPLITS["validation"], "test": ("test",)}
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_FILE_NAME, _IMAGE, _LABEL = "file_name", "image", "label"
# What `save_to_disk` of `datasets` writes: these for one split, and that beside a folder for each split.
_SAVED, _SAVED_SPLITS = ("state.json", "dataset_info.json"), "dataset_dict.json"


@dataclass(frozen=True)
class Found:
    """What was found at a location.

    Args:
        parts: rows by the name of the split.
        notes: sentences for the user about how it was read and what was left out.
    """

    parts: Mapping[str, Part]
    notes: Sequence[str] = ()


@contextmanager
def located(location: str, config: str | None, form: TextForm) -> Iterator[Found]:
    """Context with the splits train, validation and test at a location; the tables end with it.

    Args:
        location: a file, a folder or the name of a hub data set.
        config: configuration of a data set that has several.
        form: separator and encoding of text files, where the user says them.

    Raises:
        UserError: there is nothing, it cannot be read, it has no training rows, or no file to which `form` applies.
    """
    with _quiet(), tempfile.TemporaryDirectory(prefix="nas-data-", ignore_cleanup_errors=True) as cache:
        found = _load(location, config, form, cache)
        named, notes = _named(found.parts, location)
        yield Found(named, (*found.notes, *notes))


def _quiet() -> AbstractContextManager[None]:
    """Suppress the progress bars and log lines of `datasets` and of the hub's client."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    loggers = ("datasets", "huggingface_hub")
    return quiet(loggers, lambda: not are_progress_bars_disabled(), disable_progress_bars, enable_progress_bars)


def _load(location: str, config: str | None, form: TextForm, cache: str) -> Found:
    path = expanded(location)
    described = path.is_dir() and _is_described(path)
    if config is not None and path.exists() and not described:
        raise UserError(f"--data-config is of data sets that have configurations, {path} has none")
    if path.is_file():
        part, notes = read_part([path], form, cache)
        return _of_form(Found({"train": part}, notes), form, location)
    if path.is_dir() and not described:
        return _of_form(_saved(path) if _is_saved(path) else _load_folder(path, form, cache), form, location)
    if not described and (
        path.suffix.lower() in {*SUFFIXES, ".gz"} or location.startswith((".", "/", "~")) or len(path.parts) > 2
    ):
        raise UserError(f"the data must be a file, a folder or the name of a hub data set, there is no {path}")
    source = str(path.resolve()) if described else location
    return _found(readable(lambda: _described(source, config, form, cache), location), location)


def _of_form(found: Found, form: TextForm, location: str) -> Found:
    """What was found; UserError where the user says a separator or an encoding, and no table has such a thing."""
    tables = [part.places.files for part in found.parts.values() if isinstance(part.places, InTables)]
    _check_form(form, {kind_of(path) for files in tables for path, _ in files}, location)
    return found


def _check_form(form: TextForm, suffixes: Set[str | None], location: str) -> None:
    for flag, told, those, what in (
        ("separator", form.separator, {".csv", ".tsv"}, "CSV and TSV"),
        ("encoding", form.encoding, {*SUFFIXES} - {".parquet"}, "CSV, TSV and JSON"),
    ):
        if told is not None and those.isdisjoint(suffixes):
            raise UserError(f"--{flag} is of {what} files, the data in {location} has none; leave it out")


def _found(tables: Mapping[Any, Any], location: str) -> Found:
    return Found({str(name): Part(table, InData(f"{name} in {location}")) for name, table in tables.items()})


# Data sets that say themselves what their splits are ------------------------------------------------------------------


def _is_described(folder: Path) -> bool:
    """Whether a folder is in the hub's form: a README.md says which files are the splits."""
    readme = folder / "README.md"
    head = readme.read_bytes()[:4096] if readme.is_file() else b""
    return head.startswith(b"---") and (b"\nconfigs:" in head or b"\ndataset_info:" in head)


def _described(location: str, config: str | None, form: TextForm, cache: str) -> Any:
    """A data set on the hub, or a folder in the hub's form."""
    import datasets
    from datasets.packaged_modules.csv.csv import CsvConfig

    try:
        builder = datasets.load_dataset_builder(location, config, cache_dir=cache)
    except ValueError as error:
        if not re.search(r"config name is missing|builderconfig .* not found", str(error), re.IGNORECASE):
            raise
        raise _which_config(location, config) from error
    csv = isinstance(builder.config, CsvConfig)
    _check_form(form, {".csv"} if csv else set(), location)
    if not csv:
        return datasets.load_dataset(location, config)
    # Left alone, pandas reads "NA" as missing and "007" as a number. What was read so before may be in the usual cache.
    builder.config.keep_default_na = False
    builder.config.dtype = str
    if form.mark is not None:
        builder.config.sep = form.mark
    if form.encoding is not None:
        builder.config.encoding = form.encoding
    builder.download_and_prepare()
    return builder.as_dataset()


def _which_config(location: str, config: str | None) -> UserError:
    """The error of a configuration that is missing or unknown, with those that there are."""
    import datasets

    names = datasets.get_dataset_config_names(location)
    there = listed(names, 20)
    got = "" if config is None else f", it has no {quoted(config)}{did_you_mean(config, names)}"
    return UserError(f"the data set {location} has several configurations{got}; name one with --data-config: {there}")


def _is_saved(folder: Path) -> bool:
    return (folder / _SAVED_SPLITS).is_file() or all((folder / name).is_file() for name in _SAVED)


def _saved(folder: Path) -> Found:
    """What `save_to_disk` of `datasets` wrote: one split, or one for each of its folders."""
    several = (folder / _SAVED_SPLITS).is_file()
    folders = (
        {path.name: path for path in sorted(folder.iterdir()) if _is_saved(path)} if several else {"train": folder}
    )
    tables = {name: readable(partial(_saved_split, path), str(path)) for name, path in folders.items()}
    return _found(tables, str(folder))


def _saved_split(folder: Path) -> Any:
    """The table of a saved split."""
    import datasets

    if read_json(folder / _SAVED[0]).get("_data_files") == []:
        # It has no rows, and `datasets` cannot open it.
        return datasets.Dataset.from_dict({})
    # A format that was set before saving would hide columns, or give their cells as tensors.
    return datasets.load_from_disk(str(folder.resolve())).with_format(None)


def _named(found: Mapping[str, Part], location: str) -> tuple[dict[str, Part], list[str]]:
    """The splits under the names train, validation and test, and what is to be said of the others."""
    filled = {name: part for name, part in found.items() if len(part)}
    if not filled:
        raise NoRows(f"the data in {location} must hold rows, it is empty")
    if "train" not in filled and len(filled) == 1:
        used = {"train": next(iter(filled))}
    elif "train" not in filled:
        raise UserError(f"the data in {location} must have a train split, got the splits {listed(filled)}")
    else:
        used = {"train": "train"}
        for split, aliases in _ALIASES.items():
            alias = next((alias for alias in aliases if alias in filled), None)
            if alias is not None:
                used[split] = alias
    others = [name for name in filled if name not in used.values()]
    empty = [name for name in found if name not in filled]
    notes = [f"Splits of {location} left out, which have other names: {listed(others)}"] if others else []
    notes += [f"Splits of {location} left out, without rows: {listed(empty)}"] if empty else []
    return {split: filled[name] for split, name in used.items()}, notes


# Folders --------------------------------------------------------------------------------------------------------------


def _load_folder(folder: Path, form: TextForm, cache: str) -> Found:
    files = files_below(folder)
    if not files:
        raise UserError(f"the data folder {folder} must hold files, it is empty")
    images = [path for path in files if is_image(path)]
    tables = [path for path in files if kind_of(path) and not is_about(path)]
    if not (images or tables):
        return _found(readable(lambda: _described(str(folder.resolve()), None, form, cache), str(folder)), str(folder))
    metadata = [path for path in tables if path.name.lower() in _METADATA] if images else []
    if metadata:
        return _named_images(folder, metadata, files, form, cache)
    if len(images) > len(tables):
        try:
            return _images_in_folders(folder, images, files)
        except NoClasses:
            naming = [path for path in tables if _image_column(read_part([path], form, cache)[0])]
            if not naming:
                raise
            return _named_images(folder, naming, files, form, cache)
    groups, used = table_splits(folder, tables)
    together = [] if len(groups) > 1 or len(used) == 1 else [f"Files of {folder} read as one table: {len(used):,}"]
    parts, said = _read_groups(groups, form, cache)
    return Found(
        parts,
        [
            *together,
            *said,
            *left_out(folder, files, tables, "no tables"),
            *left_out(folder, tables, used, "without the name of a split beside files that have one"),
        ],
    )


def _read_groups(groups: Mapping[str, Sequence[Path]], form: TextForm, cache: str) -> tuple[dict[str, Part], list[str]]:
    """The rows of each split; one without rows is left out, which is said, unless it is train."""
    parts, notes = {}, []
    for split, paths in groups.items():
        try:
            parts[split], said = read_part(paths, form, cache)
        except NoRows:
            if split == "train" or len(groups) == 1:
                raise
            said = [f"No rows for {split} in {listed(paths, 3, 200)}, so there is no such split"]
        notes += said
    return parts, notes


def _images_in_folders(folder: Path, images: Sequence[Path], files: Sequence[Path]) -> Found:
    """Images whose classes are the names of their folders."""
    import datasets

    found = image_splits(folder, images)
    classes = sorted({name for names in found.classes.values() for name in names if name is not None})
    features = datasets.Features({_IMAGE: datasets.Value("large_string"), _LABEL: datasets.ClassLabel(names=classes)})
    parts = {
        split: Part(
            datasets.Dataset.from_dict({_IMAGE: list(map(str, paths)), _LABEL: list(found.classes[split])}, features),
            InFiles(paths),
        )
        for split, paths in found.images.items()
    }
    return Found(parts, [*found.notes, *left_out(folder, files, images, "no images")])


def _image_column(part: Part) -> str | None:
    """The column with the names of images: the one of metadata, else the first that holds such names."""
    if _FILE_NAME in part.columns:
        return _FILE_NAME
    return next((column for column in part.columns if part.names_images(column)), None)


def _named_images(folder: Path, tables: Sequence[Path], files: Sequence[Path], form: TextForm, cache: str) -> Found:
    """Images whose labels stand in tables beside them, by the name of each file."""
    groups, used = table_splits(folder, tables)
    parts, notes = _read_groups(groups, form, cache)
    named, known = {}, set(used)
    for split, part in parts.items():
        column = _image_column(part)
        if column is None:
            raise UserError(
                f"{groups[split][0]} must have a column {_FILE_NAME} with names of images, its columns are "
                f"{listed(part.columns)}"
            )
        for row, name in enumerate(part.cells(column)):
            where = part.places.folder(row)
            if where is not None and isinstance(name, str):
                known.add(Path(os.path.normpath(Path(where, name))))
        named[split] = part.renamed(column, _IMAGE)
    return Found(named, [*notes, *left_out(folder, files, list(known), "not named in the tables")])
