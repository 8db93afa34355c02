"""The precision of every layer of one network: what a search over precisions chooses and a runtime executes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import pydantic

from search_spaces.quantization import FLOATING_PRECISIONS, PRECISIONS, FloatPrecision, LayerPrecision


@dataclass(frozen=True)
class Policy:
    """The precision of each layer of a network.

    Args:
        layers: precision by the path of a linear layer, convolution or embedding in the network; a layer that is not
            named computes in floating point.
        floating: what everything else computes in, attention and layers in `float32` included.
        asymmetric: the paths of layers in `int8` whose weights have a zero point; those of the others are symmetric.

    Raises:
        ValueError: an unknown precision, or an asymmetric layer that is not in int8.
    """

    layers: Mapping[str, LayerPrecision] = field(default_factory=dict)
    floating: FloatPrecision = "float32"
    asymmetric: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for path, precision in self.layers.items():
            if precision not in PRECISIONS:
                raise ValueError(f"{path} must be in one of {', '.join(PRECISIONS)}, got {precision}")
        if self.floating not in FLOATING_PRECISIONS:
            raise ValueError(f"the rest of a network must be in {' or '.join(FLOATING_PRECISIONS)}")
        odd = [path for path in sorted(self.asymmetric) if self.layers.get(path) != "int8"]
        if odd:
            raise ValueError(f"only layers in int8 have asymmetric weights, {odd[0]} is not in int8")

    def of(self, *precisions: LayerPrecision) -> tuple[str, ...]:
        """The paths of the layers in these precisions."""
        return tuple(path for path, precision in self.layers.items() if precision in precisions)

    @property
    def is_float(self) -> bool:
        """Whether no layer is quantized."""
        return set(self.layers.values()) <= {"float32"}


@dataclass(frozen=True)
class PrecisionChoices:
    """The precisions that a search may choose from, as profiles and searches record them.

    Args:
        layers: of linear layers and convolutions.
        embeddings: of all embeddings together.
        floating: of what stays in floating point, of the whole network.
        asymmetric: whether the INT8 weights of a convolution may have a zero point.
        keep_float: patterns of the paths of layers that stay in float32, as of `fnmatch`.
    """

    layers: tuple[LayerPrecision, ...] = ("int8", "float32")
    embeddings: tuple[LayerPrecision, ...] = ("float32",)
    floating: tuple[FloatPrecision, ...] = ("float32",)
    asymmetric: bool = False
    keep_float: tuple[str, ...] = ()

    __pydantic_config__: ClassVar[pydantic.ConfigDict] = pydantic.ConfigDict(extra="forbid")
