"""The layers of a network whose precision a policy can choose, in the module and in its exported file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from hardware.backend import ConversionError
from hardware.policy import Policy
from search_spaces.quantization import LayerPrecision

Kind = Literal["linear", "convolution", "embedding"]


@dataclass(frozen=True)
class Layers:
    """The linear layers, convolutions and embeddings in an exported file.

    Attributes:
        weights: path of the layer in the network, by the name of the constant that holds its weight. A layer that is
            used several times may have several constants, and a constant several users.
        called: the paths of all modules from which an operator of the file comes.
    """

    weights: Mapping[str, str]
    called: frozenset[str]


def kind_of(part: nn.Module) -> Kind | None:
    """The kind of a layer; None for a module without a weight that could be quantized."""
    if isinstance(part, nn.Embedding):
        return "embedding"
    if isinstance(part, nn.modules.conv._ConvNd):
        return "convolution"
    # Like the `Conv1D` of GPT-2, which is a linear layer with a transposed weight.
    plain = isinstance(part, nn.Linear) or type(part).__name__ == "Conv1D"
    return "linear" if plain else None


def check_layers(policy: Policy, module: nn.Module) -> None:
    """Check that a network has every layer that a policy names, and that these can be in their precisions.

    Raises:
        ValueError: one is missing, has no weight to quantize, or is an embedding in int8.
    """
    for path, precision in policy.layers.items():
        try:
            part = module.get_submodule(path)
        except AttributeError as error:
            raise ValueError(f"a policy must name layers of the network, which has no layer {path}") from error
        kind = kind_of(part)
        if kind is None:
            raise ValueError(
                f"a policy must name linear layers, convolutions and embeddings, {path} is a {type(part).__name__}"
            )
        if kind == "embedding" and precision == "int8":
            raise ValueError(
                f"embeddings multiply nothing, so {path or 'the network'} must be in int8-weights or float32, got int8"
            )


def quantized_layers(policy: Policy, module: nn.Module, layers: Layers) -> dict[str, LayerPrecision]:
    """The layers of a file that a policy quantizes.

    A layer that the network never calls, or whose table the exporter replaced by the rows that are read, is not in its
    file, and so there is nothing to quantize.

    Args:
        policy: checked by `check_layers`.
        module: the network.
        layers: of its file.

    Returns:
        The precision of each layer that is not in float32, by its path.

    Raises:
        ConversionError: the file computes a layer from another weight than the layer's own.
    """
    held = set(layers.weights.values())
    found: dict[str, LayerPrecision] = {}
    for path, precision in policy.layers.items():
        if precision == "float32":
            continue
        if path in held:
            found[path] = precision
        elif path in layers.called and kind_of(module.get_submodule(path)) != "embedding":
            raise ConversionError(f"{path} must stay in float32, because its weight is computed anew in every call")
    return found
