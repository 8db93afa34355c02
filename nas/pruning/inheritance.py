"""Which channels of the original a pruned sub-network inherits.

The paper (EMO-DIR, arXiv 2303.16212v2) inherits channels at random. Here the random channels follow from the candidate
itself, so that it is the same network whenever it is trained. Differs: `importance` keeps the channels whose removal is
estimated to change the loss most (Molchanov et al., arXiv 1906.10771, equation 8), the loss being that of the feature
detector on the original's features.
"""

import copy
import json
import zlib
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nas.learning.importance import summed_changes
from nas.pruning.boundaries import INPUT, FeatureRows
from nas.seeds import generator
from search_spaces import AxisCut, Candidate, Space, Supernet

Inheritance = Literal["importance", "random"]
_ROWS, _BATCHES = 64, 8


def random_orders(space: Space, candidate: Candidate, seed: int) -> dict[str, Tensor]:
    """By the name of each choice a permutation of its units (units,); it follows from the candidate and the seed."""
    content = zlib.crc32(json.dumps(dict(candidate), sort_keys=True).encode())
    rng = generator(seed, "inheritance", content)
    return {
        choice.name: torch.from_numpy(
            rng.permutation(next(cut.size for cut in choice.cuts if isinstance(cut, AxisCut)))
        )
        for choice in space.choices
    }


def importance_orders(
    module: nn.Module, space: Space, detector: nn.Module, rows: FeatureRows, seed: int
) -> dict[str, Tensor]:
    """By the name of each choice its units (units,), the most important first.

    Args:
        module: the original sub-network.
        space: its choices.
        detector: what follows it, frozen and in evaluation mode.
        rows: training rows.
        seed: decides which rows are used.
    """
    supernet = Supernet(copy.deepcopy(module), space).eval()
    rng = generator(seed, "importance of channels")
    drawn = [rng.permutation(len(rows))[:_ROWS] for _ in range(_BATCHES)]
    losses = (cross_entropy(detector(supernet.model(rows.batch(each)[INPUT])), rows.targets(each)) for each in drawn)
    totals = summed_changes(supernet, losses)
    return {name: torch.argsort(total, descending=True, stable=True) for name, total in totals.items()}


def inherited(module: nn.Module, space: Space, candidate: Candidate, orders: Mapping[str, Tensor]) -> nn.Module:
    """The pruned sub-network with the first channels of each order, as a plain module with its own weights."""
    supernet = Supernet(copy.deepcopy(module), space)
    supernet.reorder(orders)
    return supernet.extract(candidate)
