"""CIFAR-10 networks and rows for the benchmarks, with the weights of two public checkpoints.

The networks of `cifar_networks.py` were trained on all 50,000 training images, so validation rows cannot come from
these; the 10,000 test rows are divided into validation and test rows instead.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas
import torch
from cifar_networks import CLASSES, ResNet, VisionTransformer
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from nas.data.split import InputKind, RawRow, Split, make_split, stratified
from search_spaces.arrays import IntArray

SPLIT_SEED = 0


@dataclass(frozen=True)
class Pixels:
    """All images, decoded once to uint8 (n, 3, 32, 32); batches are scaled to 0..1."""

    images: Tensor

    @property
    def lengths(self) -> IntArray:
        return np.ones(len(self.images), dtype=np.int64)

    def batch(self, indices: npt.ArrayLike) -> dict[str, Tensor]:
        return {"pixels": self.images[torch.as_tensor(np.asarray(indices))] / 255}


class SmallImages:
    """A `nas.data.split.Preprocessor` for images that all have the size of the network."""

    @property
    def kind(self) -> InputKind:
        return "image"

    def prepare(self, rows: Sequence[RawRow], max_tokens: int) -> Pixels:
        arrays = [np.asarray(Image.open(io.BytesIO(row))) for row in rows if isinstance(row, bytes)]
        return Pixels(torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous())

    def save(self, folder: Path) -> None:
        raise NotImplementedError("a benchmark keeps no preprocessing")


def network(data: Path, model: str, *, blocks: int = 3) -> nn.Module:
    """Load a trained network, "vit" or "resnet" (with 6 x `blocks` + 2 layers), in evaluation mode."""
    module = VisionTransformer() if model == "vit" else ResNet(blocks)
    file = "cifar10_vit" if model == "vit" else f"cifar10_resnet{6 * blocks + 2}"
    # Without the counters of batches, which the checkpoints lack; nothing else may be missing.
    found = module.load_state_dict(load_file(data / f"{file}.safetensors"), strict=False)
    if found.unexpected_keys or any(not name.endswith("num_batches_tracked") for name in found.missing_keys):
        raise ValueError(f"{file}.safetensors must fit the network: {found}")
    return module.eval()


def splits(data: Path) -> dict[str, Split]:
    """Read the training rows, and divide the test rows into stratified halves for validation and test."""
    return {name: make_split(*table, SmallImages()) for name, table in _tables(data).items()}


def _tables(data: Path) -> dict[str, tuple[list[bytes], IntArray]]:
    tables: Any = {name: pandas.read_parquet(data / f"cifar10_{name}.parquet") for name in ("train20k", "test")}
    found = {name: (list(t["image"]), t["label"].to_numpy().astype(np.int64)) for name, t in tables.items()}
    rows, labels = found["test"]
    halves = stratified(rows, labels, (0.5, 0.5), SPLIT_SEED, CLASSES)
    named = dict(zip(("validation", "test"), halves, strict=True))
    parts = {name: ([rows[i] for i in kept], labels[kept]) for name, kept in named.items()}
    return {"train": found["train20k"], **parts}
