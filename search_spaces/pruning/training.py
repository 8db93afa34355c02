"""Checks that the parts of a network, one after the other, are the network while it trains."""

import copy
from collections.abc import Sequence

import torch
from torch import nn

from search_spaces.families.oracle import ORACLE_TOLERANCE, difference
from search_spaces.inputs import Inputs, split_inputs
from search_spaces.pruning.module_graph import logits_of


@torch.no_grad()
def writes_into_its_input(model: nn.Module, parts: Sequence[nn.Module], inputs: Inputs) -> list[bool]:
    """Run parts and model once in training mode, on copies of them.

    Returns:
        For each part whether it writes into its input, as a part does that begins with an activation in place.

    Raises:
        ValueError: the logits differ: the forward of the model does something while training that the graph, which is
            that of evaluation mode, does not show; or the model does not run in training mode.
    """
    args, kwargs = split_inputs(inputs)
    x, found = (*args, *kwargs.values())[0].clone(), []
    # Both draw the same random numbers for dropout.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for part in parts:
            before = x._version
            y = copy.deepcopy(part).train()(x)
            found.append(x._version != before)
            x = y
        torch.manual_seed(0)
        try:
            expected = logits_of(copy.deepcopy(model).train()(*args, **kwargs))
        except Exception as error:  # of any type: this is the user's code
            raise ValueError(
                f"{type(model).__name__} must run in training mode as in evaluation mode: {error}"
            ) from error
    if difference(x, expected) > ORACLE_TOLERANCE:
        raise ValueError(
            f"the forward of {type(model).__name__} must do while training what it does in evaluation mode, beside its "
            "layers such as batch norms and dropouts; it gives other logits than these layers do in turn"
        )
    return found
