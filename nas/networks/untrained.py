"""Build a network of `transformers` from its configuration with random weights, which is enough to measure latency."""

from typing import Any

import torch
from torch import Tensor, nn

from nas.errors import UserError
from nas.files import expanded
from nas.networks.plain_layers import in_plain_layers
from nas.networks.pretrained import most_tokens, random_texts
from nas.seeds import generator, torch_seed
from search_spaces.inputs import image_config
from search_spaces.supernets.described import built

_USUAL_SIDE = 224


def untrained(name_or_folder: str, *, seed: int = 0) -> nn.Module:
    """Build a classifier with the architecture that a config.json describes, without reading weights.

    Args:
        name_or_folder: a folder with a config.json, or a name on the hub.
        seed: seed of the random weights.

    Returns:
        The network in evaluation mode, its attention in the form that a fine-tuning gives it.

    Raises:
        UserError: there is no such configuration, or its architecture has no classifier of texts or images.
    """
    import transformers

    folder = expanded(name_or_folder)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UserError(f"the model folder {folder} must hold a config.json, it has none")
    try:
        config: Any = transformers.AutoConfig.from_pretrained(name_or_folder, trust_remote_code=False)
    except Exception as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise UserError(f"{name_or_folder} must be a model folder, a hub name or a run: {line}") from error
    text = hasattr(config, "vocab_size")
    auto: Any = (
        transformers.AutoModelForSequenceClassification if text else transformers.AutoModelForImageClassification
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, "untrained"))
        try:
            module = built(config, lambda: auto.from_config(config, trust_remote_code=False))
        except ValueError as error:
            line = (str(error).strip().splitlines() or [""])[0][:300]
            raise UserError(
                f"the config.json of {name_or_folder} must be that of a classifier of texts or images: {line}"
            ) from error
    return in_plain_layers(module).eval()


def made_inputs(
    module: nn.Module, batch: int, tokens: int, image_size: tuple[int, int] | None = None
) -> dict[str, Tensor]:
    """Make random keyword inputs without padding for a network of `transformers`.

    Args:
        module: the network; its configuration says whether it reads texts or images, and of which size.
        batch: number of rows.
        tokens: length of each text; limited to the number of positions of the network.
        image_size: (height, width) in pixels; None: the size in the configuration, else 224.

    Raises:
        UserError: the configuration describes neither texts nor images.
    """
    config: Any = getattr(module, "config", None)
    rng = generator(0, "made inputs")
    if hasattr(config, "vocab_size"):
        words, width = int(config.vocab_size), min(tokens, most_tokens(module) or tokens)
        return random_texts(rng, config, words, (batch, width))
    image = image_config(module)
    if not hasattr(image, "num_channels"):
        raise UserError(f"the configuration of {type(module).__name__} must tell of texts or images, it does not")
    side = image_size or getattr(image, "image_size", None) or _USUAL_SIDE
    height, width = side if isinstance(side, (tuple, list)) else (side, side)
    pixels = rng.standard_normal((batch, int(image.num_channels), int(height), int(width)), dtype="float32")
    return {"pixel_values": torch.from_numpy(pixels)}
