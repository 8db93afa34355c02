"""What a layer as a graph costs beside a module of the same formula: forward and backward, eager, in one run."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from evonorm_modules import BY_HAND
from torch import Tensor, nn

from search_spaces.graphs import GraphLayer, published

SHAPE = (32, 64, 16, 16)
_WARM_UP, _REPEATS = 5, 5


def cost_ratios(rounds: int) -> dict[str, Any]:
    """By layer the median milliseconds of the graph and of the module, on one thread.

    Args:
        rounds: interleaved timings of each.

    Raises:
        ValueError: the two do not compute the same.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {name: _pair(name, rounds) for name in BY_HAND}
    finally:
        torch.set_num_threads(threads)


def _pair(name: str, rounds: int) -> dict[str, float]:
    rng = torch.Generator().manual_seed(0)
    x, weights = (torch.randn(SHAPE, generator=rng) for _ in range(2))
    graph, module = GraphLayer(published(name), SHAPE[1]), BY_HAND[name](SHAPE[1])
    _check(name, graph, module, x)
    both = {"graph_ms": graph, "module_ms": module}
    calls = {key: _step(layer, x, weights) for key, layer in both.items()}
    times: dict[str, list[float]] = {key: [] for key in calls}
    for turn in range(_WARM_UP + rounds):
        # The second of two may find warmer caches, so they change places.
        for key in list(calls)[:: 1 if turn % 2 else -1]:
            began = time.perf_counter()
            for _ in range(_REPEATS):
                calls[key]()
            times[key].append(1000 * (time.perf_counter() - began) / _REPEATS)
    return {key: statistics.median(each[_WARM_UP:]) for key, each in times.items()}


def _step(layer: nn.Module, x: Tensor, weights: Tensor) -> Callable[[], None]:
    inputs = x.clone().requires_grad_()

    def step() -> None:
        inputs.grad = None
        layer.zero_grad(set_to_none=True)
        layer(inputs).backward(weights)

    return step


def _check(name: str, graph: nn.Module, module: nn.Module, x: Tensor) -> None:
    for mode in (True, False):
        ours, theirs = (layer.train(mode)(x) for layer in (graph, module))
        if not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4):
            raise ValueError(f"{name} by hand must compute what its graph does, it differs")
    for layer in (graph, module):
        layer.train()
