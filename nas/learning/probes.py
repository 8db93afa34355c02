"""How the largest, the smallest and some fixed random sub-networks do on validation rows during the fine-tuning."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hardware.inputs import device_of
from nas.data.accuracy import predict
from nas.data.split import Split
from nas.networks.recalibration import SubNetworks
from nas.seeds import generator
from search_spaces import Candidate, Supernet

_RANDOM = 3


@dataclass(frozen=True)
class Probe:
    """Scores of some sub-networks on the validation rows after `step`: the metric of the task, higher is better."""

    step: int
    largest: float
    smallest: float
    random: tuple[float, ...]

    @property
    def scores(self) -> tuple[float, ...]:
        """All of them: largest, smallest, random ones."""
        return (self.largest, self.smallest, *self.random)

    @property
    def score(self) -> float:
        """The mean of the largest network's score and the mean of all other ones'."""
        others = self.scores[1:]
        return (self.largest + sum(others) / len(others)) / 2


class Probes:
    """Scores the same sub-networks whenever asked, and keeps what it found.

    Args:
        supernet: while it is trained.
        train: training rows, for batch norms, whose statistics are measured anew for every score.
        validation: rows to score on.
        seed: of the random sub-networks.
    """

    def __init__(self, supernet: Supernet, train: Split, validation: Split, seed: int) -> None:
        self._supernet, self._validation = supernet, validation
        self._networks = SubNetworks(supernet, train, seed)
        rng, space = generator(seed, "probes"), supernet.space
        self._candidates = [space.largest(), space.smallest(), *(space.sample(rng) for _ in range(_RANDOM))]
        self._found: dict[int, Probe] = {}

    @property
    def found(self) -> tuple[Probe, ...]:
        """All of them, by step."""
        return tuple(self._found[step] for step in sorted(self._found))

    def __call__(self, step: int) -> float:
        """Score the super-network as it is after `step`, in evaluation mode; returns `Probe.score`."""
        largest, smallest, *others = (self._score(candidate) for candidate in self._candidates)
        self._found[step] = Probe(step, largest, smallest, tuple(others))
        return self._found[step].score

    def _score(self, candidate: Candidate) -> float:
        forward = self._networks.forward(candidate)
        logits = predict(forward, self._validation, device=device_of(self._supernet))
        return self._validation.task.score(logits, self._validation)

    def state(self) -> dict[str, Any]:
        """All that was found, as JSON values, which have no NaN."""
        return {"probes": [[probe.step, *map(_plain, probe.scores)] for probe in self.found]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state` gave."""
        self._found = {}
        for step, *scores in state["probes"]:
            largest, smallest, *others = (math.nan if score is None else float(score) for score in scores)
            self._found[int(step)] = Probe(int(step), largest, smallest, tuple(others))


def _plain(score: float) -> float | None:
    return score if math.isfinite(score) else None
