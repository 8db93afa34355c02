"""An evolved layer in the user's own network, written as files: `nas export RUN --candidate 1 --model MODEL`."""

from pathlib import Path
from typing import Any

from torch import nn

from hardware.backend import ConversionError
from nas.console import say
from nas.data.split import Preprocessor
from nas.data.tasks import CLASSIFICATION
from nas.errors import UserError
from nas.evolving.replacing import replace
from nas.exporting.any_module import write_module
from nas.networks.loading import load_network
from nas.networks.pretrained import example_inputs
from nas.runs.folder import RunRecord
from nas.runs.requests import ExportRequest
from search_spaces.graphs import GraphLayer, LayerGraph


def with_layer(
    graph: LayerGraph, request: ExportRequest, record: RunRecord
) -> tuple[nn.Module, Preprocessor, dict[str, Any]]:
    """The user's network with the layer, what reads its images, and an example of its inputs.

    Its head is for the classes of the run.

    Raises:
        UserError: there is no such network, its weights do not fit, it has nothing to replace, or cannot be traced.
    """
    assert request.model is not None
    module, preprocessor = load_network(
        request.model, request.own, record.classes, "image", CLASSIFICATION, request.common.seed
    )
    inputs = example_inputs(module, "image", preprocessor)
    try:
        return replace(module, graph, inputs), preprocessor, inputs
    except ValueError as error:
        raise UserError(f"the layer cannot be put into {request.model}: {error}") from error


def write_with_layer(graph: LayerGraph, request: ExportRequest, record: RunRecord, folder: Path) -> dict[str, Any]:
    """Write the network with the layer into a folder: weights, ONNX, and the files of its preprocessor.

    Returns:
        What the command prints of it.

    Raises:
        UserError: as `with_layer`; or the network has no ONNX file that computes the same.
    """
    network, preprocessor, inputs = with_layer(graph, request, record)
    say("Writing the network as ONNX")
    try:
        write_module(network, folder, inputs)
    except ConversionError as error:
        raise UserError(f"{request.model} with the layer cannot be written as ONNX: {error}") from error
    preprocessor.save(folder)
    return {
        "network": request.model,
        "layers_replaced": sum(isinstance(each, GraphLayer) for each in network.modules()),
        "note": "The network must be trained with the layer before it is of use.",
    }
