"""When the training of a layer ends because older layers did far better.

A layer is trained in one network after the other, the cheapest first. After each, its accuracy is compared with those
of the layers before it in the same network: what is below a low quantile of them is not trained in the others. Only
results that the proposal of the layer saw count, so the outcome is the same for any number of workers.

Layers that were stopped keep the accuracies that they reached, and these count as well. If they did not, each bound
would be a quantile of what passed the last one, and would rise for ever.

A layer that is as good as the best known one in a network before is not stopped: whatever follows, it is on the front.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from nas.evolving.verdict import score_name
from nas.searching.measurement import Measurement
from search_spaces.graphs import LayerGraph

__all__ = ["REACHED", "Behind", "Standing", "Standings", "behind"]

REACHED = "reached"
"""Among the extras of a layer that was stopped: its accuracies by the name of the network."""


@dataclass(frozen=True)
class Standing:
    """What older layers reached in one network.

    Args:
        bound: an accuracy (0..1) below which a layer is stopped.
        best: the best of them.
    """

    bound: float
    best: float


Standings = Mapping[str, Standing]
"""By the name of the network; without those in which too few layers were trained."""


@dataclass(frozen=True)
class Behind:
    """The standings that a layer is compared with: the context of its evaluation.

    Args:
        networks: their names.
        share: of older layers that lie below the bound, 0..1; 0: nothing is stopped.
        least: as many layers must have been trained in a network before anything is stopped in it.
        window: as many of the latest layers of a network count.
    """

    networks: tuple[str, ...]
    share: float
    least: int
    window: int

    def __call__(self, seen: Sequence[Measurement[LayerGraph]]) -> dict[str, Standing]:
        """The standings by all results that a proposal saw, in order."""
        if self.share == 0:
            return {}
        latest = {name: list(islice(_reached(seen, name), self.window)) for name in self.networks}
        return {
            # One of the accuracies, so that no more than the share of them lie below it.
            name: Standing(float(np.quantile(found, self.share, method="lower")), max(found))
            for name, found in latest.items()
            if len(found) >= self.least
        }


def _reached(seen: Sequence[Measurement[LayerGraph]], name: str) -> Iterator[float]:
    """The accuracies in a network, the latest first."""
    for each in reversed(seen):
        found = each.values.get(score_name(name), each.extras.get(REACHED, {}).get(name))
        if found is not None:
            yield found


def behind(accuracies: Mapping[str, float], standings: Standings) -> str | None:
    """Why a layer is stopped after the last of these networks, None where it goes on.

    Args:
        accuracies: of the layer (0..1) by the name of the network, in the order in which it was trained in them.
        standings: of the layers before it.
    """
    *before, last = accuracies
    here = standings.get(last)
    if here is None or accuracies[last] >= here.bound:
        return None
    if any(name in standings and accuracies[name] >= standings[name].best for name in before):
        return None
    return f"{accuracies[last]:.1%} of the rows are right in {last}, most layers before have {here.bound:.1%} or more"
