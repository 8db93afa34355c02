"""A teacher's outputs for the training rows, cached on disk: rows that repeat run through it once.

Rows are kept in files of some hundred, each written under another name and renamed, so a pass that was killed goes on
with the files that are missing. Of texts only the tokens are kept, not the padding. Hidden states are rounded to
bfloat16: the error is a millionth of their variance.
"""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from hardware.files import replacing_file
from nas.console import Bar
from nas.data.split import Split
from nas.errors import UserError
from nas.files import read_json, write_json_atomic
from nas.learning.teachers.hidden_distance import positions
from nas.learning.teachers.outputs import OutputsOf, TeacherOutputs
from nas.learning.training import Batch
from search_spaces.arrays import IntArray
from search_spaces.supernets.hidden_states import BlockBoundary
from search_spaces.weights import load_tensors, save_tensors

_ROWS, _AT_ONCE = 256, 32
"""Rows of a file, and how many of them are run at once."""
_LARGEST = 1e12
"""Of the magnitude of an output."""
_IN_BATCH = "teacher."
_LENGTHS = "lengths"
_NAME = re.compile(r"(row|token):(logits|\d+\.\d+)")
Identity = Mapping[str, str]


def cached_bytes(outputs: TeacherOutputs, batch: Batch, rows: Split) -> int | None:
    """Bytes that the outputs for all rows will have; None where padding cannot be told from what is cached.

    Args:
        outputs: the teacher's for a batch.
        batch: the first and the last row.
        rows: all rows.
    """
    total, lengths = 0, rows.inputs.lengths
    mask = batch.get("attention_mask")
    if mask is not None and mask.sum(1).tolist() != lengths[[0, -1]].tolist():
        return None
    for tensor in _named(outputs).values():
        kept = positions(tensor, batch)
        if kept is None and tensor.ndim > 2 and int(lengths.min()) != int(lengths.max()):
            return None
        units = len(rows) if kept is None else int(lengths.sum())
        total += units * tensor.element_size() * tensor[0].numel() // (1 if kept is None else kept.shape[1])
    return total


class CachedOutputs:
    """The outputs of a teacher by row, in a folder.

    Args:
        folder: of the files; made where it is missing, and begun anew where it is of another teacher or of other rows.
        rows: the training rows.
        identity: of whatever decides the outputs.
    """

    def __init__(self, folder: Path, rows: Split, identity: Identity) -> None:
        self._folder, self._rows = folder, rows
        order = np.argsort(rows.inputs.lengths, kind="stable")
        self._files = [order[start : start + _ROWS] for start in range(0, len(order), _ROWS)]
        self._places = np.empty(len(order), dtype=np.int64)
        self._places[order] = np.arange(len(order))
        self._open: dict[int, _File] = {}
        if _read_identity(folder / "outputs.json") != dict(identity):
            shutil.rmtree(folder, ignore_errors=True)
            write_json_atomic(folder / "outputs.json", dict(identity))

    def fill(self, outputs_of: OutputsOf, share: tuple[int, int] = (0, 1)) -> None:
        """Run the teacher on the rows of the files that are missing.

        Args:
            outputs_of: gives the teacher's outputs for a batch on the CPU.
            share: (number of this process, number of processes), which divide the files among them.

        Raises:
            UserError: a file that was there is damaged; said now, because training on it would spoil the checkpoint.
        """
        # By number, because which files are missing changes while other processes are at work.
        own = range(share[0], len(self._files), share[1])
        missing = [number for number in own if not self._path(number).exists()]
        for number in own:
            if number not in missing:
                self._file(number).check_values()
        if missing:
            with Bar("Running the teacher", len(missing)) as bar:
                for done, number in enumerate(missing, 1):
                    _write(_outputs(outputs_of, self._rows, self._files[number]), self._path(number))
                    bar.update(done, "")

    def of(self, batch: Batch, indices: IntArray) -> dict[str, Tensor]:
        """The outputs of some rows under names of their own, padded like their inputs.

        Args:
            batch: the inputs of the rows.
            indices: the rows.

        Raises:
            UserError: a file is missing or damaged.
        """
        places = self._places[np.asarray(indices)]
        found: dict[str, list[Tensor]] = {}
        for place in places:
            for name, part in self._file(int(place) // _ROWS).row(int(place) % _ROWS):
                found.setdefault(name, []).append(part)
        mask = batch.get("attention_mask")
        return {f"{_IN_BATCH}{_plain(name)}": _together(name, parts, mask) for name, parts in found.items()}

    def _file(self, number: int) -> "_File":
        if number not in self._open:
            self._open[number] = _File(self._path(number), self._rows.inputs.lengths[self._files[number]])
        return self._open[number]

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.safetensors"


def unpacked(batch: Batch) -> tuple[dict[str, Tensor], TeacherOutputs | None]:
    """The inputs of a batch, and the teacher's outputs for it, if they are in it."""
    inputs = {name: tensor for name, tensor in batch.items() if not name.startswith(_IN_BATCH)}
    cached = {name.removeprefix(_IN_BATCH): tensor for name, tensor in batch.items() if name.startswith(_IN_BATCH)}
    if not cached:
        return inputs, None
    logits = cached.pop("logits")
    return inputs, TeacherOutputs(logits, {_boundary(name): tensor for name, tensor in cached.items()})


@dataclass(frozen=True)
class RowsWithOutputs:
    """Training rows whose inputs come with a teacher's outputs for them; they are `nas.data.rows.Rows`."""

    rows: Split
    outputs: CachedOutputs

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, batch_size: int, rng: np.random.Generator) -> Sequence[IntArray]:
        """See `Rows`."""
        return self.rows.batches(batch_size, rng)

    def batch(self, indices: IntArray) -> dict[str, Tensor]:
        """See `Rows`; `unpacked` takes the teacher's outputs out again."""
        inputs = self.rows.batch(indices)
        return inputs | self.outputs.of(inputs, indices)

    def targets(self, indices: IntArray) -> Tensor:
        """See `Rows`."""
        return self.rows.targets(indices)

    def augment(
        self, batch: Mapping[str, Tensor], rows: int, kept: IntArray, rng: np.random.Generator
    ) -> Mapping[str, Tensor]:
        """See `Rows`; refused, since the teacher's outputs are of the rows as they are."""
        raise UserError("rows with a teacher's outputs cannot be augmented")

    def fingerprint(self) -> str:
        """See `Rows`."""
        return self.rows.fingerprint()


class _File:
    """Some rows of the outputs; its tensors are mapped into memory, and read where they are used.

    Args:
        path: of the file.
        lengths: of the rows.

    Raises:
        UserError: the file is missing or damaged, or not of these rows.
    """

    def __init__(self, path: Path, lengths: IntArray) -> None:
        try:
            self._tensors = load_tensors(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path} cannot be read ({str(error)[:200]}); remove {path.parent}") from error
        found = self._tensors.pop(_LENGTHS, None)
        self._path, self._lengths = path, lengths
        self._ends: list[int] = np.concatenate([[0], np.cumsum(lengths)]).tolist()
        whole = found is not None and found.tolist() == lengths.tolist() and bool(self._tensors)
        if not whole or not all(self._is_sound(name, tensor) for name, tensor in self._tensors.items()):
            raise UserError(f"{path} is damaged or of other rows; remove {path.parent}")

    def _is_sound(self, name: str, tensor: Tensor) -> bool:
        units = self._ends[-1] if _by_token(name) else len(self._lengths)
        return _NAME.fullmatch(name) is not None and tensor.ndim > 0 and len(tensor) == units

    def check_values(self) -> None:
        """UserError where a value is no number, or so large that its square is none."""
        for tensor in self._tensors.values():
            if not (tensor.abs().amax() <= _LARGEST if tensor.numel() else True):
                raise UserError(
                    f"{self._path} must hold numbers of usual size, it has others; remove {self._path.parent}"
                )

    def row(self, index: int) -> Iterator[tuple[str, Tensor]]:
        """Name and values of each tensor for a row."""
        for name, tensor in self._tensors.items():
            start, end = (self._ends[index], self._ends[index + 1]) if _by_token(name) else (index, index + 1)
            yield name, tensor[start:end]


@torch.no_grad()
def _write(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors by name, as a whole or not at all; raises OSError where they cannot be written."""
    with replacing_file(path) as part:
        try:
            save_tensors(tensors, part)
        except SafetensorError as error:
            raise OSError(f"cannot write {path}: {error}") from error


def _outputs(outputs_of: OutputsOf, rows: Split, indices: IntArray) -> dict[str, Tensor]:
    """The tensors of a file: by name what is cached of each row, one after the other."""
    found: dict[str, list[Tensor]] = {_LENGTHS: [torch.from_numpy(rows.inputs.lengths[indices].astype(np.int64))]}
    for part in np.array_split(indices, -(-len(indices) // _AT_ONCE)):
        batch = rows.batch(part)
        for name, tensor in _named(outputs_of(batch)).items():
            kept, values = positions(tensor, batch), tensor.cpu()
            found.setdefault(f"{'row' if kept is None else 'token'}:{name}", []).append(
                values if kept is None else values[kept]
            )
    return {name: torch.cat(parts) for name, parts in found.items()}


def _named(outputs: TeacherOutputs) -> dict[str, Tensor]:
    """All tensors by name, in the precision in which they are cached."""
    states = {f"{stage}.{number}": state.bfloat16() for (stage, number), state in outputs.hidden.items()}
    return {"logits": outputs.logits.float(), **states}


def _boundary(name: str) -> BlockBoundary:
    stage, _, number = name.partition(".")
    return int(stage), int(number)


def _by_token(name: str) -> bool:
    return name.startswith("token:")


def _plain(name: str) -> str:
    return name.partition(":")[2]


def _together(name: str, parts: Sequence[Tensor], mask: Tensor | None) -> Tensor:
    """The values of some rows as one tensor, with zeros where the inputs are padded."""
    values = torch.cat(list(parts))
    if mask is None or not _by_token(name):
        return values
    padded = values.new_zeros(*mask.shape, *values.shape[1:])
    padded[mask.bool()] = values
    return padded


def _read_identity(path: Path) -> dict[str, str] | None:
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
