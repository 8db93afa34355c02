"""A super-network as a folder: weights as safetensors, the space and the model's configuration as JSON."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model
from torch import nn

from search_spaces.families.plain_attention import plain_attention
from search_spaces.space import Space
from search_spaces.supernets.described import built
from search_spaces.weights import save_weights

_WEIGHTS, _SPACE, _CONFIG = "model.safetensors", "space.json", "config.json"


def save(model: nn.Module, space: Space, folder: Path | str) -> None:
    """Write the model and its space into an existing folder.

    Args:
        model: any module; a configuration of transformers is written too, so that `load` can build the model.
        space: its space.
        folder: existing; files of the same names are replaced.
    """
    folder = Path(folder)
    config: Any = getattr(model, "config", None)
    if hasattr(config, "save_pretrained"):
        # `load` finds the model's class by this name, which `save_pretrained` of a bare configuration does not write.
        config.architectures = [type(model).__name__]
        config.save_pretrained(folder)
    (folder / _SPACE).write_text(space.to_json(), encoding="utf-8")
    save_weights(model, folder / _WEIGHTS)


def load(folder: Path | str, model: nn.Module | None = None) -> tuple[nn.Module, Space]:
    """Read the model and the space that `save` wrote.

    Args:
        folder: that of `save`.
        model: loaded in place; None: built from the transformers configuration in the folder, in evaluation mode.

    Raises:
        ValueError: files are missing or damaged, weights do not fit, or transformers does not have the model's class.
    """
    folder = Path(folder)
    for name in (_WEIGHTS, _SPACE):
        if not (folder / name).is_file():
            raise ValueError(f"a super-network folder must hold {name}, {folder} does not")
    space = Space.from_json((folder / _SPACE).read_text(encoding="utf-8"))
    if model is None:
        model = _as_saved(_build(folder), folder / _WEIGHTS)
    try:
        load_model(model, str(folder / _WEIGHTS))
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ValueError(f"the weights in {folder / _WEIGHTS} must fit {type(model).__name__}: {reason}") from error
    return model, space


def _as_saved(model: nn.Module, weights: Path) -> nn.Module:
    """The model with its `nn.MultiheadAttention` in plain layers where the weights are of these."""
    attention = next((path for path, part in model.named_modules() if isinstance(part, nn.MultiheadAttention)), None)
    if attention is None:
        return model
    try:
        with safe_open(weights, "pt") as file:
            return model if f"{attention}.in_proj_weight" in file.keys() else plain_attention(model)  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"the weights in {weights} cannot be read: {error}") from error


def _build(folder: Path) -> nn.Module:
    """The model of the configuration in `folder`, untrained; only classes of transformers, no code from the folder."""
    import transformers

    if not (folder / _CONFIG).is_file():
        raise ValueError(f"a model of your own class must be passed to load: {folder} has no {_CONFIG}")
    try:
        names = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))["architectures"]
        kind = getattr(transformers, str(names[0]))
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ValueError(f"{folder / _CONFIG} must be the configuration of a transformers model: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise ValueError(f"{folder / _CONFIG} must name a transformers model, got {names[0]!r}")
    # As many as its file has bytes, and some more for weights that share their memory.
    most = 2**20 + (folder / _WEIGHTS).stat().st_size
    try:
        return built(config, lambda: kind(config), most).eval()
    except ValueError as error:
        raise ValueError(f"{folder / _CONFIG} must be that of the network: {error}") from error
