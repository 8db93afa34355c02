"""Labelled rows ready for a model: batches of similar lengths, stratified splitting, and storage as Parquet files.

`Data` holds the three splits of a run and is what training, search and export receive. `Preprocessor` and
`PreparedRows` are the two interfaces between raw rows and a model's inputs.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from nas.data.augmentation import augment
from nas.data.tasks import CLASSIFICATION, IGNORED, Labels, Task, first_words, task_of
from nas.errors import UserError
from nas.files import read_json, write_json_atomic
from nas.seeds import generator
from search_spaces.arrays import IntArray

InputKind = Literal["text", "image"]
RawRow = str | bytes | tuple[str, ...]
"""A text, the encoded bytes of an image, or the words of a text as a tuple."""

_VERSION = 2
_MOST_TOKENS = 2**20
PARTS = ("train", "validation", "test")
_POOL = 32
"""Batches per pool: rows are shuffled, and then sorted by length within pools of this many batches."""


class PreparedRows(Protocol):
    """Preprocessed rows of one split, from which batches are made."""

    @property
    def lengths(self) -> IntArray:
        """Length of each row (n,): its number of tokens, or 1 for images."""

    def batch(self, indices: npt.ArrayLike) -> dict[str, Tensor]:
        """Keyword inputs of the model for the given rows, padded to the longest of them."""


class Preprocessor(Protocol):
    """Preprocesses raw rows; `nas.data.tokens` has the one of texts, `nas.data.pixels` those of images."""

    @property
    def kind(self) -> InputKind:
        """The kind of rows that it accepts."""

    def prepare(self, rows: Sequence[RawRow], max_tokens: int) -> PreparedRows:
        """Preprocess rows; texts are truncated to `max_tokens`. Raises UserError for rows that cannot be read."""

    def save(self, folder: Path) -> None:
        """Write files from which `nas.networks.pretrained.load_preprocessor` restores it."""


@dataclass(frozen=True)
class Split:
    """The rows of one split with their labels and their preprocessed form; they are `nas.data.rows.Rows`.

    Args:
        rows: n raw texts, encoded images or tuples of words.
        labels: class indices (n,), numbers (n,), or tags of words (n, most words).
        inputs: the same rows after preprocessing.
        task: defines the targets, the loss and the metric.
    """

    rows: tuple[RawRow, ...]
    labels: Labels
    inputs: PreparedRows
    task: Task = CLASSIFICATION

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: npt.ArrayLike) -> dict[str, Tensor]:
        """Keyword inputs of the model for the given rows, padded to the longest of them, without labels."""
        return self.inputs.batch(indices)

    def targets(self, indices: npt.ArrayLike) -> Tensor:
        """Targets of the given rows for the loss of the task, int64 or float32; shapes as in `nas.data.tasks`."""
        return self.task.targets(self, indices)

    def batches(self, batch_size: int, rng: np.random.Generator | None = None) -> list[IntArray]:
        """Divide all rows into batches of rows of similar length, which keeps the padding small.

        Args:
            batch_size: largest batch, at least 1; the sizes of the batches differ by one row at most.
            rng: shuffles the rows for training. None: longest rows first, for evaluation.

        Returns:
            Row indices of each batch; every row occurs once.
        """
        count = -(-len(self) // batch_size)
        if rng is None:
            return np.array_split(np.argsort(-self.inputs.lengths, kind="stable"), count) if count else []
        # Sorting all rows by length would always batch the same rows together. So the rows are shuffled first, sorted
        # by length within pools only, and the resulting batches are shuffled again.
        order, pool = rng.permutation(len(self)), _POOL * batch_size
        lengths = self.inputs.lengths
        pools = [order[start : start + pool] for start in range(0, len(order), pool)]
        order = np.concatenate([rows[np.argsort(lengths[rows], kind="stable")] for rows in pools])
        batches = np.array_split(order, count)
        return [batches[index] for index in rng.permutation(count)]

    def augment(
        self, batch: Mapping[str, Tensor], rows: int, kept: IntArray, rng: np.random.Generator
    ) -> dict[str, Tensor]:
        """Mirror and shift the images of a batch, see `nas.data.augmentation.augment`; UserError where none are."""
        return augment(batch, rows, kept, rng)

    def take(self, count: int, rng: np.random.Generator) -> "Split":
        """Draw at most `count` rows without replacement; they keep their order."""
        kept = np.sort(rng.permutation(len(self))[:count])
        labels = self.task.labels(self.labels[kept])
        return Split(tuple(self.rows[i] for i in kept), labels, _Subset(self.inputs, kept), self.task)

    def fingerprint(self) -> str:
        """SHA-256 over rows, labels and lengths; two splits with the same fingerprint train a model alike."""
        digest = hashlib.sha256(_label_bytes(self.labels) + self.inputs.lengths.astype("<i8").tobytes())
        for row in self.rows:
            digest.update(row_key(row))
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write rows, labels and the task to one Parquet file."""
        import pandas

        labels: list[object] = list(self.labels)
        if self.labels.ndim == 2:
            # Tags at the end that pad a row need not be written; one between two words says that it has none.
            labels = [tags[: np.flatnonzero(tags != IGNORED).max(initial=-1) + 1] for tags in self.labels]
        table = pandas.DataFrame({_column(self.rows): list(self.rows), "label": labels})
        table.attrs["task"] = self.task.to_json()
        table.to_parquet(path, index=False)

    @classmethod
    def load(cls, path: Path, preprocessor: Preprocessor, *, max_tokens: int = 128) -> "Split":
        """Read a file that `save` wrote and preprocess its rows again.

        Args:
            path: the Parquet file.
            preprocessor: the preprocessor of the network.
            max_tokens: texts are truncated to this many tokens.

        Raises:
            UserError: the file cannot be read, or holds rows of another kind.
        """
        import pandas

        try:
            table = pandas.read_parquet(path)
            task = task_of(table.attrs.get("task"))
            rows = [tuple(row) for row in table["words"]] if "words" in table else list(table[preprocessor.kind])
            labels = task.labels(list(table["label"]))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"{path} must be a split saved by this version of nas, it cannot be read: {error}"
            ) from error
        if not all(_reads(preprocessor.kind, row) for row in rows):
            raise UserError(f"{path} must hold {preprocessor.kind} rows only")
        return make_split(rows, labels, preprocessor, max_tokens, task)


def _column(rows: Sequence[RawRow]) -> str:
    if rows and isinstance(rows[0], tuple):
        return "words"
    return "image" if rows and isinstance(rows[0], bytes) else "text"


def _reads(kind: InputKind, row: object) -> bool:
    if kind == "image":
        return isinstance(row, bytes)
    return isinstance(row, str) or (isinstance(row, tuple) and all(isinstance(word, str) for word in row))


@dataclass(frozen=True)
class _Subset:
    inputs: PreparedRows
    kept: IntArray

    @property
    def lengths(self) -> IntArray:
        return self.inputs.lengths[self.kept]

    def batch(self, indices: npt.ArrayLike) -> dict[str, Tensor]:
        return self.inputs.batch(self.kept[np.asarray(indices)])

    def first_words(self, indices: npt.ArrayLike) -> IntArray:
        return first_words(self.inputs, self.kept[np.asarray(indices)])


def make_split(
    rows: Sequence[RawRow],
    labels: Sequence[Any] | npt.NDArray[Any],
    preprocessor: Preprocessor,
    max_tokens: int = 128,
    task: Task = CLASSIFICATION,
) -> Split:
    """Make a split of raw rows and labels; all texts are tokenised here, once.

    Args:
        rows: n texts, encoded images or tuples of words.
        labels: one label per row, converted by `task.labels`.
        preprocessor: the preprocessor of the network.
        max_tokens: texts are truncated to this many tokens.
        task: the kind of labels.
    """
    return Split(tuple(rows), task.labels(labels), preprocessor.prepare(rows, max_tokens), task)


@dataclass(frozen=True)
class Data:
    """The three splits of a run. Validation rows guide the search; test rows are scored for the final figures only.

    Args:
        kind: texts or images.
        classes: names of the network's outputs in their order: classes, tags, or the name of a regression's number.
        train, validation, test: splits of the same task that share no row.
        fingerprint: SHA-256 over classes, rows, labels and splits, but not over the preprocessing.
        left_out: number of rows removed because an identical row is in the test split (for training rows, also in the
            validation split).
        max_tokens: length in tokens to which texts are truncated.
        undecodable: number of images dropped because they cannot be decoded.
        truncated: number of texts that were truncated.
    """

    kind: InputKind
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    fingerprint: str
    left_out: int = 0
    max_tokens: int = 128
    undecodable: int = 0
    truncated: int = 0

    @property
    def task(self) -> Task:
        """The task of the three splits."""
        return self.train.task

    def save(self, folder: Path) -> None:
        """Write a Parquet file per split and `data.json` into `folder`, which is created where it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in PARTS:
            getattr(self, name).save(folder / f"{name}.parquet")
        write_json_atomic(
            folder / "data.json",
            {
                "version": _VERSION,
                "kind": self.kind,
                "classes": list(self.classes),
                "fingerprint": self.fingerprint,
                "left_out": self.left_out,
                "max_tokens": self.max_tokens,
                "undecodable": self.undecodable,
                "truncated": self.truncated,
            },
        )

    @classmethod
    def load(cls, folder: Path, preprocessor: Preprocessor) -> "Data":
        """Read a folder that `save` wrote and preprocess its rows again.

        Raises:
            UserError: a file is missing or damaged, the rows do not match the fingerprint, or the preprocessor reads
                another kind of rows.
        """
        path = folder / "data.json"
        try:
            values = read_json(path)
            version = values["version"]
            if version != _VERSION:
                raise UserError(f"{path} is of version {str(version)[:20]}, this nas reads {_VERSION}; start a new run")
            kind, fingerprint = values["kind"], str(values["fingerprint"])
            classes = tuple(str(name) for name in values["classes"])
            left_out, max_tokens = int(values["left_out"]), int(values["max_tokens"])
            undecodable, truncated = int(values["undecodable"]), int(values["truncated"])
            if not 1 <= max_tokens <= _MOST_TOKENS:
                raise ValueError(f"max_tokens must be from 1 to {_MOST_TOKENS}, got {max_tokens}")
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} must describe the data of the run, but it cannot be read: {error}") from error
        if kind != preprocessor.kind:
            raise UserError(f"the data in {folder} must be {preprocessor.kind} rows, got {str(kind)[:20]}")
        train, validation, test = (
            Split.load(folder / f"{name}.parquet", preprocessor, max_tokens=max_tokens) for name in PARTS
        )
        parts = {"train": train, "validation": validation, "test": test}
        found = fingerprint_of(classes, {name: (part.rows, part.labels) for name, part in parts.items()})
        if found != fingerprint or len({part.task for part in parts.values()}) > 1:
            raise UserError(f"the data in {folder} is damaged: its rows are not those that were saved; start a new run")
        return cls(
            preprocessor.kind,
            classes,
            train,
            validation,
            test,
            fingerprint=fingerprint,
            left_out=left_out,
            max_tokens=max_tokens,
            undecodable=undecodable,
            truncated=truncated,
        )


def fingerprint_of(classes: Sequence[str], parts: Mapping[str, tuple[Sequence[RawRow], Labels]]) -> str:
    """SHA-256 over the classes and, split by split, all rows and labels."""
    digest = hashlib.sha256(json.dumps(list(classes)).encode())
    for name in PARTS:
        rows, labels = parts[name]
        digest.update(f"{name} {len(rows)}".encode())
        digest.update(_label_bytes(labels))
        for row in rows:
            content = _content(row)
            # With each length in the digest, rows cannot be divided differently and still give the same fingerprint.
            digest.update(len(content).to_bytes(8, "little"))
            digest.update(content)
    return digest.hexdigest()


def _label_bytes(labels: Labels) -> bytes:
    # Always little-endian, so that a run folder can be moved between machines.
    return labels.astype(labels.dtype.newbyteorder("<")).tobytes()


def _content(row: RawRow) -> bytes:
    if isinstance(row, tuple):
        return json.dumps(row).encode()
    return row.encode(errors="surrogatepass") if isinstance(row, str) else row


def row_key(row: RawRow) -> bytes:
    """Key that is equal for rows that count as identical: the same bytes, or texts that differ in outer space only."""
    return hashlib.sha256(_content(row.strip() if isinstance(row, str) else row)).digest()


def stratified(
    rows: Sequence[RawRow], strata: IntArray | None, shares: Sequence[float], seed: int, classes: Sequence[str]
) -> list[IntArray]:
    """Divide rows into parts in which each class has about the same share; identical rows go to the same part.

    Args:
        rows: n rows.
        strata: class indices (n,), or None when rows have no classes.
        shares: relative sizes of the parts; each part gets at least one distinct row of each class.
        seed: decides which row goes to which part.
        classes: names of the classes, for the error message.

    Returns:
        Row indices of each part, ascending.

    Raises:
        UserError: a class, or the whole data without classes, has fewer distinct rows than there are parts.
    """
    # Groups of identical rows are divided instead of rows, so that a copy cannot leak into another part.
    labels = np.zeros(len(rows), dtype=np.int64) if strata is None else strata
    groups: dict[bytes, int] = {}
    group_of = np.array([groups.setdefault(row_key(row), len(groups)) for row in rows], dtype=np.int64)
    first = np.unique(group_of, return_index=True)[1]
    part_of = np.zeros(len(groups), dtype=np.int64)
    bounds = np.cumsum(shares)[:-1] / np.sum(shares)
    rng = generator(seed, "split")
    for label in np.unique(labels[first]):
        members = rng.permutation(np.flatnonzero(labels[first] == label))
        if len(members) < len(shares):
            who, found = ("the data", "it") if strata is None else ("every class", f"class {classes[label]}")
            raise UserError(
                f"{who} needs at least {len(shares)} different rows to be split into {len(shares)} parts, "
                f"{found} has {len(members)}"
            )
        cuts = np.round(bounds * len(members)).astype(np.int64)
        lowest = np.arange(1, len(shares))
        # Rounding can leave a small class without a row in a part: move the cuts so that each part gets at least one.
        cuts = np.clip(np.maximum.accumulate(np.maximum(cuts, lowest)), lowest, len(members) - lowest[::-1])
        part_of[members] = np.searchsorted(cuts, np.arange(len(members)), side="right")
    return [np.flatnonzero(part_of[group_of] == part) for part in range(len(shares))]
