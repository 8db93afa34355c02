"""Pre-trained networks and their preprocessing from `transformers`, safetensors only; also the user's own module."""

import contextlib
import io
import itertools
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nas.errors import UserError
from nas.seeds import torch_seed
from nas.split import IntArray, Kind, Preprocessor, Row

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")


@dataclass(frozen=True)
class Tokens:
    """Tokenised texts, one after the other: row i is `flat[offsets[i]:offsets[i + 1]]`."""

    flat: npt.NDArray[np.int32]
    offsets: IntArray
    pad: int

    @property
    def lengths(self) -> IntArray:
        """Tokens of every row (n,)."""
        return np.diff(self.offsets)

    def batch(self, indices: npt.ArrayLike) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` (rows, longest), int64."""
        rows = [self.flat[self.offsets[i] : self.offsets[i + 1]] for i in np.asarray(indices)]
        width = max(len(row) for row in rows)
        ids = np.full((len(rows), width), self.pad, dtype=np.int64)
        mask = np.zeros((len(rows), width), dtype=np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


@dataclass(frozen=True)
class TextPreprocessor:
    """Tokenises texts with a tokenizer of `transformers`; the padding stands on the right."""

    tokenizer: Any

    @property
    def kind(self) -> Kind:
        """Texts."""
        return "text"

    def prepare(self, rows: Sequence[Row], max_tokens: int) -> Tokens:
        """Tokenise every row once, cut off after `max_tokens` (special tokens included)."""
        limit = min(max_tokens, int(self.tokenizer.model_max_length))
        encoded: list[list[int]] = []
        if rows:
            encoded = self.tokenizer(list(rows), truncation=True, max_length=limit, padding=False)["input_ids"]
        offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in encoded])]).astype(np.int64)
        flat = np.fromiter(itertools.chain.from_iterable(encoded), dtype=np.int32, count=int(offsets[-1]))
        return Tokens(flat, offsets, int(self.tokenizer.pad_token_id or 0))

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files."""
        self.tokenizer.save_pretrained(folder)


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


def _decoded(row: bytes, number: int) -> Any:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(row)) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"every image must be readable by Pillow, image {number + 1} is not: {error}") from error


def _checked_images(rows: Sequence[Row]) -> tuple[bytes, ...]:
    """The rows, every header read, so that a wrong file is found before hours of training."""
    from PIL import Image

    images = tuple(row for row in rows if isinstance(row, bytes))
    for number, row in enumerate(images):
        try:
            Image.open(io.BytesIO(row)).close()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(f"every image must be readable by Pillow, image {number + 1} is not: {error}") from error
    return images


@dataclass(frozen=True)
class ImagePreprocessor:
    """Resizes and normalises images with the Pillow image processor of `transformers`."""

    processor: Any

    @property
    def kind(self) -> Kind:
        """Images."""
        return "image"

    def prepare(self, rows: Sequence[Row], max_tokens: int) -> Images:
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
    """Images as they are, scaled to -1..1: for a module of the user's own.

    Args:
        name: the keyword of the module's forward.
        size: (height, width) that images are resized to.
    """

    name: str
    size: tuple[int, int]

    @property
    def kind(self) -> Kind:
        """Images."""
        return "image"

    def prepare(self, rows: Sequence[Row], max_tokens: int) -> Images:
        """Keep the encoded rows; pixels are made batch by batch."""
        return Images(_checked_images(rows), self._pixels, self.name)

    def _pixels(self, images: list[Any]) -> Tensor:
        height, width = self.size
        sized = [image if image.size == (width, height) else image.resize((width, height)) for image in images]
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in sized])).permute(0, 3, 1, 2)
        return pixels.float() / 127.5 - 1

    def save(self, folder: Path) -> None:
        """Write `preprocessor_config.json`, marked as ours."""
        text = json.dumps({"plain_images": {"name": self.name, "size": list(self.size)}})
        (folder / "preprocessor_config.json").write_text(text + "\n", encoding="utf-8")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, load reports and retry lines of `transformers` and the hub's client; settings are put back."""
    from transformers.utils import logging as settings

    logs = [logging.getLogger(name) for name in ("transformers", "huggingface_hub")]
    levels, bars = [log.level for log in logs], settings.is_progress_bar_enabled()
    settings.disable_progress_bar()
    for log in logs:
        log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
        if bars:
            settings.enable_progress_bar()


def load_pretrained(
    name_or_folder: str | Path, classes: Sequence[str], kind: Kind, *, seed: int = 0
) -> tuple[nn.Module, Preprocessor]:
    """A pre-trained network with a classification head for `classes`, and its preprocessing.

    A head that does not fit is made new, from `seed`; every other weight must come from the checkpoint. Weights are
    float32. The module is in eval mode.

    Raises:
        UserError: no such model, no safetensors, code of its own needed, or weights that do not fit the architecture.
    """
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

    name = _checked(name_or_folder)
    auto = AutoModelForSequenceClassification if kind == "text" else AutoModelForImageClassification
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, "head"))
        module, report = _from_hub(
            lambda: auto.from_pretrained(
                name,
                num_labels=len(classes),
                id2label=dict(enumerate(classes)),
                label2id={label: index for index, label in enumerate(classes)},
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            ),
            name,
        )
    _refuse_new_weights(module, report, name)
    preprocessor = load_preprocessor(name, kind)
    module.eval()
    return module, preprocessor


def _refuse_new_weights(module: nn.Module, report: Mapping[str, Any], name: str) -> None:
    """Only the head (and the pooler under it) may be new: `transformers` re-initialises anything that does not fit."""
    prefix = f"{getattr(module, 'base_model_prefix', '')}."
    mismatched = [item[0] if isinstance(item, tuple) else item for item in report["mismatched_keys"]]
    new = [key for key in (*report["missing_keys"], *mismatched) if key.startswith(prefix) and "pooler" not in key]
    if new:
        raise UserError(
            f"the weights of {name} must fit its config.json, {len(new)} are missing or of another shape, "
            f"among them {sorted(new)[0]}"
        )


def load_preprocessor(name_or_folder: str | Path, kind: Kind) -> Preprocessor:
    """The tokenizer or image processor of a folder or hub name; raises UserError when there is none."""
    from transformers import AutoImageProcessor, AutoTokenizer

    name = _checked(name_or_folder, weights=False)
    plain = _plain_images(Path(name))
    if plain is not None:
        return plain
    with quiet():
        if kind == "image":
            make = AutoImageProcessor.from_pretrained
            return ImagePreprocessor(_from_hub(lambda: make(name, backend="pil", trust_remote_code=False), name))
        tokenizer = _from_hub(lambda: AutoTokenizer.from_pretrained(name, trust_remote_code=False), name)
    # Without its files, transformers makes an empty tokenizer that knows no words, and says nothing.
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        raise UserError(f"{name} must hold the files of a tokenizer (tokenizer.json or a vocabulary), it has none")
    tokenizer.padding_side = "right"
    return TextPreprocessor(tokenizer)


def save_preprocessor(preprocessor: Preprocessor, folder: Path) -> None:
    """Write what `load_preprocessor` reads into an existing folder."""
    preprocessor.save(folder)


def _plain_images(folder: Path) -> PlainImages | None:
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8")).get("plain_images")
        return values and PlainImages(str(values["name"]), (int(values["size"][0]), int(values["size"][1])))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{path} must be the JSON of an image processor, but it cannot be read: {error}") from error


def _checked(name_or_folder: str | Path, *, weights: bool = True) -> str:
    """The name for `transformers`; raises UserError for a folder that cannot hold a model."""
    folder = Path(name_or_folder).expanduser()
    if folder.is_file():
        raise UserError(f"the model must be a folder or a hub name, {folder} is a file")
    if not folder.is_dir():
        if isinstance(name_or_folder, Path) or str(name_or_folder)[:1] in "./~" or len(folder.parts) > 2:
            raise UserError(f"the model must be a folder or a hub name, there is no folder {folder}")
        return str(name_or_folder)
    if not weights:
        return str(folder)
    if not (folder / "config.json").is_file():
        raise UserError(f"the model folder {folder} must hold a config.json, it has none")
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(item.name for item in folder.iterdir() if item.suffix in _PICKLES)
        found = (
            f"it holds {pickled[0]}, which may run code when read: convert it first"
            if pickled
            else "it holds no weights"
        )
        raise UserError(f"the model folder {folder} must hold its weights as safetensors, {found}")
    return str(folder)


def _from_hub(load: Callable[[], Any], name: str) -> Any:
    """The result of `load`; what `transformers` raises for a wrong name, file or architecture becomes one sentence."""
    try:
        return load()
    except ImportError as error:
        raise UserError(f"{name} needs a package that is not installed: {_first_line(error)}") from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError) as error:
        if "couldn't connect" in str(error) or "is not a local folder" in str(error):
            raise UserError(f"there is no folder {name}, and no such model can be reached on the hub") from error
        raise UserError(f"{name} cannot be loaded with transformers: {_first_line(error)}") from error
    except Exception as error:
        # safetensors and tokenizers raise classes of their own, directly under Exception.
        raise UserError(f"{name} is damaged or not what its name says: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def example_inputs(
    module: nn.Module, kind: Kind, preprocessor: Preprocessor, tokens: int = 128, batch: int = 2
) -> dict[str, Tensor]:
    """Keyword inputs of the module without padding, always the same: random tokens, or noise as an image.

    Args:
        module: its config bounds the number of tokens and of words.
        kind: texts or images.
        preprocessor: that of the module.
        tokens: of every text.
        batch: rows.
    """
    rng = np.random.default_rng(0)
    if kind == "image":
        from PIL import Image

        pixels = rng.integers(0, 256, size=(batch, 64, 64, 3), dtype=np.uint8)
        rows = []
        for image in pixels:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            rows.append(buffer.getvalue())
        return preprocessor.prepare(rows, tokens).batch(range(batch))
    config = getattr(module, "config", None)
    width = min(tokens, most_tokens(module) or tokens)
    words = int(getattr(config, "vocab_size", 0) or len(getattr(preprocessor, "tokenizer", ())))
    ids = torch.from_numpy(rng.integers(min(1000, words // 2), words, size=(batch, width)))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def most_tokens(module: nn.Module) -> int | None:
    """How many tokens a transformers model has positions for, None where its configuration does not say.

    Relatives of RoBERTa count positions from behind the padding index, so that the first ones are never used.
    """
    positions = getattr(getattr(module, "config", None), "max_position_embeddings", None)
    if not isinstance(positions, int):
        return None
    tables = [part for part in module.modules() if isinstance(part, nn.Embedding) and part.num_embeddings == positions]
    return positions - max((part.padding_idx + 1 for part in tables if part.padding_idx is not None), default=0)
