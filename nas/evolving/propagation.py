"""Which layers let no signal through a deep network, found by one forward and backward in each network.

This test is not in the paper. A layer may be of use alone (`usable`) and still make activations or gradients vanish or
explode where many of them follow each other, and then a network learns nothing, however long it is trained (Schoenholz
et al. 2017, arXiv 1611.01232). Three numbers on one batch at the initial weights tell:

- the loss is finite, and not far above that of guessing;
- the logits differ between the rows;
- the gradient that reaches the first convolution is neither nothing nor beyond all bounds, beside its weights.

On CIFAR-10 in the small EfficientNet-B0 and MobileNetV2, 32 different layers that the published tests accept have
losses of 2.29 to 2.49 (guessing: 2.30), deviations of .08 to .44 and gradients of .02 to 16,000 of the weights. All
bounds but that of the loss lie an order of magnitude beyond these.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nas.data.accuracy import logits_of
from nas.data.rows import Rows
from nas.errors import UserError
from nas.evolving.anchors import Network, with_layer
from nas.evolving.verdict import Verdict
from nas.learning.randomness import seed_generator
from nas.seeds import generator, torch_seed
from search_spaces.graphs import LayerGraph

__all__ = ["first_convolution", "propagation"]

_MOST_LOSS = 2.0
"""As a multiple of the loss of guessing."""
_LEAST_DEVIATION = 5e-3
"""Of a logit between rows; networks begin with logits of about .2."""
_GRADIENT = (1e-3, 1e6)
"""Least and largest norm of the first convolution's gradient, as a share of the norm of its weights."""


def propagation(
    graph: LayerGraph,
    networks: Mapping[str, Network],
    rows: Rows,
    *,
    seed: int = 0,
    groups: int = 32,
    batch_size: int = 32,
) -> Verdict:
    """Test a layer by one forward and backward in one network after the other, until it fails in one.

    The same layer and seed give the same verdict, on the same machine with the same number of threads.

    Args:
        graph: the layer.
        networks: by name, the cheapest first; see `nas.evolving.anchors.networks`.
        rows: images with a class each, of which one batch is drawn.
        seed: of weights and batch.
        groups: as of `GraphLayer`.
        batch_size: rows of the batch, at least 2.

    Returns:
        The verdict; each network that was tried counts as a step.

    Raises:
        UserError: there are fewer than two rows, or a network has no convolution.
    """
    if min(batch_size, len(rows)) < 2:
        raise UserError(f"a signal is followed on at least 2 rows, got {min(batch_size, len(rows))}")
    indices = generator(seed, "propagation").permutation(len(rows))[:batch_size]
    inputs, targets = tuple(rows.batch(indices).values()), rows.targets(indices)
    for steps, (name, network) in enumerate(networks.items(), 1):
        module = with_layer(network, graph, seed, groups).train()
        with torch.random.fork_rng(devices=[]):
            # For networks that draw while they run, as those with dropout.
            seed_generator(torch_seed(seed, "propagation"), torch.device("cpu"))
            fault = _fault(module, inputs, targets)
        if fault:
            return Verdict("propagation", f"{fault} in {name}", steps=steps)
    return Verdict(steps=len(networks))


def first_convolution(module: nn.Module) -> nn.Conv2d:
    """The first convolution of a network, whose gradient is measured; UserError where it has none."""
    found = next((layer for layer in module.modules() if isinstance(layer, nn.Conv2d)), None)
    if found is None:
        raise UserError("the network must have convolutions, whose gradient is measured; it has none")
    return found


def _fault(module: nn.Module, inputs: Sequence[Tensor], targets: Tensor) -> str:
    """What is wrong at the initial weights; empty if nothing is."""
    weight = first_convolution(module).weight
    logits = logits_of(module(*inputs))
    loss = nn.functional.cross_entropy(logits, targets)
    first, guessing = float(loss.detach()), math.log(logits.shape[1])
    # Not "greater": what is not a number fails, too.
    if not first <= _MOST_LOSS * guessing:
        return f"the first loss is {first:.3g}, that of guessing {guessing:.3g},"
    deviation = float(logits.detach().std(0).mean())
    if not deviation >= _LEAST_DEVIATION:
        return f"the first logits of different rows deviate by {deviation:.1g}"
    (gradient,) = torch.autograd.grad(loss, weight, allow_unused=True)
    share = 0.0 if gradient is None else float(gradient.norm() / weight.detach().norm())
    low, high = _GRADIENT
    return "" if low <= share <= high else f"the first gradient of the first convolution is {share:.1g} of its weights"
