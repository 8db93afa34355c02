"""Small pictures as files, each of one shade of grey."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image


def picture(path: Path, shade: int = 0) -> Path:
    """A file of 4 x 4 pixels; folders above it are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (shade, shade, shade)).save(path)
    return path


def pictures(folder: Path, names: Sequence[str]) -> Path:
    """A folder with a picture for each name; their shades are their numbers."""
    for number, name in enumerate(names):
        picture(folder / name, number)
    return folder
