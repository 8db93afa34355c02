"""What a layer is worth: tests that reject it, and its accuracy in each network after a training.

The tests go from the cheapest to the dearest and stop at the first that rejects: no training, a hundred steps in one
network after the other, gradient ascent. What is left is trained for longer in all networks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas.data.rows import Rows
from nas.evolving.anchors import Network
from nas.evolving.config import EvoNormConfig
from nas.evolving.quality import quality
from nas.evolving.rejection import tested
from nas.evolving.verdict import Verdict
from nas.learning.training_config import TrainingConfig
from nas.searching.measurement import Evaluated
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

    def __call__(self, graphs: Sequence[LayerGraph]) -> Evaluated:
        """Accuracies (n, networks), NaN for layers that a test rejects; which test and why is kept beside them."""
        found = [self.tried(graph) for graph in graphs]
        values = [
            [each.measured.get(_accuracy(name), math.nan) if each.accepted else math.nan for name in self.networks]
            for each in found
        ]
        return Evaluated(values, [_extras(graph, each) for graph, each in zip(graphs, found, strict=True)])

    def tried(self, graph: LayerGraph) -> Verdict:
        """All tests of a layer, and its accuracies where none rejects it; a function of the layer alone."""
        config = self.config
        verdict = tested(graph, self.networks, self.train, self.validation, seed=config.seed, config=config.rejection)
        if not verdict.accepted or config.proxy.identity() == config.rejection.training.identity():
            return verdict
        return self._trained(graph, config.proxy, config.rejection.least_accuracy).after(verdict)

    def longer(self, graph: LayerGraph) -> Verdict:
        """The accuracies of a layer after the longer training of the end."""
        return self._trained(graph, self.config.longer, 0.0)

    def _trained(self, graph: LayerGraph, training: TrainingConfig, least: float) -> Verdict:
        return quality(
            graph,
            self.networks,
            self.train,
            self.validation,
            seed=self.config.seed,
            groups=self.config.rejection.groups,
            training=training,
            least_accuracy=least,
        )


def accuracies(verdict: Verdict, names: Sequence[str]) -> list[float]:
    """The accuracy in each network, NaN where there is none."""
    return [verdict.measured.get(_accuracy(name), math.nan) for name in names]


def _accuracy(name: str) -> str:
    return f"accuracy {name}"


def _extras(graph: LayerGraph, verdict: Verdict) -> dict[str, Any]:
    said = {"formula": graph.formula()[:500], "steps": verdict.steps}
    return said if verdict.accepted else {**said, "rejected_by": verdict.rejected_by, "reason": verdict.reason}
