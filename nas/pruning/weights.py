"""The weights that the stages of a pruning keep, read with care: a refusal names the file and what to do."""

from pathlib import Path

from torch import Tensor, nn

from nas.errors import UserError
from nas.pruning.candidates import WEIGHTS
from nas.searching.kept import KeptFiles
from search_spaces import Candidate
from search_spaces.pruning import SubNetwork
from search_spaces.weights import load_tensors

_LARGEST = 1e6
"""Weights of trained networks are far below this; larger ones and those that are no numbers let no training go on."""


def read_weights(path: Path, remedy: str) -> dict[str, Tensor]:
    """The tensors of a file by name; UserError, which ends in the remedy, where no trained network has such weights."""
    try:
        tensors = load_tensors(path)
    except Exception as error:  # safetensors raises several kinds for damaged files
        raise UserError(f"the weights in {path} cannot be read ({type(error).__name__}); {remedy}") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool((tensor.abs() < _LARGEST).all()):
            raise UserError(f"{path} must hold weights of usual size, {name} has one beyond {_LARGEST:g}; {remedy}")
    return tensors


def form_weights(files: KeptFiles, subnetwork: SubNetwork, candidate: Candidate) -> dict[str, Tensor]:
    """The trained weights of a form of a sub-network; UserError where they are missing or damaged."""
    path = files.of(candidate) / WEIGHTS
    remedy = f"remove {files.folder.parent} to search that sub-network anew"
    tensors = read_weights(path, remedy)
    missing = _distinct(subnetwork.module) - tensors.keys()
    if missing:
        raise UserError(f"{path} must have all weights of its sub-network, it has no {min(missing)}; {remedy}")
    return tensors


def _distinct(module: nn.Module) -> set[str]:
    """Names of the tensors of a module; of tied ones only the first."""
    first: dict[int, str] = {}
    for name, tensor in module.state_dict().items():
        first.setdefault(tensor.data_ptr() or id(tensor), name)
    return set(first.values())
