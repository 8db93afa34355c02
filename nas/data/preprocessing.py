"""From raw rows to what a model reads: tokens of texts or of words, pixels of images."""

import io
import itertools
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nas.data.split import InputKind, RawRow
from nas.errors import UserError
from nas.files import read_json
from search_spaces.arrays import IntArray

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Tokens:
    """Tokenised rows, one after the other: row i is `flat[offsets[i]:offsets[i + 1]]`.

    Args:
        flat: tokens of all rows.
        offsets: where each row begins, and the end (n + 1,).
        pad: the token behind the end of a row.
        words: of every token in `flat`, the number of the word that it begins, -1 for all others; None: rows are texts.
        truncated: how many rows were cut off.
    """

    flat: npt.NDArray[np.int32]
    offsets: IntArray
    pad: int
    words: npt.NDArray[np.int32] | None = None
    truncated: int = 0

    @property
    def lengths(self) -> IntArray:
        """Tokens of every row (n,)."""
        return np.diff(self.offsets)

    def batch(self, indices: npt.ArrayLike) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` (rows, longest), int64."""
        ids = self._padded(self.flat, indices, self.pad)
        lengths = self.lengths[np.asarray(indices, dtype=np.int64)]
        mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def first_words(self, indices: npt.ArrayLike) -> IntArray:
        """The number of the word whose first token this is, -1 elsewhere (rows, longest of them)."""
        if self.words is None:
            raise UserError("token classification needs rows of words, got texts that are not cut into words")
        return self._padded(self.words, indices, -1)

    def _padded(self, flat: npt.NDArray[np.int32], indices: npt.ArrayLike, pad: int) -> IntArray:
        rows = [flat[self.offsets[i] : self.offsets[i + 1]] for i in np.asarray(indices, dtype=np.int64)]
        padded = np.full((len(rows), max(map(len, rows), default=0)), pad, dtype=np.int64)
        for number, row in enumerate(rows):
            padded[number, : len(row)] = row
        return padded


@dataclass(frozen=True)
class TextPreprocessor:
    """Tokenises texts, or rows of words, with a tokenizer of `transformers`; the padding stands on the right."""

    tokenizer: Any

    @property
    def kind(self) -> InputKind:
        """Texts."""
        return "text"

    def prepare(self, rows: Sequence[RawRow], max_tokens: int) -> Tokens:
        """Tokenise every row once, cut off after `max_tokens` (special tokens included) or what the model takes."""
        limit = min(max_tokens, int(self.tokenizer.model_max_length))
        of_words = bool(rows) and isinstance(rows[0], tuple)
        if of_words and not self.tokenizer.is_fast:
            raise UserError(
                "token classification needs a tokenizer that knows its words (a tokenizer.json), it has none"
            )
        encoded = self._encoded(rows, limit)
        ids: list[list[int]] = encoded["input_ids"] if rows else []
        full = [row for row, tokens in zip(rows, ids, strict=True) if len(tokens) == limit]
        truncated = sum(len(tokens) > limit for tokens in self._encoded(full, limit + 1)["input_ids"]) if full else 0
        offsets = np.concatenate([[0], np.cumsum([len(tokens) for tokens in ids])]).astype(np.int64)
        words = _flat([_first_words(encoded.word_ids(i)) for i in range(len(ids))]) if of_words else None
        return Tokens(_flat(ids), offsets, int(self.tokenizer.pad_token_id or 0), words, truncated)

    def _encoded(self, rows: Sequence[RawRow], limit: int) -> Any:
        if not rows:
            return {}
        given = [list(row) if isinstance(row, tuple) else row for row in rows]
        split = isinstance(rows[0], tuple)
        return self.tokenizer(given, is_split_into_words=split, truncation=True, max_length=limit, padding=False)

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files."""
        self.tokenizer.save_pretrained(folder)


def _first_words(words: Sequence[int | None]) -> list[int]:
    """The number of a word at its first token, -1 at all others and where there is no word."""
    before = itertools.chain([None], words)
    return [-1 if word is None or word == last else word for word, last in zip(words, before, strict=False)]


def _flat(rows: Sequence[Sequence[int]]) -> npt.NDArray[np.int32]:
    return np.fromiter(itertools.chain.from_iterable(rows), dtype=np.int32, count=sum(map(len, rows)))


@dataclass(frozen=True)
class Images:
    """Encoded images, decoded batch by batch."""

    rows: tuple[bytes, ...]
    transform: Callable[[list[Any]], Tensor]
    name: str

    @property
    def lengths(self) -> IntArray:
        """All images cost the same (n,)."""
        return np.ones(len(self.rows), dtype=np.int64)

    def batch(self, indices: npt.ArrayLike) -> dict[str, Tensor]:
        """Pixels (rows, channels, height, width), float32; raises UserError for an image that cannot be decoded."""
        return {self.name: self.transform([_decoded(self.rows[i], int(i)) for i in np.asarray(indices)])}


def undecodable(rows: Sequence[RawRow]) -> list[int]:
    """The numbers of the images among `rows` that cannot be decoded to their end, ascending."""
    images = [(number, row) for number, row in enumerate(rows) if isinstance(row, bytes)]
    with ThreadPoolExecutor() as pool:
        good = list(pool.map(_decodes, [row for _, row in images]))
    return [number for (number, _), whole in zip(images, good, strict=True) if not whole]


def _decodes(row: bytes) -> bool:
    try:
        with _opened(row) as image:
            # A JPEG is read to its end all the same, but most of the arithmetic is left out.
            image.draft("RGB", (1, 1))
            image.load()
    except _unreadable():
        return False
    return True


def _opened(row: bytes) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(row))


def _unreadable() -> tuple[type[Exception], ...]:
    """What Pillow raises for bytes that are no image, or only a part of one."""
    from PIL import Image

    return (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


def _decoded(row: bytes, number: int) -> Any:
    try:
        with _opened(row) as image:
            return image.convert("RGB")
    except _unreadable() as error:
        raise UserError(f"every image must be readable by Pillow, image {number + 1} is not: {error}") from error


def _checked_images(rows: Sequence[RawRow]) -> tuple[bytes, ...]:
    """The rows, every header read, so that a wrong file is found before hours of training."""
    images = tuple(row for row in rows if isinstance(row, bytes))
    for number, row in enumerate(images):
        try:
            _opened(row).close()
        except _unreadable() as error:
            raise UserError(f"every image must be readable by Pillow, image {number + 1} is not: {error}") from error
    return images


@dataclass(frozen=True)
class ImagePreprocessor:
    """Resizes and normalises images with the Pillow image processor of `transformers`."""

    processor: Any

    @property
    def kind(self) -> InputKind:
        """Images."""
        return "image"

    def prepare(self, rows: Sequence[RawRow], max_tokens: int) -> Images:
        """Keep the encoded rows; pixels are made batch by batch."""
        return Images(_checked_images(rows), self._pixels, "pixel_values")

    def _pixels(self, images: list[Any]) -> Tensor:
        pixels: Tensor = self.processor(images=images, return_tensors="pt")["pixel_values"]
        return pixels.float()

    def save(self, folder: Path) -> None:
        """Write `preprocessor_config.json`."""
        self.processor.save_pretrained(folder)


@dataclass(frozen=True)
class PlainImages:
    """Images of one size, each colour scaled to 0..1, less `mean`, divided by `std`: for a module of the user's own.

    Args:
        name: the keyword of the module's forward.
        size: (height, width) that images are resized to.
        mean: of red, green and blue; with the defaults the pixels go from -1 to 1.
        std: of red, green and blue, above 0.
    """

    name: str
    size: tuple[int, int]
    mean: Channels = (0.5, 0.5, 0.5)
    std: Channels = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise UserError(f"the size of images must be two numbers of at least 1 (height, width), got {self.size}")
        if len(self.mean) != 3 or len(self.std) != 3 or not min(self.std) > 0:
            raise UserError(f"mean and std must be three numbers each, std above 0, got {self.mean} and {self.std}")

    @property
    def kind(self) -> InputKind:
        """Images."""
        return "image"

    def prepare(self, rows: Sequence[RawRow], max_tokens: int) -> Images:
        """Keep the encoded rows; pixels are made batch by batch."""
        return Images(_checked_images(rows), self._pixels, self.name)

    def _pixels(self, images: list[Any]) -> Tensor:
        height, width = self.size
        sized = [image if image.size == (width, height) else image.resize((width, height)) for image in images]
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in sized])).permute(0, 3, 1, 2)
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std

    def save(self, folder: Path) -> None:
        """Write `preprocessor_config.json`, marked as ours."""
        text = json.dumps({"plain_images": asdict(self)})
        (folder / "preprocessor_config.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "PlainImages | None":
        """What `save` wrote, None where the folder holds none; UserError where the file is damaged."""
        path = folder / "preprocessor_config.json"
        if not path.is_file():
            return None
        try:
            values = read_json(path).get("plain_images")
            if values is None:
                return None
            height, width = values["size"]
            means = (float(each) for each in values["mean"])
            stds = (float(each) for each in values["std"])
            return cls(str(values["name"]), (int(height), int(width)), _channels(*means), _channels(*stds))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} must be the JSON of an image processor, but it cannot be read: {error}") from error


def _channels(red: float, green: float, blue: float) -> Channels:
    return red, green, blue
