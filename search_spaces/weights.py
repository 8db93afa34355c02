"""Read weights from safetensors files, and write them so that others may read them as far as the umask lets them.

`safetensors` itself writes files that their owner alone can read, so a server of another user could not load them.
"""

import stat
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file, save_model
from torch import Tensor, nn

_METADATA = {"format": "pt"}


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors by name; none may share memory with another."""
    _with_usual_mode(path, lambda: save_file(dict(tensors), path, metadata=_METADATA))


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the state of a model; of tied weights only one is written."""
    _with_usual_mode(path, lambda: save_model(model, str(path), metadata=_METADATA))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file, by name."""
    found: dict[str, Tensor] = load_file(path)
    return found


def _with_usual_mode(path: Path, write: Callable[[], None]) -> None:
    """Call `write`, which makes `path` anew, and give the file the mode that it had or that a usual file gets."""
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    write()
    path.chmod(mode)
