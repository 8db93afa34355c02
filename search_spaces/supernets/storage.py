"""A super-network on disk: weights as safetensors, the space and the model's configuration as JSON."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_model, save_model
from torch import nn

from search_spaces.space import Space

_WEIGHTS, _SPACE, _CONFIG = "model.safetensors", "space.json", "config.json"


def save(model: nn.Module, space: Space, folder: Path | str) -> None:
    """Write `model` and `space` into an existing folder."""
    folder = Path(folder)
    config: Any = getattr(model, "config", None)
    if hasattr(config, "save_pretrained"):
        config.architectures = [type(model).__name__]
        config.save_pretrained(folder)
    (folder / _SPACE).write_text(space.to_json(), encoding="utf-8")
    save_model(model, str(folder / _WEIGHTS), metadata={"format": "pt"})


def load(folder: Path | str, model: nn.Module | None = None) -> tuple[nn.Module, Space]:
    """Read a model (built from its transformers configuration unless given) and its space.

    Raises:
        ValueError: missing or damaged files, weights that do not fit, a class that transformers does not have.
    """
    folder = Path(folder)
    for name in (_WEIGHTS, _SPACE):
        if not (folder / name).is_file():
            raise ValueError(f"a super-network folder must hold {name}, {folder} does not")
    space = Space.from_json((folder / _SPACE).read_text(encoding="utf-8"))
    model = _build(folder) if model is None else model
    try:
        load_model(model, str(folder / _WEIGHTS))
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ValueError(f"the weights in {folder / _WEIGHTS} must fit {type(model).__name__}: {reason}") from error
    return model, space


def _build(folder: Path) -> nn.Module:
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
    model: nn.Module = kind(config)
    return model.eval()
