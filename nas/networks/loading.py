"""The network that a command line names, of `transformers` or the user's own, with its preprocessing.

A network of the user's own is named as `module:factory` every time: a run folder never names what is imported.
"""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from nas.console import say
from nas.data.pixels import MODES, Channels
from nas.data.split import InputKind, Preprocessor
from nas.data.tasks import Task
from nas.data.tokens import TextPreprocessor
from nas.errors import UserError
from nas.networks.own_model import check_outputs, own_model, own_preprocessor
from nas.networks.plain_layers import in_plain_layers
from nas.networks.pretrained import example_inputs, load_pretrained
from nas.number_lists import number_list
from nas.settings import ModelSettings
from search_spaces.inputs import end_texts

EXAMPLE_TOKENS = 8


def device_name(asked: str) -> str:
    """Where a network goes: `auto` takes a GPU where there is one."""
    return "cuda" if asked == "auto" and torch.cuda.is_available() else "cpu"


def is_own(model: str) -> bool:
    """Whether `model` names a function, `module:factory`, and no folder or hub name."""
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", model) is not None and not Path(model).exists()


def load_network(
    model: str,
    settings: ModelSettings,
    classes: Sequence[str],
    kind: InputKind,
    task: Task,
    seed: int,
    *,
    say: Callable[[str], None] | None = say,
) -> tuple[nn.Module, Preprocessor]:
    """The network with a head for `classes`, attention in a form that can be cut, and what reads its rows.

    UserError for a network or settings that do not fit; see `load_pretrained` and `own_model` in `nas.networks`. `say`
    is called with a sentence where a head is made new or attention is turned into another form.
    """
    if not is_own(model):
        if settings != ModelSettings():
            raise UserError(
                "--weights, --image-size, --mean, --std and --tokenizer are for a network of your own, named as "
                f"module:factory; {model} has its own"
            )
        module, preprocessor = load_pretrained(model, classes, kind, seed=seed, task=task, say=say)
        return _plain(module, say), preprocessor
    module = own_model(model, settings.weights, len(classes), seed=seed, say=say)
    preprocessor = own_preprocessor(
        module,
        kind,
        image_size=image_size(settings.image_size),
        mean=_channels("mean", settings.mean),
        std=_channels("std", settings.std),
        tokenizer=settings.tokenizer,
        task=task,
    )
    example = example_inputs(module, kind, preprocessor, tokens=EXAMPLE_TOKENS)
    if isinstance(preprocessor, TextPreprocessor):
        example["input_ids"][0, 0] = max(preprocessor.tokenizer.get_vocab().values())
        # Which may be that of the end.
        example["input_ids"] = end_texts(example["input_ids"], getattr(module, "config", None))
    remedy = "it must know every token of --tokenizer" if kind == "text" else "--image-size sets the size of images"
    check_outputs(module, example, len(classes), remedy)
    return _plain(module, say), preprocessor


def bare_network(model: str, outputs: int) -> nn.Module:
    """The user's own network for a run that has its weights; UserError where `model` is no `module:factory`."""
    if not is_own(model):
        raise UserError(f"--model is for a network of your own, named as module:factory, got {model!r}")
    return in_plain_layers(own_model(model, None, outputs))


def maker(model: str | None, outputs: int) -> Callable[[], nn.Module] | None:
    """What makes the user's own network for a card's loader; None where the class alone does not give its form.

    That is: a network of `transformers`, or one whose attention was turned into another form.
    """
    if model is None:
        return None
    made = own_model(model, None, outputs)
    return partial(own_model, model, None, outputs) if in_plain_layers(made) is made else None


def _plain(module: nn.Module, say: Callable[[str], None] | None) -> nn.Module:
    plain = in_plain_layers(module)
    if plain is not module and say is not None:
        say("Its nn.MultiheadAttention is turned into an equal form of plain layers, so that heads can be cut")
    return plain


def image_size(text: str | None) -> int | tuple[int, int] | None:
    """The side, or height and width, that `--image-size` names; UserError for anything else."""
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) > 2 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise UserError(f"--image-size must be a side, or height,width, in pixels, e.g. 32, got {text!r}")
    return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))


def _channels(name: str, text: str | None) -> Channels | None:
    if text is None:
        return None
    described, good = _PIXEL_NUMBERS[name]
    wanted = f"three numbers {described}, or one for grey images, e.g. 0.49,0.48,0.45"
    numbers = number_list(name, text, wanted, lambda values: len(values) in MODES and all(map(good, values)))
    return tuple(map(float, numbers))


_PIXEL_NUMBERS: Mapping[str, tuple[str, Callable[[float], bool]]] = {
    "mean": ("from 0 to 1", lambda value: 0 <= value <= 1),
    "std": ("above 0", lambda value: 0 < value <= sys.float_info.max),
}
"""What each number of a flag has to be, of pixels scaled to 0..1."""
