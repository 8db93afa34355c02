"""Scores of the full, the smallest and some fixed random sub-networks on validation rows during the fine-tuning."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hardware.inputs import device_of
from nas.bounded import finite
from nas.data.accuracy import predict
from nas.data.split import Split
from nas.networks.recalibration import SubNetworks
from nas.seeds import generator
from search_spaces import Candidate, Space, Supernet

_RANDOM = 3


@dataclass(frozen=True)
class Probe:
    """Scores of some sub-networks on the validation rows after a step: the metric of the task, higher is better.

    Attributes:
        step: number of the step, from 1.
        largest: score of the full network.
        smallest: score of the smallest sub-network.
        random: scores of the random sub-networks, which are the same at each step.
    """

    step: int
    largest: float
    smallest: float
    random: tuple[float, ...]

    @property
    def scores(self) -> tuple[float, ...]:
        """All scores: largest, smallest, random ones."""
        return (self.largest, self.smallest, *self.random)

    @property
    def score(self) -> float:
        """Mean of the score of the full network and the mean score of the sub-networks."""
        # The full network counts as much as all sub-networks together: it is their teacher and the reference.
        others = self.scores[1:]
        return (self.largest + sum(others) / len(others)) / 2


def probed_candidates(space: Space, seed: int) -> list[Candidate]:
    """The sub-networks whose scores a `Probe` holds, in the order of `Probe.scores`."""
    rng = generator(seed, "probes")
    return [space.full(), space.smallest(), *(space.sample(rng) for _ in range(_RANDOM))]


class Probes:
    """Scores the same sub-networks at each call, and stores the results.

    Args:
        supernet: the super-network that is being trained.
        train: training rows on which batch-norm statistics are measured anew for each score.
        validation: rows to score on.
        seed: decides which random sub-networks are scored.
    """

    def __init__(self, supernet: Supernet, train: Split, validation: Split, seed: int) -> None:
        self._supernet, self._validation = supernet, validation
        self._networks = SubNetworks(supernet, train, seed)
        self._candidates = probed_candidates(supernet.space, seed)
        self._found: dict[int, Probe] = {}

    @property
    def found(self) -> tuple[Probe, ...]:
        """All probes in the order of their steps."""
        return tuple(self._found[step] for step in sorted(self._found))

    def __call__(self, step: int) -> float:
        """Score the sub-networks after `step`, with the super-network in evaluation mode; returns `Probe.score`."""
        largest, smallest, *others = (self._score(candidate) for candidate in self._candidates)
        # By step, so that a step that is evaluated again after a resume replaces its probe.
        self._found[step] = Probe(step, largest, smallest, tuple(others))
        return self._found[step].score

    def _score(self, candidate: Candidate) -> float:
        forward = self._networks.forward(candidate)
        logits = predict(forward, self._validation, device=device_of(self._supernet))
        return self._validation.task.score(logits, self._validation)

    def state(self) -> dict[str, Any]:
        """All probes as JSON values; NaN, which JSON lacks, becomes None."""
        return {"probes": [[probe.step, *map(finite, probe.scores)] for probe in self.found]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set the probes to those that `state` returned."""
        self._found = {}
        for step, *scores in state["probes"]:
            largest, smallest, *others = (math.nan if score is None else float(score) for score in scores)
            self._found[int(step)] = Probe(int(step), largest, smallest, tuple(others))
