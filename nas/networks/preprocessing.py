"""A preprocessor made to read rows as a network's configuration says; networks of the user's own may have one too."""

from functools import singledispatch
from inspect import signature
from typing import Any

from torch import nn

from nas.data.pixels import ImagePreprocessor, PlainImages
from nas.data.split import Preprocessor
from nas.data.tokens import TextPreprocessor
from nas.errors import UserError
from nas.networks.channels import configured_channels
from nas.networks.described import check_tokenizer
from nas.sentences import quoted
from search_spaces.inputs import deciding_end


@singledispatch
def configured(preprocessor: Preprocessor, module: nn.Module, name: str) -> Preprocessor:
    """The preprocessor, or one like it, for the network that is to read its rows.

    Texts get the token of the end by which the network decides, images as many channels as it reads. A preprocessor of
    another kind stays as it is. The tokenizer or image processor is changed.

    Args:
        preprocessor: as it was loaded.
        module: the network.
        name: of the model, for messages.

    Raises:
        UserError: the tokenizer has more tokens than the network, pictures have not as many channels as it reads, or
            its input has another name than the pixels.
    """
    return preprocessor


@configured.register
def _(preprocessor: TextPreprocessor, module: nn.Module, name: str) -> Preprocessor:
    config = getattr(module, "config", None)
    check_tokenizer(preprocessor.tokenizer, name, _vocabulary(config))
    return preprocessor.ended(deciding_end(config))


def _vocabulary(config: Any) -> int | None:
    """How many tokens a network knows; None where its configuration does not say."""
    of_texts = getattr(config, "get_text_config", None)
    words = getattr(of_texts() if callable(of_texts) else config, "vocab_size", None)
    return words if isinstance(words, int) else None


@configured.register
def _(preprocessor: ImagePreprocessor, module: nn.Module, name: str) -> Preprocessor:
    return ImagePreprocessor.of(preprocessor.processor, configured_channels(module, name))


@configured.register
def _(preprocessor: PlainImages, module: nn.Module, name: str) -> Preprocessor:
    if preprocessor.name not in signature(module.forward).parameters:
        raise UserError(
            f"preprocessor_config.json in {name} must name the input of the network, which is not "
            f"{quoted(preprocessor.name)}; put a copy in its place, or begin anew in another folder"
        )
    return preprocessor
