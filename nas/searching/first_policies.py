"""Joint candidates to begin a search with: what a knapsack of sensitivities chooses at several budgets.

A search over precisions alone can be solved without measuring anything, if errors add up: choose for every layer the
precision such that the sum of the scores is least and the cost within a budget (as NVIDIA's AutoQuantize does). That
is a good start of a joint search, for the full network and, with the same precisions, for narrower ones.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from nas.searching.knapsack import knapsack
from nas.searching.measurement import Exact
from search_spaces import Candidate, Space
from search_spaces.arrays import FloatArray, IntArray
from search_spaces.quantization import is_precision

Scores = Mapping[str, Mapping[str, float]]
"""By the name of a choice of precision and its option: by how much the loss rises, see `nas.networks.sensitivity`."""

_NARROWER = (0.75, 0.5)
"""Shares of the range of every choice of the architecture, between smallest and full."""


def first_policies(space: Space, scores: Scores, cost: Exact, count: int) -> list[Candidate]:
    """Candidates at evenly spaced budgets, half of them of the full network and the rest of narrower ones.

    Args:
        space: of architecture and precisions.
        scores: of the layers of the full network; choices without a score take their first option, the cheapest.
        cost: of encoded candidates, e.g. the size or the predicted latency.
        count: how many at most.
    """
    full = space.encode([space.full()])[0]
    precisions = [column for column, choice in enumerate(space.choices) if is_precision(choice.name)]
    base = full.copy()
    # What has no score is a matter of cost alone: embeddings, and what stays in floating point.
    base[[column for column in precisions if space.choices[column].name not in scores]] = 0
    differences = _differences(space, base, list(scores), cost)
    cheapest, dearest = _ends(differences)
    wide = max(1, count // 2)
    policies = [
        _with_policy(space, base, knapsack(scores, differences, budget))
        for budget in np.linspace(cheapest, dearest, wide, endpoint=wide == 1)
    ]
    narrow = [_narrowed(space, policy, share) for share in _NARROWER for policy in policies]
    rows = space.canonical(np.array([*policies, *narrow]))
    return list(dict.fromkeys(space.decode(rows)))[:count]


def _differences(space: Space, base: IntArray, names: Sequence[str], cost: Exact) -> dict[str, dict[str, float]]:
    """What every option of a layer costs beside its last one, all others at their last."""
    columns = {choice.name: column for column, choice in enumerate(space.choices)}
    places = [(name, index) for name in names for index in range(len(space[name].options))]
    rows = np.repeat(base[None], len(places) + 1, axis=0)
    for row, (name, index) in zip(rows[1:], places, strict=True):
        row[columns[name]] = index
    values: FloatArray = cost(space.canonical(rows))
    found: dict[str, dict[str, float]] = {}
    for (name, index), value in zip(places, values[1:], strict=True):
        found.setdefault(name, {})[str(space[name].options[index])] = float(value - values[0])
    return found


def _ends(differences: Mapping[str, Mapping[str, float]]) -> tuple[float, float]:
    """The least and the largest sum of one option a layer."""
    return (
        sum(min(options.values()) for options in differences.values()),
        sum(max(options.values()) for options in differences.values()),
    )


def _with_policy(space: Space, base: IntArray, policy: Mapping[str, str]) -> IntArray:
    row = base.copy()
    for column, choice in enumerate(space.choices):
        if choice.name in policy:
            row[column] = choice.index(policy[choice.name])
    return row


def _narrowed(space: Space, row: IntArray, share: float) -> IntArray:
    """The same precisions with every choice of the architecture at a share of its range."""
    narrow = row.copy()
    for column, choice in enumerate(space.choices):
        if not is_precision(choice.name):
            narrow[column] = round(share * (len(choice.options) - 1))
    return narrow
