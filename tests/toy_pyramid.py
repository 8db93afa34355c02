"""A trained conv net with two resolutions on images that are made on the spot: bars, discs and stripes in noise."""

import io
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu

from nas.data.pixels import PlainImages
from nas.data.split import Split, make_split

SIDE, CLASSES = 12, ("bar", "disc", "stripe")
FACTORY = "toy_pyramid:pyramid"


class Block(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.bn2(self.conv2(relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


class Pyramid(nn.Module):
    image_size = SIDE

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.wide = nn.Sequential(Block(8, 8, 1), Block(8, 8, 1))
        self.deep = nn.Sequential(Block(8, 12, 2), Block(12, 12, 1))
        self.head = nn.Linear(12, outputs)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.deep(self.wide(relu(self.norm(self.stem(pixels))))).mean((2, 3)))


def pyramid(outputs: int = len(CLASSES)) -> nn.Module:
    return Pyramid(outputs)


def pictures(count: int, seed: int = 0) -> tuple[list[bytes], list[int]]:
    """Encoded images and their classes."""
    rng = np.random.default_rng(seed)
    rows, labels = [], []
    y, x = np.mgrid[:SIDE, :SIDE]
    for number in range(count):
        label = number % len(CLASSES)
        pixels = rng.normal(110, 45, (SIDE, SIDE, 3))
        place = rng.integers(3, SIDE - 3, 2)
        shape = (x == place[0]) | (x == place[0] + 1), (y - place[0]) ** 2 + (x - place[1]) ** 2 < 9, y % 3 == 0
        pixels[shape[label]] += 60
        encoded = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(encoded, "PNG")
        rows.append(encoded.getvalue())
        labels.append(label)
    return rows, labels


def split(count: int = 96, seed: int = 0) -> Split:
    middle = (0.5, 0.5, 0.5)
    return make_split(*pictures(count, seed), PlainImages("pixels", (SIDE, SIDE), middle, middle))


@cache
def _weights() -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module, rows = pyramid(), split(240, 7)
        optimizer = torch.optim.SGD(module.parameters(), 0.05, 0.9)
        for epoch in range(5):
            for indices in rows.batches(32, np.random.default_rng(epoch)):
                optimizer.zero_grad()
                cross_entropy(module(**rows.batch(indices)), rows.targets(indices)).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def trained() -> nn.Module:
    """The network after a short training, in evaluation mode."""
    module = pyramid()
    module.load_state_dict(_weights())
    return module.eval()


def write_inputs(folder: Path, count: int = 240) -> None:
    """`pictures.parquet` and `pyramid.safetensors` in a folder."""
    import pandas

    rows, labels = pictures(count)
    table = pandas.DataFrame({"image": rows, "label": [CLASSES[label] for label in labels]})
    table.to_parquet(folder / "pictures.parquet")
    save_file({name: tensor.contiguous() for name, tensor in _weights().items()}, folder / "pyramid.safetensors")
