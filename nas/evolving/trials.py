"""What a layer is worth: tests that reject it, and its accuracy in each network after a training.

The tests go from the cheapest to the dearest and stop at the first that rejects: no training, a hundred steps in one
network after the other, gradient ascent. What is left is trained for longer in all networks.

Layers that compute the same function are trained once: results are kept by the fingerprint of the function. Trainings
depend on the layer and the seed alone, so whether a result was kept has no influence on it.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nas.data.rows import Rows
from nas.evolving.anchors import Network
from nas.evolving.config import EvoNormConfig
from nas.evolving.quality import quality
from nas.evolving.rejection import tested
from nas.evolving.verdict import Verdict
from nas.files import read_json, write_json_atomic
from nas.learning.training_config import TrainingConfig
from nas.searching.measurement import Evaluated
from search_spaces.graphs import LayerGraph, fingerprint


@dataclass(frozen=True)
class LayerTrials:
    """The evaluation of layers, for a search; a plain object that workers receive.

    Args:
        networks: by name, the cheapest first.
        train: training rows.
        validation: rows that accuracies are of.
        config: the settings.
        folder: where results are kept by fingerprint; None: nowhere.
    """

    networks: Mapping[str, Network]
    train: Rows
    validation: Rows
    config: EvoNormConfig
    folder: Path | None = None

    def __call__(self, graphs: Sequence[LayerGraph]) -> Evaluated:
        """Accuracies (n, networks), NaN for layers that a test rejects; which test and why is kept beside them."""
        found = [self.tried(graph) for graph in graphs]
        values = [
            [each.measured.get(_accuracy(name), math.nan) if each.accepted else math.nan for name in self.networks]
            for each in found
        ]
        return Evaluated(values, [_extras(graph, each) for graph, each in zip(graphs, found, strict=True)])

    def tried(self, graph: LayerGraph) -> Verdict:
        """All tests of a layer, and its accuracies where none rejects it; at once where an equal one was tried."""
        if self.folder is None:
            return self._tried(graph)
        path = self.folder / f"{self._kept_as(graph)}.json"
        kept = _read(path)
        if kept is None:
            kept = self._tried(graph)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json_atomic(path, _written(kept))
            return kept
        return replace(kept, steps=0)

    def _kept_as(self, graph: LayerGraph) -> str:
        settings = json.dumps([fingerprint(graph), self.config.identity(), list(self.networks)], sort_keys=True)
        return hashlib.sha256(settings.encode()).hexdigest()[:32]

    def _tried(self, graph: LayerGraph) -> Verdict:
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


def _written(verdict: Verdict) -> dict[str, Any]:
    return {
        "rejected_by": verdict.rejected_by,
        "reason": verdict.reason,
        "measured": {name: value for name, value in verdict.measured.items() if math.isfinite(value)},
        "steps": verdict.steps,
    }


def _read(path: Path) -> Verdict | None:
    """What was kept; None where nothing was, or what is there cannot be read, so that it is tried anew."""
    try:
        data = read_json(path)
        measured = {str(name): float(value) for name, value in data["measured"].items()}
        rejected = data["rejected_by"]
        if rejected not in (None, "usable", "quality", "stability"):
            return None
        return Verdict(rejected, str(data["reason"]), measured, int(data["steps"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
