"""The whole network of a scheme: pruned forms of its sub-networks put together, each with its own trained weights."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from nas.errors import UserError
from nas.pruning.impairment import Form, Scheme
from search_spaces import Candidate, Space, Supernet

WeightsOf = Callable[[Form], Mapping[str, Tensor]]
"""The trained weights and buffers of a form, by the names that they have in the whole network."""


def candidate_of(scheme: Scheme, space: Space) -> Candidate:
    """The candidate of the whole network's space; sub-networks without a form are as in the original."""
    options = dict(space.full())
    for form in scheme.values():
        if form is not None:
            options |= dict(form.candidate)
    return space.candidate(options)


@torch.no_grad()
def joined(model: nn.Module, space: Space, scheme: Scheme, weights_of: WeightsOf) -> nn.Module:
    """The network of a scheme as a plain module of the original's class, in evaluation mode.

    Args:
        model: the original.
        space: of all of its sub-networks.
        scheme: a form of each sub-network.
        weights_of: reads those of a form.

    Raises:
        UserError: weights do not fit the network.
    """
    network = Supernet(model, space).extract(candidate_of(scheme, space)).eval()
    own = network.state_dict()
    for form in scheme.values():
        for name, tensor in ({} if form is None else weights_of(form)).items():
            if name not in own or own[name].shape != tensor.shape:
                raise UserError(
                    f"the trained weights of a sub-network must fit the network, {name} does not; remove the searches "
                    "to train them anew"
                )
            own[name].copy_(tensor)
    return network
