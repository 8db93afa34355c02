"""What a layer is worth: tests that reject it, and its accuracy in each network after a training.

The tests go from the cheapest to the dearest and stop at the first that rejects: the layer alone, a first step in one
network after the other, a hundred steps likewise, gradient ascent. What is left is trained for longer in one network
after the other, and stopped where it is far behind older layers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nas.data.rows import Rows
from nas.evolving.anchors import Network
from nas.evolving.behind import REACHED, Behind, Standings
from nas.evolving.config import EvoNormConfig
from nas.evolving.quality import quality
from nas.evolving.rejection import tested
from nas.evolving.usable import usable
from nas.evolving.verdict import Verdict, score_name
from nas.learning.training_config import TrainingConfig
from nas.searching.measurement import Evaluated, Measurement
from search_spaces.graphs import LayerGraph


@dataclass(frozen=True)
class LayerTrials:
    """The evaluation of layers, for a search; a plain object that workers receive.

    Args:
        networks: by name, the cheapest first.
        train: training rows.
        validation: rows that accuracies are of.
        config: the settings.
    """

    networks: Mapping[str, Network]
    train: Rows
    validation: Rows
    config: EvoNormConfig

    @property
    def behind(self) -> Behind:
        """What a layer is compared with, as the settings say."""
        config = self.config
        return Behind(tuple(self.networks), config.stop_below, config.stop_after, config.ageing.population)

    def __call__(self, graphs: Sequence[LayerGraph], standings: Standings | None = None) -> Evaluated:
        """Accuracies (n, networks), NaN for layers that a test rejects; which test and why is kept beside them.

        Args:
            graphs: the n layers.
            standings: what older layers reached, for all of them; None: nothing is known of others.
        """
        return self._evaluated(graphs, [self.tried(graph, standings) for graph in graphs])

    def at_once(self, graph: LayerGraph) -> Evaluated | None:
        """What is said of a layer that the test of it alone rejects; None for others."""
        verdict = usable(graph)
        return None if verdict.accepted else self._evaluated([graph], [verdict])

    def _evaluated(self, graphs: Sequence[LayerGraph], verdicts: Sequence[Verdict]) -> Evaluated:
        values = [
            [each.accuracies.get(name, math.nan) if each.accepted else math.nan for name in self.networks]
            for each in verdicts
        ]
        return Evaluated(values, [_extras(graph, each) for graph, each in zip(graphs, verdicts, strict=True)])

    def tried(self, graph: LayerGraph, standings: Standings | None = None) -> Verdict:
        """All tests of a layer, and its accuracies where none rejects it; a function of its arguments alone."""
        config = self.config
        # The few steps may be the training that scores layers.
        once = config.proxy.identity() == config.rejection.training.identity()
        verdict = tested(
            graph,
            self.networks,
            self.train,
            self.validation,
            seed=config.seed,
            config=config.rejection,
            standings=standings if once else None,
        )
        if once or not verdict.accepted:
            return verdict
        # Accuracies after the few steps are not those that layers are compared by.
        scores = {score_name(name) for name in self.networks}
        others = {name: value for name, value in verdict.measured.items() if name not in scores}
        before = replace(verdict, measured=others)
        return self._trained(graph, config.proxy, config.rejection.least_accuracy, standings).after(before)

    def longer(self, graph: LayerGraph) -> Verdict:
        """The accuracies of a layer after the longer training of the end."""
        return self._trained(graph, self.config.longer, 0.0)

    def _trained(
        self, graph: LayerGraph, training: TrainingConfig, least: float, standings: Standings | None = None
    ) -> Verdict:
        return quality(
            graph,
            self.networks,
            self.train,
            self.validation,
            seed=self.config.seed,
            groups=self.config.rejection.groups,
            training=training,
            least_accuracy=least,
            standings=standings,
        )


def shown(measured: Sequence[Measurement[LayerGraph]]) -> dict[str, Any]:
    """What tables of trials show of a layer: its accuracies, what rejected it, its formula, and the steps it took."""
    (each,) = measured
    said = dict(each.extras)
    reached = {score_name(name): value for name, value in said.pop(REACHED, {}).items()}
    return {"state": each.state, **each.values, **reached, **said}


def _extras(graph: LayerGraph, verdict: Verdict) -> dict[str, Any]:
    said: dict[str, Any] = {"formula": graph.formula()[:500], "steps": verdict.steps}
    if verdict.accepted:
        return said
    said |= {"rejected_by": verdict.rejected_by, "reason": verdict.reason}
    if verdict.rejected_by == "behind":
        said[REACHED] = verdict.accuracies
    return said
