"""How much the loss rises where one layer is quantized, for all layers and precisions in one pass over a few rows.

This is the score of AutoQuantize in NVIDIA's Model Optimizer: the squared error of a layer's output, weighted by the
squared gradient of the loss there and summed over tokens and channels. It is twice the second-order term of the loss,
with the diagonal of Fisher's matrix in place of the Hessian; the first-order term is left out, since errors of rounding
have no direction. Scores of layers add up to that of a policy as far as their errors are independent.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hardware.inputs import batch_size, call
from hardware.policy import Policy
from nas.data.accuracy import logits_of
from nas.networks.fake_quantization import Ranges, quantize
from search_spaces.inputs import Inputs
from search_spaces.quantization import LayerPrecision

Scores = dict[str, dict[str, float]]
"""By the path of a layer and its precision."""


def sensitivities(
    module: nn.Module,
    batches: Iterable[tuple[Inputs, Tensor]],
    loss: Callable[[Tensor, Tensor], Tensor],
    ranges: Ranges,
    precisions: Sequence[LayerPrecision],
) -> Scores:
    """Score every precision of every linear layer and convolution that ran in the calibration.

    Args:
        module: the network in evaluation mode; it is not changed.
        batches: inputs and targets on the device of the module.
        loss: (logits, targets) -> mean loss over the rows of a batch, such as `Task.loss`.
        ranges: of the network, from `calibrate`.
        precisions: those to score; float32 scores 0.

    Returns:
        The mean scores of a row, in squared units of the loss. How rows are divided into batches does not matter.

    Raises:
        ValueError: there are no rows, or the loss is not finite.
    """
    scores = {path: dict.fromkeys(map(str, precisions), 0.0) for path in ranges.of}
    networks: dict[str, nn.Module] = {
        precision: quantize(module, ranges, Policy(dict.fromkeys(ranges.of, precision)))
        for precision in precisions
        if precision != "float32"
    }
    # Parameters of the copy get no gradients, only the outputs of layers do, which spares half of the backward pass.
    shared: dict[int, Any] = {id(value): value for value in module.buffers()}
    shared |= {id(value): nn.Parameter(value.detach(), requires_grad=False) for value in module.parameters()}
    twin = copy.deepcopy(module, shared)
    weighted: list[tuple[dict[str, float], str, Tensor]] = []
    for path, into in scores.items():
        layers = {precision: network.get_submodule(path) for precision, network in networks.items()}
        twin.get_submodule(path).register_forward_hook(partial(_watch, layers, into, weighted), with_kwargs=True)
    rows = 0
    for inputs, targets in batches:
        with torch.enable_grad():
            value = loss(logits_of(call(twin, inputs)), targets)
            if not bool(torch.isfinite(value)):
                raise ValueError(f"the loss must be finite to tell sensitivities, got {float(value.detach())}")
            value.backward()  # type: ignore[no-untyped-call]
        # The loss is a mean, so every gradient is that of its row divided by the number of rows, here squared.
        count = batch_size(inputs)
        rows += count
        for target, precision, score in weighted:
            target[precision] += float(score) * count**2
        weighted.clear()
    if not rows:
        raise ValueError("sensitivities need at least one row, got none")
    return {path: {name: score / rows for name, score in options.items()} for path, options in scores.items()}


def _watch(
    layers: Mapping[str, nn.Module],
    into: dict[str, float],
    weighted: list[tuple[dict[str, float], str, Tensor]],
    _: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Tensor,
) -> Tensor:
    """Compute the errors of a layer's output now, and weigh them when its gradient is there."""
    with torch.no_grad():
        errors = {name: layer(*args, **kwargs).sub_(output).square_() for name, layer in layers.items()}
    if not output.requires_grad:
        # The first layers: nothing before them needs a gradient. The copy may then be changed in place.
        output = output.detach().requires_grad_().clone()

    def weigh(gradient: Tensor) -> None:
        squares = gradient.detach().square()
        weighted.extend((into, name, (squares * error).sum()) for name, error in errors.items())

    output.register_hook(weigh)  # type: ignore[no-untyped-call]
    return output
