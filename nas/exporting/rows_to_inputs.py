"""How rows become inputs without this project: sentences and Python lines for a card."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hardware.inputs import split
from nas.data.pixels import MODES, ImagePreprocessor, PlainImages
from nas.data.tasks import Task, TokenClassification
from nas.data.tokens import TextPreprocessor
from search_spaces.inputs import Inputs, deciding_end, end_texts

# Tokenizers that know no longest text name a number beyond all memory.
_NO_LIMIT = 2**20
_TEXTS = '["A sentence.", "Another one, somewhat longer."]'
_WORDS = '[["A", "sentence", "."], ["Another", "one", ",", "somewhat", "longer", "."]]'
_NAMES = {"L": "grey", "RGB": "colour (RGB)"}


@dataclass(frozen=True)
class Reading:
    """How an example of rows becomes inputs.

    Args:
        lines: Python that makes `inputs`, arrays by name, where `folder` is the path of the exported folder.
        needs: packages that the lines import.
        said: the same as a sentence for people; empty where the lines make up arrays.
    """

    lines: str
    needs: tuple[str, ...] = ()
    said: str = ""


def made_up(network: nn.Module, inputs: Inputs) -> Reading:
    """Arrays in the shapes of an example, by the names that the network's forward has for them.

    They are of ones, but texts end with the token of the end where the network decides by it.
    """
    args, kwargs = split(inputs)
    named = {**dict(zip(_positions(network, len(args)), args, strict=True)), **kwargs}
    config = getattr(network, "config", None)
    arrays = [f"    {_quoted(name)}: {_array(name, value, config)}," for name, value in named.items()]
    return Reading("\n".join(["import numpy", "", "inputs = {", *arrays, "}"]) + "\n", ("numpy",))


def _positions(network: nn.Module, count: int) -> list[str]:
    """The names of the first arguments; of a list of any number as `torch.export` numbers its members."""
    parameters = list(inspect.signature(network.forward).parameters.values())
    rest = next((each.name for each in parameters if each.kind == inspect.Parameter.VAR_POSITIONAL), "args")
    named = [each.name for each in parameters if each.kind == inspect.Parameter.POSITIONAL_OR_KEYWORD][:count]
    return named + [f"{rest}_{number}" for number in range(count - len(named))]


def _array(name: str, value: Tensor, config: Any) -> str:
    kind = f"numpy.{str(value.dtype).removeprefix('torch.')}"
    if name != "input_ids" or deciding_end(config) is None:
        return f"numpy.ones({tuple(value.shape)}, dtype={kind})"
    rows, tokens = value.shape
    other, end = end_texts(torch.ones(1, 2, dtype=torch.int64), config)[0].tolist()
    return f"numpy.array([[{other}] * {tokens - 1} + [{end}]] * {rows}, dtype={kind})"


@singledispatch
def reading(preprocessor: object, max_tokens: int | None = None, task: Task | None = None) -> Reading | None:
    """How a preprocessor reads rows, in lines that need its files in the exported folder; None for an unknown one.

    Args:
        preprocessor: of the network.
        max_tokens: texts are cut there, or at the longest that the tokenizer takes; None: there alone.
        task: what the rows are labelled for; None: rows are whole texts.
    """
    return None


@reading.register
def _(preprocessor: TextPreprocessor, max_tokens: int | None = None, task: Task | None = None) -> Reading:
    most = min(max_tokens or _NO_LIMIT, int(preprocessor.tokenizer.model_max_length))
    words = isinstance(task, TokenClassification)
    cut = f"truncation=True, max_length={most}, " if most < _NO_LIMIT else ""
    given = "is_split_into_words=True, " if words else ""
    lines = (
        "from transformers import AutoTokenizer\n\n"
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
        f"texts = {_WORDS if words else _TEXTS}\n"
        f'inputs = dict(tokenizer(texts, {given}padding=True, {cut}return_tensors="np"))\n'
    )
    said = f"{'Words' if words else 'Texts'} become tokens by the tokenizer in this folder"
    end = f", and a text is cut off after {most:,} tokens." if cut else "."
    return Reading(lines, ("transformers",), said + end)


@reading.register
def _(preprocessor: ImagePreprocessor, max_tokens: int | None = None, task: Task | None = None) -> Reading:
    values = preprocessor.processor.to_dict()
    mode = MODES[len(np.ravel(values.get("image_mean") or (0.5,) * 3))]
    lines = (
        "from PIL import Image, ImageOps\n"
        "from transformers import AutoImageProcessor\n\n"
        'processor = AutoImageProcessor.from_pretrained(folder, backend="pil")\n'
        f"{_images(mode)}"
        'inputs = {"pixel_values": processor(images=images, return_tensors="np")["pixel_values"]}\n'
    )
    steps = ", ".join([*_resized(values), *_normalised(values)])
    said = f"Images in {_NAMES[mode]} are {steps}; the image processor in this folder knows these numbers."
    return Reading(lines, ("transformers", "Pillow"), said)


@reading.register
def _(preprocessor: PlainImages, max_tokens: int | None = None, task: Task | None = None) -> Reading:
    (height, width), mode = preprocessor.size, MODES[len(preprocessor.mean)]
    mean, std = list(preprocessor.mean), list(preprocessor.std)
    lines = (
        "import numpy\nfrom PIL import Image, ImageOps\n\n"
        f"{_images(mode)}"
        f"pixels = numpy.stack([numpy.asarray(image.resize(({width}, {height}))) for image in images])\n"
        f'pixels = pixels.reshape(len(images), {height}, {width}, {len(mean)}).astype("float32")\n'
        f'mean, std = numpy.array([{mean}, {std}], dtype="float32")\n'
        f"inputs = {{{_quoted(preprocessor.name)}: numpy.ascontiguousarray("
        "((pixels / 255 - mean) / std).transpose(0, 3, 1, 2))}\n"
    )
    size = {"size": {"height": height, "width": width}}
    steps = [*_resized(size), *_normalised({"image_mean": mean, "image_std": std})]
    return Reading(lines, ("numpy", "Pillow"), f"Images in {_NAMES[mode]} are {', '.join(steps)}.")


def _images(mode: str) -> str:
    return (
        f'images = [Image.new("{mode}", (64, 64))]  # of your own: Image.open("picture.jpg")\n'
        f'images = [ImageOps.exif_transpose(image).convert("{mode}") for image in images]\n'
    )


def _resized(values: Mapping[str, Any]) -> list[str]:
    """What an image processor does to the size of images, as far as its settings say."""
    said = ["turned upright, as their EXIF data say"]
    if values.get("do_resize", True) and values.get("size"):
        said.append(f"resized to {_size(values['size'])}")
    if values.get("do_center_crop") and values.get("crop_size"):
        said.append(f"cut at the centre to {_size(values['crop_size'])}")
    return said


def _size(size: Mapping[str, Any]) -> str:
    """E.g. "height 32, width 32" or "shortest edge 256", in pixels."""
    known = [f"{name.replace('_', ' ')} {value}" for name, value in size.items() if value is not None]
    return f"{', '.join(known)} (pixels)"


def _normalised(values: Mapping[str, Any]) -> list[str]:
    """How pixels become numbers: (pixel * factor - mean) / std, of which a processor may leave out a part."""
    said = []
    if values.get("do_rescale", True):
        said.append(f"divided by {1 / values.get('rescale_factor', 1 / 255):g}")
    if values.get("do_normalize", True):
        mean, std = (_numbers(values.get(name)) for name in ("image_mean", "image_std"))
        said.append(f"normalised, (pixel - mean) / std with mean {mean} and standard deviation {std}")
    return said


def _numbers(values: Any) -> str:
    return ", ".join(f"{float(value):.6g}" for value in np.ravel(values))


def _quoted(name: str) -> str:
    # The name may come from a file of anybody.
    return f'"{name}"' if name.isidentifier() else repr(name)
