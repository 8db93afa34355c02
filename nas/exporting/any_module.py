"""The files of any network, also of one whose modules its class does not make: weights by name, and ONNX.

Nothing in them says how to build the network in PyTorch: whoever made it builds it again and loads the weights.
"""

import copy
from pathlib import Path

import torch
from torch import nn

from hardware.onnxruntime import OnnxRuntimeBackend
from search_spaces.inputs import Inputs
from search_spaces.weights import save_tensors

__all__ = ["WEIGHTS", "write_module"]

WEIGHTS = "model.safetensors"


def write_module(module: nn.Module, folder: Path, example_inputs: Inputs) -> None:
    """Write `model.safetensors`, the state of a network by name, and `model.onnx`, which is compared with it.

    Args:
        module: left as it is.
        folder: to write into.
        example_inputs: tuple or mapping of tensors; the file takes any batch.

    Raises:
        ConversionError: torch cannot export the network, or the ONNX file computes something else, on the example or at
            another batch (1e-4 of the largest logit).
    """
    network = copy.deepcopy(module).cpu().eval()
    # Tensors under two names are written twice, so that `load_state_dict` finds all that it asks for.
    state = {
        name: value.detach().clone(memory_format=torch.contiguous_format)
        for name, value in network.state_dict().items()
    }
    save_tensors(state, folder / WEIGHTS)
    OnnxRuntimeBackend().convert(network, example_inputs, folder)
