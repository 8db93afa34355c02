"""Preprocess raw rows for a model: tokenise texts and lists of words, decode and normalise images.

A preprocessor (`TextPreprocessor`, `ImagePreprocessor`, `PlainImages`) belongs to one network. Its `prepare` returns
the rows as `Tokens` or `Images`, from which a split makes padded batches.
"""

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

Channels = tuple[float, ...]
"""One number for each channel of an image: red, green and blue, or grey alone."""
MODES = {1: "L", 3: "RGB"}
"""How Pillow calls images of so many channels."""
MOST_PIXELS = 2**14
"""Along one side of the images that a network reads."""
_TEXT_INPUTS = ("input_ids", "attention_mask")
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Tokens:
    """Tokenised rows in one flat array: row i is `flat[offsets[i]:offsets[i + 1]]`.

    Args:
        flat: token ids of all rows, concatenated.
        offsets: start of each row in `flat`, followed by the total length, (n + 1,).
        pad: id of the padding token.
        words: for each token in `flat`, the index of the word that it begins, or -1 if it begins none. None when the
            rows are texts rather than lists of words.
        truncated: number of rows that were longer than the limit.
    """

    flat: npt.NDArray[np.int32]
    offsets: IntArray
    pad: int
    words: npt.NDArray[np.int32] | None = None
    truncated: int = 0

    @property
    def lengths(self) -> IntArray:
        """Number of tokens of each row (n,)."""
        return np.diff(self.offsets)

    def batch(self, indices: npt.ArrayLike) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` of the given rows, (rows, longest), int64."""
        ids = self._padded(self.flat, indices, self.pad)
        lengths = self.lengths[np.asarray(indices, dtype=np.int64)]
        mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def first_words(self, indices: npt.ArrayLike) -> IntArray:
        """For each token, the index of the word that it begins, or -1; shape (rows, longest).

        Raises:
            UserError: the rows are texts, not lists of words.
        """
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
    """Tokenises texts or lists of words with a tokenizer of `transformers`; padding is on the right.

    Args:
        tokenizer: made to give a network's inputs alone: many give token types, for which an ONNX file has no place.
    """

    tokenizer: Any

    def __post_init__(self) -> None:
        self.tokenizer.model_input_names = list(_TEXT_INPUTS)
        # What `save_pretrained` writes.
        self.tokenizer.init_kwargs["model_input_names"] = list(_TEXT_INPUTS)

    @property
    def kind(self) -> InputKind:
        """Always "text"."""
        return "text"

    def prepare(self, rows: Sequence[RawRow], max_tokens: int) -> Tokens:
        """Tokenise all rows.

        Args:
            rows: texts, or tuples of words.
            max_tokens: longest row in tokens, special tokens included; the limit of the model applies too.

        Raises:
            UserError: the tokenizer fails, or the rows are lists of words and it cannot map tokens to words.
        """
        limit = min(max_tokens, int(self.tokenizer.model_max_length))
        of_words = bool(rows) and isinstance(rows[0], tuple)
        if of_words and not self.tokenizer.is_fast:
            raise UserError(
                "token classification needs a tokenizer that knows its words (a tokenizer.json), it has none"
            )
        encoded = self._encoded(rows, limit)
        ids = [row or [self._only_token()] for row in encoded["input_ids"]] if rows else []
        # A row of exactly `limit` tokens may be complete or cut off. Tokenising only these again with room for one
        # more token tells which, without tokenising the whole data set twice.
        full = [row for row, tokens in zip(rows, ids, strict=True) if len(tokens) == limit]
        truncated = sum(len(tokens) > limit for tokens in self._encoded(full, limit + 1)["input_ids"]) if full else 0
        offsets = np.concatenate([[0], np.cumsum([len(tokens) for tokens in ids])]).astype(np.int64)
        words = _flat([_first_words(encoded.word_ids(i)) or [-1] for i in range(len(ids))]) if of_words else None
        return Tokens(_flat(ids), offsets, int(self.tokenizer.pad_token_id or 0), words, truncated)

    def _encoded(self, rows: Sequence[RawRow], limit: int) -> Any:
        if not rows:
            return {}
        given = [list(row) if isinstance(row, tuple) else row for row in rows]
        split = isinstance(rows[0], tuple)
        try:
            return self.tokenizer(given, is_split_into_words=split, truncation=True, max_length=limit, padding=False)
        except Exception as error:  # tokenizers raises Exception itself, as for a vocabulary without an unknown token
            raise UserError(
                f"the tokenizer in {self.tokenizer.name_or_path} must take these texts, it fails: {str(error)[:200]}; "
                "take another copy of its files"
            ) from error

    def _only_token(self) -> int:
        """The token of a text that has none, as an empty one with a tokenizer that marks no beginning and no end."""
        special = (getattr(self.tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad", "unk"))
        return next((int(token) for token in special if token is not None), 0)

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files into `folder`."""
        self.tokenizer.save_pretrained(folder)


def _first_words(words: Sequence[int | None]) -> list[int]:
    """Keep the index of a word at its first token; the other tokens and special tokens get -1."""
    before = itertools.chain([None], words)
    return [-1 if word is None or word == last else word for word, last in zip(words, before, strict=False)]


def _flat(rows: Sequence[Sequence[int]]) -> npt.NDArray[np.int32]:
    return np.fromiter(itertools.chain.from_iterable(rows), dtype=np.int32, count=sum(map(len, rows)))


@dataclass(frozen=True)
class Images:
    """Encoded images (PNG, JPEG, ...) that are decoded batch by batch, so that the pixels never fill the memory.

    Args:
        rows: the encoded images.
        transform: decoded images of Pillow -> pixels (rows, channels, height, width).
        name: keyword under which the module's forward takes the pixels.
        mode: of the decoded images, "RGB" or "L" for grey.
    """

    rows: tuple[bytes, ...]
    transform: Callable[[list[Any]], Tensor]
    name: str
    mode: str = "RGB"

    @property
    def lengths(self) -> IntArray:
        """1 for each image (n,): all of them cost the same."""
        return np.ones(len(self.rows), dtype=np.int64)

    def batch(self, indices: npt.ArrayLike) -> dict[str, Tensor]:
        """Pixels of the given rows, (rows, channels, height, width), float32.

        Raises:
            UserError: an image cannot be decoded.
        """
        return {self.name: self.transform([_decoded(self.rows[i], int(i), self.mode) for i in np.asarray(indices)])}


def undecodable(rows: Sequence[RawRow]) -> list[int]:
    """Indices of the rows that are images and cannot be decoded completely, ascending."""
    images = [(number, row) for number, row in enumerate(rows) if isinstance(row, bytes)]
    with ThreadPoolExecutor() as pool:
        good = list(pool.map(_decodes, [row for _, row in images]))
    return [number for (number, _), whole in zip(images, good, strict=True) if not whole]


def _decodes(row: bytes) -> bool:
    try:
        with _opened(row) as image:
            # `draft` makes the decoder scale a JPEG down while reading it. The whole file is still read, so a
            # truncated one is found, but most of the arithmetic is skipped.
            image.draft("RGB", (1, 1))
            _shown(image)
    except _unreadable():
        return False
    return True


def _opened(row: bytes) -> Any:
    from PIL import Image

    return Image.open(io.BytesIO(row))


def _unreadable() -> tuple[type[Exception], ...]:
    """Exceptions that Pillow raises for bytes that are not an image or only part of one."""
    from PIL import Image

    return (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


def _decoded(row: bytes, number: int, mode: str) -> Any:
    try:
        with _opened(row) as image:
            return _shown(image, mode)
    except _unreadable() as error:
        raise UserError(f"every image must be readable by Pillow, image {number + 1} is not: {error}") from error


def _shown(image: Any, mode: str = "RGB") -> Any:
    """The image in a mode, as a viewer shows it: turned as its EXIF data says, grey of 16 bits scaled by its range.

    Raises:
        ValueError: the range of its pixels is not known, so that they cannot be read faithfully.
        OSError, SyntaxError, EOFError: it is damaged.
    """
    from PIL import Image, ImageOps

    image.load()
    # Pillow gives the grey of a PGM file the range of 16 bits. Elsewhere this mode may have any range.
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PPM", "PNG"))
    if not sixteen and image.mode in ("I", "F", "LAB"):
        raise ValueError(f"the range of pixels of the mode {image.mode} is not known")
    turned = ImageOps.exif_transpose(image) if _orientation(image) > 1 else image
    if sixteen:
        # `convert` would clip at 255.
        turned = Image.fromarray(np.rint(np.asarray(turned, dtype=np.float32) / 257).clip(0, 255).astype(np.uint8))
    return turned.convert(mode)


def _orientation(image: Any) -> int:
    """The orientation in the EXIF data of an image, 1 (as it is) where these say none or are damaged."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        # Damaged data raise whatever their parser meets; viewers then show the image as it is.
        return 1


def _checked_images(rows: Sequence[RawRow]) -> tuple[bytes, ...]:
    """The rows that are images, after reading each header, so that a wrong file is found before the training."""
    images = tuple(row for row in rows if isinstance(row, bytes))
    for number, row in enumerate(images):
        try:
            _opened(row).close()
        except _unreadable() as error:
            raise UserError(f"every image must be readable by Pillow, image {number + 1} is not: {error}") from error
    return images


@dataclass(frozen=True)
class ImagePreprocessor:
    """Resizes and normalises images with the Pillow image processor of `transformers`.

    Args:
        processor: its `image_mean` has one number for each channel that the network reads; see `of`.
    """

    processor: Any

    @classmethod
    def of(cls, processor: Any, channels: int) -> "ImagePreprocessor":
        """Make the preprocessing for a network that reads so many channels, 1 or 3; changes the processor.

        Processors are often saved with three means whatever their network reads.
        """
        for name in ("image_mean", "image_std"):
            given = getattr(processor, name, None)
            values = np.ravel(0.5 if given is None else given).astype(float)
            if len(values) != channels or channels == 1:
                setattr(processor, name, [float(values.mean())] * channels)
        if channels == 1:
            processor.do_convert_rgb = False
        return cls(processor)

    @property
    def kind(self) -> InputKind:
        """Always "image"."""
        return "image"

    def prepare(self, rows: Sequence[RawRow], max_tokens: int) -> Images:
        """Check the header of each image; `max_tokens` has no effect. Raises UserError for an unreadable image."""
        mean = getattr(self.processor, "image_mean", None)
        channels = 3 if mean is None else len(np.ravel(mean))
        if channels not in MODES:
            raise UserError(f"the image processor must have three means, or one of grey, it has {channels}")
        return Images(_checked_images(rows), self._pixels, "pixel_values", MODES[channels])

    def _pixels(self, images: list[Any]) -> Tensor:
        pixels: Tensor = self.processor(images=images, return_tensors="pt")["pixel_values"]
        return pixels.float()

    def save(self, folder: Path) -> None:
        """Write `preprocessor_config.json`."""
        self.processor.save_pretrained(folder)


@dataclass(frozen=True)
class PlainImages:
    """Preprocessing of images for a network that is not from `transformers`: (pixels / 255 - mean) / std.

    Args:
        name: keyword under which the module's forward takes the pixels.
        size: (height, width) in pixels that images are resized to.
        mean: mean of red, green and blue, or of grey; with the defaults the pixels range from -1 to 1.
        std: standard deviation of as many, above 0.

    Raises:
        UserError: a size below 1, a `std` that is not positive, or a wrong number of values.
    """

    name: str
    size: tuple[int, int]
    mean: Channels = (0.5, 0.5, 0.5)
    std: Channels = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise UserError(f"the size of images must be two numbers of at least 1 (height, width), got {self.size}")
        if len(self.mean) not in MODES or len(self.std) != len(self.mean) or not min(self.std) > 0:
            raise UserError(
                "mean and std must be three numbers each, or one for grey images, std above 0, got "
                f"{self.mean} and {self.std}"
            )

    @property
    def kind(self) -> InputKind:
        """Always "image"."""
        return "image"

    def prepare(self, rows: Sequence[RawRow], max_tokens: int) -> Images:
        """Check the header of each image; `max_tokens` has no effect. Raises UserError for an unreadable image."""
        return Images(_checked_images(rows), self._pixels, self.name, MODES[len(self.mean)])

    def _pixels(self, images: list[Any]) -> Tensor:
        height, width = self.size
        sized = [image if image.size == (width, height) else image.resize((width, height)) for image in images]
        arrays = np.stack([np.asarray(image).reshape(height, width, -1) for image in sized])
        pixels = torch.from_numpy(arrays).permute(0, 3, 1, 2)
        mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (self.mean, self.std))
        return (pixels.float() / 255 - mean) / std

    def save(self, folder: Path) -> None:
        """Write `preprocessor_config.json` with the single key `plain_images`, which `load` recognises."""
        text = json.dumps({"plain_images": asdict(self)})
        (folder / "preprocessor_config.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "PlainImages | None":
        """Read what `save` wrote.

        Returns:
            The preprocessing, or None when the folder has none or that of a `transformers` model.

        Raises:
            UserError: the file is damaged.
        """
        path = folder / "preprocessor_config.json"
        if not path.is_file():
            return None
        try:
            values = read_json(path).get("plain_images")
            if values is None:
                return None
            height, width = (int(side) for side in values["size"])
            mean, std = (tuple(float(each) for each in values[name]) for name in ("mean", "std"))
            if not (1 <= height <= MOST_PIXELS and 1 <= width <= MOST_PIXELS and all(each > 0 for each in std)):
                raise ValueError(f"its sides must be from 1 to {MOST_PIXELS}, and its deviations above 0")
            if len(mean) != len(std) or len(mean) not in MODES:
                raise ValueError(f"it must have as many means as deviations, 1 or 3, has {len(mean)} and {len(std)}")
            return cls(str(values["name"]), (height, width), mean, std)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} must be the JSON of an image processor, but it cannot be read: {error}") from error
