"""One option for each layer, so that the scores add up to the least and the costs stay within a budget.

This is the multiple-choice knapsack problem; it is solved exactly, as an integer program, by HiGHS.
"""

from collections.abc import Mapping

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

_SLACK = 1e-6
"""Share of the range of all costs by which HiGHS may exceed a budget; that much of the budget is left unused."""
_ROUNDING = 1e-9
"""Share of the range of all costs that is taken for the rounding of sums."""


def knapsack(
    scores: Mapping[str, Mapping[str, float]], costs: Mapping[str, Mapping[str, float]], budget: float
) -> dict[str, str]:
    """Choose an option for each layer.

    Args:
        scores: by layer and option, to be minimised in sum, e.g. how much the loss rises.
        costs: by layer and option, the same ones; any unit and sign.
        budget: largest sum of the costs, in their unit.

    Returns:
        The chosen option of each layer, in the order of `scores`.

    Raises:
        ValueError: a layer has no options or an option has no cost, a number is not finite, or even the cheapest
            options exceed the budget.
    """
    options = _checked(scores, costs, budget)
    low = {layer: min(costs[layer].values()) for layer in options}
    span = sum(max(costs[layer].values()) - low[layer] for layer in options) or 1.0
    room = (budget - sum(low.values())) / span
    if room < -_ROUNDING:
        raise ValueError(
            f"the budget must be at least {sum(low.values()):.6g}, the sum of the cheapest options, got {budget:.6g}"
        )
    # An option that is neither cheaper nor better than another is never needed; of equal ones the first stays.
    choices = [
        (layer, option, scores[layer][option], (costs[layer][option] - low[layer]) / span)
        for layer, names in options.items()
        for option in _efficient(names, scores[layer], costs[layer])
    ]
    if room <= 2 * _SLACK:
        return {layer: option for layer, option, _, cost in choices if cost <= 0}
    gains = np.array([score for _, _, score, _ in choices])
    prices = np.array([cost for *_, cost in choices])
    layers = np.array([[layer == other for layer, *_ in choices] for other in options], dtype=np.float64)
    # The least score of each layer is paid in any case. Without it, and in units of the largest, tolerances fit.
    gains = gains - layers.T @ [min(scores[layer].values()) for layer in options]
    found = milp(
        gains / (gains.max() or 1.0),
        integrality=np.ones(len(choices)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(layers, 1, 1), LinearConstraint(prices[None], -np.inf, room - _SLACK)],
        options={"mip_rel_gap": 0.0},
    )
    if found.x is None:
        raise ValueError(f"no choice of options was found within the budget {budget:.6g}: {found.message}")
    return {layer: option for (layer, option, *_), taken in zip(choices, found.x, strict=True) if taken > 0.5}


def _checked(
    scores: Mapping[str, Mapping[str, float]], costs: Mapping[str, Mapping[str, float]], budget: float
) -> dict[str, list[str]]:
    """The options of each layer; raises ValueError for what cannot be chosen from."""
    for layer, options in scores.items():
        if not options:
            raise ValueError(f"{layer} must have at least one option, it has none")
        missing = [option for option in options if option not in costs.get(layer, {})]
        if missing:
            raise ValueError(f"every option must have a cost, {missing[0]} of {layer} has none")
        numbers = [*options.values(), *(costs[layer][option] for option in options)]
        if not np.isfinite([*numbers, budget]).all():
            raise ValueError(f"scores, costs and the budget must be finite, they are not for {layer}")
    return {layer: list(options) for layer, options in scores.items()}


def _efficient(names: list[str], scores: Mapping[str, float], costs: Mapping[str, float]) -> list[str]:
    """The options, cheapest first, of which each has a lower score than all cheaper ones."""
    kept: list[str] = []
    for name in sorted(names, key=lambda name: (costs[name], scores[name])):
        if not kept or scores[name] < scores[kept[-1]]:
            kept.append(name)
    return kept
