"""CIFAR-10 networks and rows for the benchmarks, with the weights of two public checkpoints.

`ResNet` is `akamaster/pytorch_resnet_cifar10` and `VisionTransformer` is `smmk47/CIFAR10-Classification`; both were
rebuilt from the names of their tensors. They were trained on all 50,000 training images, so validation rows cannot come
from these; the 10,000 test rows are divided into validation and test rows instead.
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
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import pad, relu

from nas.data.split import InputKind, RawRow, Split, make_split, stratified
from search_spaces.arrays import IntArray

SPLIT_SEED = 0
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


NORMALISED = {
    "vit": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "resnet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class Normalise(nn.Module):
    """Normalises pixels from 0 to 1 with the mean and standard deviation that a network was trained with.

    It is part of the network, so that augmentation fills the edges of shifted images with black before normalising, as
    in the original training. The running statistics of the ResNet depend on it: with other edges it loses 3 points.
    """

    def __init__(self, model: str) -> None:
        super().__init__()
        for name, values in zip(("mean", "std"), NORMALISED[model], strict=True):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        normal: Tensor = (pixels - self.mean) / self.std
        return normal


class Shortcut(nn.Module):
    """Shortcut without parameters: subsamples pixels and pads channels with zeros (arXiv 1512.03385, option A)."""

    def __init__(self, added: int) -> None:
        super().__init__()
        self.added = added

    def forward(self, x: Tensor) -> Tensor:
        return pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added // 2, self.added // 2))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if stride == 1 else Shortcut(outputs - inputs)

    def forward(self, x: Tensor) -> Tensor:
        inner = relu(self.bn1(self.conv1(x)))
        return relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet for CIFAR with three stages of `blocks` blocks and 16, 32 and 64 channels (He et al., section 4.2)."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.normalise = Normalise("resnet")
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, 1)
        self.layer2 = _stage(16, 32, blocks, 2)
        self.layer3 = _stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, len(CLASSES))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (rows, 10) of pixels from 0 to 1, (rows, 3, 32, 32)."""
        x = relu(self.bn1(self.conv1(self.normalise(pixels))))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = Block(inputs, outputs, stride)
    return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))


class PatchEmbed(nn.Module):
    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return tokens


class VisionTransformer(nn.Module):
    """Vision transformer with 6 post-norm blocks over 64 patches and a class token."""

    def __init__(self, width: int = 128, depth: int = 6, heads: int = 8, inner: int = 256) -> None:
        super().__init__()
        self.normalise = Normalise("vit")
        self.patch_embed = PatchEmbed(width, 4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 65, width))
        block = nn.TransformerEncoderLayer(width, heads, inner, dropout=0.1, batch_first=True)
        self.transformer = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)
        self.mlp_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(CLASSES)))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (rows, 10) of pixels from 0 to 1, (rows, 3, 32, 32)."""
        patches = self.patch_embed(self.normalise(pixels))
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1) + self.pos_embed
        logits: Tensor = self.mlp_head(self.transformer(tokens)[:, 0])
        return logits


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
