"""Checkpoints of a training run: safetensors and JSON in one folder that is replaced as a whole; never a pickle."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from nas.errors import UserError
from nas.files import recover_folder, replace_folder, write_json_atomic

_VERSION = 1
Row = tuple[float, float, float]
"""Loss, learning rate and seconds of one step."""


def model_fingerprint(module: nn.Module) -> str:
    """Sha256 over the names, shapes and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_checkpoint(
    folder: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    history: Sequence[Row],
    identity: Mapping[str, str],
) -> None:
    """Put the state after `len(history)` steps in the place of an older checkpoint.

    Args:
        folder: of the checkpoint; a kill leaves the old or the new one.
        module: its trainable parameters and its buffers are kept; the frozen ones are those that training began with.
        optimizer: over parameters of `module`; its whole state is kept.
        history: one row a step, from the first.
        identity: what the run was made with, e.g. {"config": ..., "data": ..., "model": ...}.

    Raises:
        OSError: the folder cannot be written; an older checkpoint is still there.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in _state(module, optimizer).items()}

    def fill(beside: Path) -> None:
        try:
            save_file(tensors, beside / "state.safetensors")
        except SafetensorError as error:
            raise OSError(f"cannot write the checkpoint {folder}: {error}") from error
        meta = {"version": _VERSION, "identity": dict(identity), "history": [list(row) for row in history]}
        write_json_atomic(beside / "state.json", meta | {"sha256": _sha256(beside / "state.safetensors")})

    replace_folder(folder, fill)


def load_checkpoint(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, identity: Mapping[str, str]
) -> list[Row]:
    """Bring module and optimizer to the state of the checkpoint; without one, leave them.

    Returns:
        One row for every step that is done.

    Raises:
        UserError: the checkpoint is damaged, or its identity is another; nothing has been changed then.
    """
    recover_folder(folder)
    if not folder.exists():
        return []
    found, history, tensors = _read(folder)
    other = [name for name in identity if found.get(name) != identity[name]]
    if other:
        raise UserError(
            f"the checkpoint in {folder} belongs to a run with another {' and '.join(other)}; "
            "give the same arguments to go on with it, or another folder to start anew"
        )
    own = _tensors(module)
    states: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith("optimizer."):
            _, name, rest = key.split(".", 2)
            states.setdefault(rest, {})[name] = tensor
    weights = {key: tensor for key, tensor in tensors.items() if not key.startswith("optimizer.")}
    parameters = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    fits = weights.keys() == own.keys() and all(weights[key].shape == own[key].shape for key in own)
    if not fits or not states.keys() <= parameters.keys():
        raise UserError(f"the checkpoint in {folder} does not fit the model; remove it to start anew")
    with torch.no_grad():
        for key, tensor in weights.items():
            own[key].copy_(tensor)
    for name, state in states.items():
        parameter = parameters[name]
        optimizer.state[parameter] = {key: tensor.to(parameter.device) for key, tensor in state.items()}
    return history


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {
        f"parameter.{name}": parameter for name, parameter in module.named_parameters() if parameter.requires_grad
    }
    return tensors | {f"buffer.{name}": buffer for name, buffer in module.named_buffers()}


def _state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = _tensors(module)
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value
    return tensors


def _read(folder: Path) -> tuple[dict[str, str], list[Row], dict[str, Tensor]]:
    from safetensors.torch import load_file

    try:
        meta = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        version, digest, identity = meta["version"], meta["sha256"], dict(meta["identity"])
        history = [(float(loss), float(rate), float(seconds)) for loss, rate, seconds in meta["history"]]
        sound = version == _VERSION and digest == _sha256(folder / "state.safetensors")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"the checkpoint in {folder} is damaged ({error}); remove it to start anew") from error
    if not sound:
        raise UserError(f"the checkpoint in {folder} is damaged or of another version; remove it to start anew")
    return identity, history, load_file(folder / "state.safetensors")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
