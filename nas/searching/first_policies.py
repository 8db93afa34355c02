"""LINAS that begins with joint candidates that sensitivities propose.

A search over precisions alone can be solved without measuring anything, if errors add up: choose for every layer the
precision such that the sum of the scores is least and the cost within a budget (as NVIDIA's AutoQuantize does). That
is a good start of a joint search, for the full network and, with the same precisions, for narrower ones.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Unpack

import numpy as np
from torch import Tensor

from hardware.inputs import device_of, map_inputs
from nas.networks.quantized import QuantizedNetworks
from nas.networks.sensitivity import sensitivities
from nas.objectives import is_latency
from nas.searching.knapsack import knapsack
from nas.searching.linas import LinasConfig, linas
from nas.searching.measurement import Evaluate, Exact, Objective, Staged
from nas.searching.pace import recorded_identity
from nas.searching.storage_address import Storage
from nas.searching.study import Running, Study
from nas.seeds import generator
from search_spaces import Candidate, Space
from search_spaces.arrays import FloatArray, IntArray
from search_spaces.inputs import Inputs
from search_spaces.quantization import PRECISIONS, choices_of, is_precision

Scores = Mapping[str, Mapping[str, float]]
"""By the name of a choice of precision and its option: by how much the loss rises, see `nas.networks.sensitivity`."""

_NARROWER = (0.75, 0.5)
"""Shares of the range of every choice of the architecture, between smallest and full."""
_ROWS, _BATCH = 128, 16
"""Training rows whose gradients weigh the errors, and rows a pass."""


@dataclass(frozen=True)
class StartedLinas:
    """LINAS whose first candidates are those of `first_policies`; an algorithm for `nas.search`.

    Args:
        networks: the quantized networks of the search; their training rows give the gradients of the loss.
        count: how many candidates are proposed at most.
        config: the settings of LINAS.
    """

    networks: QuantizedNetworks
    count: int = 6
    config: LinasConfig = field(default_factory=LinasConfig)

    def __call__(
        self,
        space: Space,
        evaluate: Evaluate | Staged,
        objectives: Sequence[Objective],
        *,
        budget: int,
        seed: int,
        **running: Unpack[Running],
    ) -> Study:
        """Search as `linas` does; a study that was begun goes on with the candidates that it has recorded."""
        starts = _recorded_starts(running.get("storage"))
        if starts is None:
            scores = layer_scores(self.networks, space, seed)
            found = first_policies(space, scores, _cost(space, objectives), self.count)
            starts = tuple(tuple(map(int, row)) for row in space.encode(found))
        config = replace(self.config, starts=starts)
        return linas(space, evaluate, objectives, budget=budget, seed=seed, config=config, **running)


def _recorded_starts(storage: Storage | None) -> tuple[tuple[int, ...], ...] | None:
    """The first candidates of a study as it has them; None where there is no study, or it has none."""
    config = recorded_identity(storage).get("config")
    rows = config.get("starts") if isinstance(config, Mapping) else None
    # Another number of threads may change the last digits of scores, and so which candidates are proposed.
    return tuple(tuple(int(index) for index in row) for row in rows) if isinstance(rows, list) else None


def layer_scores(networks: QuantizedNetworks, space: Space, seed: int) -> Scores:
    """By how much the loss of the full network rises with every option of a choice of precision, by their names."""
    full, train = space.full(), networks.train
    module = networks.extract(full)
    rows = generator(seed, "sensitivities").permutation(len(train))[:_ROWS]
    # Rows of similar length share a batch, which saves padding.
    rows = rows[np.argsort(train.inputs.lengths[rows], kind="stable")]
    device = device_of(module)

    def batches() -> Iterator[tuple[Inputs, Tensor]]:
        for part in np.array_split(rows, -(-len(rows) // _BATCH)):
            yield map_inputs(dict(train.batch(part)), lambda value: value.to(device)), train.targets(part).to(device)

    options = {choice.name: {str(option) for option in choice.options} for choice in space.choices}
    names = choices_of(module)
    wanted = set().union(*(options.get(name, set()) for name in names.values()))
    precisions = [each for each in PRECISIONS if each in wanted]
    found = sensitivities(module, batches(), train.task.loss, networks.ranges(full), precisions)
    return {
        names[path]: {option: score for option, score in scores.items() if option in options[names[path]]}
        for path, scores in found.items()
        if names.get(path) in options
    }


def _cost(space: Space, objectives: Sequence[Objective]) -> Exact:
    """A cost that depends on precisions: a latency or size with a formula, else the sum of the options' positions."""
    known = [o.exact for o in objectives if o.exact is not None and (is_latency(o.name) or o.name == "size_mib")]
    columns = [column for column, choice in enumerate(space.choices) if is_precision(choice.name)]
    return known[0] if known else lambda encoded: encoded[:, columns].sum(axis=1).astype(np.float64)


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
