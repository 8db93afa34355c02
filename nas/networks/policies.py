"""The precision of every layer, between spaces of choices and the policies that runtimes execute."""

from collections.abc import Mapping
from typing import cast

from hardware.policy import Policy, PrecisionChoices
from nas.errors import UserError
from search_spaces import Candidate, Space, Supernet, quantization
from search_spaces.quantization import FloatPrecision, LayerPrecision


def joined_space(supernet: Supernet, precisions: PrecisionChoices | None) -> Space:
    """The space of a super-network, joined with what each of its layers may compute in; as it is for None.

    Raises:
        UserError: no layer of the network can be quantized, or a pattern fits none.
    """
    if precisions is None:
        return supernet.space
    try:
        return supernet.space + quantization.space(
            supernet,
            precisions.layers,
            floating=precisions.floating,
            embeddings=precisions.embeddings,
            keep_float=precisions.keep_float,
            asymmetric=precisions.asymmetric,
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def policy_of(supernet: Supernet, candidate: Candidate) -> Policy:
    """The precision of every layer of a candidate, by its path in the extracted module."""
    layers = cast(Mapping[str, LayerPrecision], quantization.layer_precisions(supernet, candidate))
    floating = cast(FloatPrecision, quantization.floating_of(candidate))
    return Policy(layers, floating, quantization.asymmetric_of(supernet, candidate))
