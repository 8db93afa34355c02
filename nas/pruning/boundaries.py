"""The original network's features at the boundaries of its sub-networks, computed once and kept on disk.

A pruned sub-network is fed what the original feeds it, and is to give what the original gives (cross-network-constraint
training: EMO-DIR, arXiv 2303.16212v2, equation 9). So one forward of the original over the
rows serves every candidate of every sub-network. The features are memory-mapped files: the system keeps in memory what
fits, and the rest stays on disk.

Differs: the rows are not augmented, because features of augmented images cannot be kept.
"""

import hashlib
import itertools
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nas.data.split import Split
from nas.errors import UserError
from nas.files import read_json, replacing_folder, write_json_atomic
from nas.networks.modes import keeping_modes
from search_spaces.arrays import IntArray
from search_spaces.pruning import Partition

INPUT, OUTPUT = "features", "wanted"
"""Names of a row's inputs: what the sub-network reads, and what the original gives in its place."""
_BATCH = 128


@dataclass(frozen=True)
class FeatureRows:
    """Rows for one sub-network: the original's features where it begins and where it ends, and the labels.

    A plain object that workers receive as paths; the files are opened where they are read.

    Args:
        before: file of the features that the sub-network reads (n, C, H, W).
        after: file of the features that the original gives in its place.
        labels: class indices (n,).
        kept: which rows of the files are these rows (n,).
    """

    before: Path
    after: Path
    labels: IntArray
    kept: IntArray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, count: int, rng: np.random.Generator) -> "FeatureRows":
        """Draw at most `count` rows without replacement."""
        drawn = np.sort(rng.permutation(len(self))[:count])
        return FeatureRows(self.before, self.after, self.labels[drawn], self.kept[drawn])

    def batch(self, indices: npt.ArrayLike) -> dict[str, Tensor]:
        """The features before and after of the given rows, float32."""
        rows = self.kept[np.asarray(indices)]
        return {INPUT: _read(self._before, rows), OUTPUT: _read(self._after, rows)}

    def targets(self, indices: npt.ArrayLike) -> Tensor:
        """Class indices of the given rows, int64."""
        return torch.from_numpy(self.labels[np.asarray(indices)])

    def batches(self, batch_size: int, rng: np.random.Generator | None = None) -> list[IntArray]:
        """Divide all rows into batches of nearly equal size; shuffled if there is a generator."""
        order = np.arange(len(self)) if rng is None else rng.permutation(len(self))
        return np.array_split(order, -(-len(self) // batch_size))

    def fingerprint(self) -> str:
        """SHA-256 over the labels and which rows they are; the features follow from the original and its rows."""
        return hashlib.sha256(self.labels.astype("<i8").tobytes() + self.kept.astype("<i8").tobytes()).hexdigest()

    def augment(
        self, batch: Mapping[str, Tensor], rows: int, kept: IntArray, rng: np.random.Generator
    ) -> Mapping[str, Tensor]:
        """Features cannot be augmented: raises UserError."""
        raise UserError("features that were computed before cannot be augmented; leave augment out")

    @cached_property
    def _before(self) -> npt.NDArray[np.float32]:
        return _opened(self.before)

    @cached_property
    def _after(self) -> npt.NDArray[np.float32]:
        return _opened(self.after)

    def __getstate__(self) -> dict[str, object]:
        """Without the open files: pickled, they would be copied as a whole."""
        return {name: value for name, value in self.__dict__.items() if not name.startswith("_")}


def _opened(path: Path) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    return found


def _read(features: npt.NDArray[np.float32], rows: IntArray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(features[rows]))


def cached_features(partition: Partition, split: Split, folder: Path, network: str) -> list[FeatureRows]:
    """The rows of every sub-network, from one forward of the original over a split; kept in `folder`.

    Args:
        partition: of the original, which is in evaluation mode.
        split: classified images.
        folder: where the features are, or will be; a kill leaves it as a whole or not at all.
        network: fingerprint of the original's weights.

    Returns:
        One `FeatureRows` a sub-network, in their order.
    """
    made_of = {"rows": split.fingerprint(), "network": network}
    labels = np.asarray(split.labels, dtype=np.int64)
    if _kept(folder / "features.json") != made_of:
        with replacing_folder(folder) as part:
            _compute(partition, split, part)
            write_json_atomic(part / "features.json", made_of)
    files = [folder / f"{number}.npy" for number in range(len(partition.subnetworks) + 1)]
    kept = np.arange(len(labels))
    return [FeatureRows(before, after, labels, kept) for before, after in itertools.pairwise(files)]


def _kept(path: Path) -> object:
    """What the features in a folder are of; None where that cannot be read, so that they are computed anew."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


@torch.no_grad()
def around(partition: Partition, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """What each sub-network reads, in their order, and what the last one gives."""
    return (*inputs.values(), *partition.boundaries(inputs)[:-1])


@torch.no_grad()
def _compute(partition: Partition, split: Split, folder: Path) -> None:
    files: list[npt.NDArray[np.float32]] = []
    device = next(partition.model.parameters()).device
    with keeping_modes(partition.model):
        partition.model.eval()
        for rows in np.array_split(np.arange(len(split)), -(-len(split) // _BATCH)):
            inputs = {name: tensor.to(device) for name, tensor in split.batch(rows).items()}
            features = around(partition, inputs)
            if not files:
                shapes = [(len(split), *each.shape[1:]) for each in features]
                _check_room(folder, sum(4 * math.prod(shape) for shape in shapes))
                files = [_new(folder / f"{number}.npy", shape) for number, shape in enumerate(shapes)]
            for file, each in zip(files, features, strict=True):
                file[rows] = each.float().cpu().numpy()
    for file in files:
        file.flush()  # type: ignore[attr-defined]


def _check_room(folder: Path, needed: int) -> None:
    """UserError where the disk is too full: a mapped file that cannot be written ends the process without a word."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"the features of the rows need {needed / 2**30:.1f} GiB in {folder.parent}, where {free / 2**30:.1f} GiB "
            "are free; use fewer rows (--detector-rows)"
        )


def _new(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
