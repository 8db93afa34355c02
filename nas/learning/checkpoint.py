"""Checkpoints of a training run, as safetensors and JSON in one folder; pickles are never read, as they can run code.

A checkpoint is written to a new folder beside the old one, flushed to the disk and then renamed, so that a kill at any
moment leaves a complete checkpoint (`nas.files.replace_folder`). The JSON file holds the hash of the tensors, so a file
that was damaged or mixed up later is found.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.bounded import finite
from nas.errors import UserError
from nas.files import read_json, recover_folder, replace_folder, write_json_atomic
from search_spaces.weights import save_tensors

_VERSION = 2
_MOST_BYTES = 256 << 20
StepRecord = tuple[float, float, float]
"""Loss, learning rate and seconds of one step."""


@dataclass
class Progress:
    """The state of a training run apart from its module and optimizer.

    Attributes:
        history: one record per step, from the first.
        evaluations: (step, value) of each evaluation so far; NaN where the value was not finite.
        best: copies of the trained tensors (`trained_tensors`) at the best evaluation; empty without early stopping.
        memory: state of the loss and the validation (`Resumable`) as JSON values, or None.
    """

    history: list[StepRecord] = field(default_factory=list)
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    memory: dict[str, Any] | None = None


def model_fingerprint(module: nn.Module) -> str:
    """SHA-256 over the names, types, shapes and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_checkpoint(
    folder: Path,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    identity: Mapping[str, str],
) -> None:
    """Save the state after `len(progress.history)` steps, replacing an older checkpoint.

    Args:
        folder: folder of the checkpoint; a kill leaves either the old or the new checkpoint in it.
        module: its trainable parameters and buffers are saved. Frozen parameters are not; the fingerprint of the model
            in `identity` ensures that they are the same when training resumes.
        optimizer: an optimizer of the parameters of `module`; its whole state is saved.
        progress: the rest of the state.
        identity: fingerprints of what determines the run, e.g. {"config": ..., "data": ..., "model": ...}.

    Raises:
        OSError: the folder cannot be written; an older checkpoint is still there.
    """
    from safetensors import SafetensorError

    state = _state(module, optimizer) | {f"best.{name}": tensor for name, tensor in progress.best.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    # JSON has no NaN, so an evaluation that was not finite is stored as null.
    meta = {
        "version": _VERSION,
        "identity": dict(identity),
        "history": [list(row) for row in progress.history],
        "evaluations": [[step, finite(value)] for step, value in progress.evaluations],
        "memory": progress.memory,
    }

    def fill(beside: Path) -> None:
        try:
            save_tensors(tensors, beside / "state.safetensors")
        except SafetensorError as error:
            raise OSError(f"cannot write the checkpoint {folder}: {error}") from error
        write_json_atomic(beside / "state.json", meta | {"sha256": _sha256(beside / "state.safetensors")})

    replace_folder(folder, fill)


def load_checkpoint(
    folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, identity: Mapping[str, str]
) -> Progress:
    """Load a checkpoint into a module and its optimizer; without a checkpoint they stay unchanged.

    Args:
        folder: folder of the checkpoint.
        module: the module to restore.
        optimizer: an optimizer of the parameters of `module`.
        identity: fingerprints of this run; those in the checkpoint must be the same.

    Returns:
        The rest of the state; that of a run at its beginning if there is no checkpoint.

    Raises:
        UserError: the checkpoint is damaged or belongs to another run; module and optimizer are unchanged then.
    """
    recover_folder(folder)
    if not folder.exists():
        return Progress()
    found, progress, tensors = _read(folder)
    other = [name for name in identity if found.get(name) != identity[name]]
    if other:
        raise UserError(
            f"the checkpoint in {folder} belongs to a run with another {' and '.join(other)}; "
            "give the same arguments to go on with it, or another folder to start anew"
        )
    own = trained_tensors(module)
    states: dict[str, dict[str, Tensor]] = {}
    weights: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        kind, name = key.split(".", 1)
        if kind == "optimizer":
            name, rest = name.split(".", 1)
            states.setdefault(rest, {})[name] = tensor
        elif kind == "best":
            progress.best[name] = tensor
        else:
            weights[key] = tensor
    parameters = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    # Check everything before the first tensor is copied, so that a refused checkpoint changes nothing.
    if (
        not _fits(weights, own)
        or (progress.best and not _fits(progress.best, own))
        or not states.keys() <= parameters.keys()
    ):
        raise UserError(f"the checkpoint in {folder} does not fit the model; remove it to start anew")
    put_tensors(module, weights)
    # Set by name instead of with `load_state_dict`, which identifies parameters by their position in the groups.
    for name, state in states.items():
        parameter = parameters[name]
        optimizer.state[parameter] = {key: tensor.to(parameter.device) for key, tensor in state.items()}
    return progress


def _fits(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    return found.keys() == own.keys() and all(found[key].shape == own[key].shape for key in own)


@torch.no_grad()
def put_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Overwrite trained tensors of a module.

    Args:
        module: the module to change.
        tensors: new values, by the names that `trained_tensors` uses.
    """
    own = trained_tensors(module)
    for name, tensor in tensors.items():
        own[name].copy_(tensor)


def trained_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that training may change, without copying them: trainable parameters and all buffers."""
    tensors: dict[str, Tensor] = {
        f"parameter.{name}": parameter for name, parameter in module.named_parameters() if parameter.requires_grad
    }
    return tensors | {f"buffer.{name}": buffer for name, buffer in module.named_buffers()}


def _state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = trained_tensors(module)
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value
    return tensors


def _read(folder: Path) -> tuple[dict[str, str], Progress, dict[str, Tensor]]:
    from safetensors.torch import load_file

    try:
        meta = read_json(folder / "state.json", _MOST_BYTES)
        version, digest, identity = meta["version"], meta["sha256"], dict(meta["identity"])
        progress = Progress(
            [(float(loss), float(rate), float(seconds)) for loss, rate, seconds in meta["history"]],
            [(int(step), math.nan if value is None else float(value)) for step, value in meta["evaluations"]],
            memory=None if meta["memory"] is None else dict(meta["memory"]),
        )
        # The JSON file is written after the tensors, so a folder with a matching hash is complete.
        sound = version == _VERSION and digest == _sha256(folder / "state.safetensors")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"the checkpoint in {folder} is damaged ({error}); remove it to start anew") from error
    if not sound:
        raise UserError(f"the checkpoint in {folder} is damaged or of another version; remove it to start anew")
    return identity, progress, load_file(folder / "state.safetensors")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
