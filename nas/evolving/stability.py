"""Which layers are numerically unstable: their gradients explode under weights made to that end (EvoNorm, section 4).

The weights of the convolutions climb along the gradient of the norm of their own gradient, on one small batch, for up
to a hundred steps. A layer is rejected where that norm exceeds 1e8.

Differs: the paper's step size is unknown. Here a step has the direction of the gradient and a length that is a share of
the norm of all weights that move (`STEP`), because the slopes of different layers differ by orders of magnitude.
"""

import math
from collections.abc import Sequence

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

__all__ = ["LARGEST_NORM", "STEP", "stability"]

LARGEST_NORM = 1e8
"""The paper's bound for the norm of the gradient."""
STEP = 0.01
"""The length of a step, as a share of the norm of the weights.

On CIFAR-10 in the small MobileNetV2, ReLU and SiLU without a normalization exceed the bound within 7 steps, as most bad
layers of the paper do within 5; BN-ReLU, B0 and S0 stay below 1,000 for a hundred steps.
"""


def stability(
    graph: LayerGraph,
    network: Network,
    rows: Rows,
    *,
    seed: int = 0,
    groups: int = 32,
    steps: int = 100,
    step_size: float = STEP,
    batch_size: int = 8,
    largest_norm: float = LARGEST_NORM,
) -> Verdict:
    """Try to make the gradients of a layer explode.

    The same layer and seed give the same verdict, on the same machine with the same number of threads.

    Args:
        graph: the layer.
        network: where it is tried; a cheap one will do.
        rows: images with a class each, of which one batch is drawn.
        seed: of weights and batch.
        groups: as of `GraphLayer`.
        steps: the most steps of gradient ascent.
        step_size: length of a step as a share of the norm of the convolutions' weights.
        batch_size: rows of the batch, at least 2.
        largest_norm: the norm of the gradient above which the layer is rejected.

    Returns:
        `measured` has the norm of the gradient at first and at its largest: `first norm` and `largest norm`.

    Raises:
        UserError: a number is out of its range, there are fewer than two rows, or the network has no convolution.
    """
    if steps < 0 or not step_size > 0 or not largest_norm > 0 or min(batch_size, len(rows)) < 2:
        raise UserError(
            "stability needs at least 2 rows a batch, 0 steps and a step size and norm above 0, got "
            f"{min(batch_size, len(rows))}, {steps}, {step_size} and {largest_norm}"
        )
    module = with_layer(network, graph, seed, groups).train()
    weights = [layer.weight for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    if not weights:
        raise UserError("the network must have convolutions, whose weights are moved; it has none")
    length = step_size * math.sqrt(sum(float(weight.detach().square().sum()) for weight in weights))
    indices = generator(seed, "stability").permutation(len(rows))[:batch_size]
    inputs, targets = tuple(rows.batch(indices).values()), rows.targets(indices)
    norms, draws = list[float](), torch_seed(seed, "stability")
    with torch.random.fork_rng(devices=[]):
        for step in range(steps + 1):
            # Networks that draw while they run, as with dropout, do so alike in each step: one function is climbed.
            seed_generator(draws, torch.device("cpu"))
            norm = _norm(module, inputs, targets, weights)
            norms.append(float(norm.detach()))
            reason = _fault(norms[-1], largest_norm)
            if reason or step == steps or not _climb(norm, weights, length):
                break
    return Verdict("stability" if reason else None, reason, _measured(norms), len(norms) - 1)


def _norm(module: nn.Module, inputs: Sequence[Tensor], targets: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """The norm of the loss's gradient with respect to the weights, as a function of the weights."""
    loss = nn.functional.cross_entropy(logits_of(module(*inputs)), targets)
    gradients = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
    squares = [gradient.square().sum() for gradient in gradients if gradient is not None]
    return torch.stack(squares).sum().sqrt() if squares else loss.detach() * 0


def _fault(norm: float, largest: float) -> str:
    if not math.isfinite(norm):
        return "the gradient is not finite"
    if norm == 0:
        return "the gradient is 0"
    return f"the gradient has a norm of {norm:.3g}, above {largest:g}" if norm > largest else ""


def _climb(norm: Tensor, weights: Sequence[Tensor], length: float) -> bool:
    """Move the weights by a length along the gradient of the norm; False if there is no such direction."""
    slopes = torch.autograd.grad(norm, weights, allow_unused=True)
    moves = [torch.zeros_like(w) if slope is None else slope for w, slope in zip(weights, slopes, strict=True)]
    # The largest slope is divided out first: the squares of large ones are more than float32 holds.
    largest = max(float(move.abs().max()) for move in moves)
    if not math.isfinite(largest) or largest == 0:
        return False
    size = largest * math.sqrt(sum(float((move / largest).square().sum()) for move in moves))
    with torch.no_grad():
        for weight, move in zip(weights, moves, strict=True):
            weight += (length / size) * move
    return True


def _measured(norms: Sequence[float]) -> dict[str, float]:
    finite = [norm for norm in norms if math.isfinite(norm)]
    return {"first norm": finite[0], "largest norm": max(finite)} if finite else {}
