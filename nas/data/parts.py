"""The rows of a split as a table of `datasets`, read from one file or from several, each as it is read alone."""

import glob
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.data.delimited import read_delimited
from nas.data.json_rows import read_json_rows
from nas.data.places import InTables, Places, cell_of
from nas.data.text_files import NoRows, Read, TextForm
from nas.errors import UserError
from nas.sentences import listed, one_line, quoted

SUFFIXES = (".csv", ".tsv", ".parquet", ".json", ".jsonl", ".ndjson")
_EMPTY = ("corresponds to no data", "BatchSize must be greater than 0")
"""What `datasets` says of a file without rows."""
_LOOKED_AT = 100
"""Rows that tell whether a column has names of images."""


@dataclass(frozen=True)
class Part:
    """The rows of one split.

    Args:
        table: a table of `datasets`.
        places: where its rows stand.
    """

    table: Any
    places: Places

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.table.column_names)

    def feature(self, column: str) -> Any:
        """The type of a column, as `datasets` has it."""
        return self.table.features[column]

    def cells(self, column: str) -> list[Any]:
        """All cells of a column."""
        return list(self.table[column][:])

    def cell(self, row: int, column: str) -> str:
        """A cell for a sentence, as `cell_of`."""
        return cell_of(self.places, row, column)

    def renamed(self, column: str, to: str) -> "Part":
        """The same with another name of a column, in place of one that has that name."""
        table = self.table
        if to in table.column_names and to != column:
            table = table.remove_columns([to])
        return Part(table.rename_column(column, to) if to != column else table, self.places)

    def holds_images(self, column: str) -> bool:
        """Whether a column is of images as `datasets` has them."""
        import datasets

        return isinstance(self.feature(column), datasets.Image)

    def holds_texts(self, column: str) -> bool:
        """Whether a column is of strings."""
        return getattr(self.feature(column), "dtype", None) in ("string", "large_string")

    def names_images(self, column: str) -> bool:
        """Whether the cells of a column are names of image files."""
        if not self.holds_texts(column):
            return False
        cells = self.table[column][:_LOOKED_AT]
        return bool(cells) and all(cell and "\n" not in cell and is_image(Path(cell)) for cell in cells)

    def images(self, column: str) -> list[bytes]:
        """The encoded images of a column; UserError where it has neither these nor names of files."""
        import datasets

        table = (
            self.table.cast_column(column, datasets.Image(decode=False)) if self.holds_images(column) else self.table
        )
        return [self._image(row, column, value) for row, value in enumerate(table[column][:])]

    def _image(self, row: int, column: str, value: Any) -> bytes:
        # `datasets` gives the bytes of an image from a table, and the path of one from a folder.
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        # An empty value is no image; `prepare_data` then counts it among the images that cannot be read.
        if not value:
            return b""
        if isinstance(value, bytes):
            return value
        folder = self.places.folder(row)
        if not isinstance(value, str) or not (folder or Path(value).is_absolute()):
            raise UserError(f"{self.cell(row, column)} must hold an encoded image (bytes), it has {quoted(value)}")
        try:
            path = Path(folder or "", value)
            if path.is_file():
                return path.read_bytes()
            reason = f"no file in {path.parent}"
        except (OSError, ValueError) as error:
            reason = f"a file that cannot be read: {error}"
        raise UserError(f"{self.cell(row, column)} names {quoted(value)}, which is {reason}")


def is_image(path: Path) -> bool:
    """Whether a file is an image by its suffix."""
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

    return path.suffix.lower() in ImageFolder.EXTENSIONS


def kind_of(path: Path) -> str | None:
    """The suffix that says what a file holds, without .gz; None where it is no table."""
    suffix = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"][-1:]
    return suffix[0] if suffix and suffix[0] in SUFFIXES else None


def read_part(paths: Sequence[Path], form: TextForm, cache: str) -> tuple[Part, list[str]]:
    """The rows of files as one part, and sentences about how they were read.

    Args:
        paths: at least one; those without rows are left out, which is said.
        form: separator and encoding of text files, where the user says them.
        cache: a folder for what `datasets` writes.

    Raises:
        NoRows: no file has rows.
        UserError: a file cannot be read, or its columns are not those of the others.
    """
    import datasets

    tables, files, notes = [], [], []
    for path in paths:
        try:
            table, said = _one_table(path, form, cache)
        except NoRows:
            if len(paths) == 1:
                raise
            notes.append(f"File without rows left out: {path}")
            continue
        tables.append(table)
        files.append((path, table.num_rows))
        notes += said
    if not tables:
        raise NoRows(f"the data in {paths[0].parent} must hold rows, all of its {len(paths)} files are empty")
    columns = tables[0].column_names
    for (path, _), table in zip(files, tables, strict=True):
        if set(table.column_names) != set(columns):
            raise UserError(
                f"files that are read as one table must have the same columns: {files[0][0]} has {listed(columns)}, "
                f"{path} has {listed(table.column_names)}"
            )
    name = str(paths[0].parent)
    whole = tables[0] if len(tables) == 1 else readable(lambda: datasets.concatenate_datasets(tables), name)
    return Part(whole, InTables(files)), notes


def _one_table(path: Path, form: TextForm, cache: str) -> tuple[Any, Sequence[str]]:
    import datasets

    kind = kind_of(path)
    if kind is None:
        raise UserError(f"the data file must end in {', '.join(SUFFIXES)} (or these with .gz), got {path.name}")
    if not path.stat().st_size:
        raise NoRows(f"the data file {path} must hold rows, it is empty")
    if kind == ".parquet":
        files = {"train": glob.escape(str(path.resolve()))}
        table = readable(lambda: datasets.load_dataset("parquet", data_files=files, cache_dir=cache), str(path))[
            "train"
        ]
        if not table.num_rows:
            raise NoRows(f"the data in {path} must hold rows, it is empty")
        return table, ()
    if kind in (".csv", ".tsv"):
        read = readable(lambda: read_delimited(path, form), str(path))
        features = datasets.Features({name: datasets.Value("large_string") for name in read.columns})
        return datasets.Dataset.from_dict(read.columns, features=features), read.notes
    read = readable(lambda: read_json_rows(path, form), str(path))
    return _of_values(read, path), read.notes


def _of_values(read: Read, path: Path) -> Any:
    """A table of cells of any type; UserError that names the column, and the first cell of another type than others."""
    import datasets

    columns = []
    for name, cells in read.columns.items():
        try:
            columns.append(datasets.Dataset.from_dict({name: cells}))
        except Exception as error:
            where = f"column {one_line(name, 40)} of {path}"
            first = next((cell for cell in cells if cell is not None), None)
            for row, cell in enumerate(cells, start=1):
                if cell is not None and type(cell) is not type(first):
                    raise UserError(
                        f"every cell of {where} must be of one type (texts, numbers or lists), row {row} has "
                        f"{quoted(cell)}, a cell before it {quoted(first)}"
                    ) from error
            raise UserError(f"{where} cannot be read: {type(error).__name__}: {one_line(str(error), 200)}") from error
    return readable(lambda: datasets.concatenate_datasets(columns, axis=1), str(path))


def readable(load: Callable[[], Any], name: str) -> Any:
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
        line = one_line((str(cause).strip().splitlines() or [""])[0], 300)
        if any(words in line for words in _EMPTY):
            raise NoRows(f"the data in {name} must hold rows, it is empty") from error
        if isinstance(error, ConnectionError):
            raise UserError(
                f"there is no file or folder {name}, and no such data set can be reached on the hub"
            ) from error
        raise UserError(f"{name} cannot be read as a data set: {type(cause).__name__}: {line}") from error
