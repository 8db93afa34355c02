"""How the largest, the smallest and some fixed random sub-networks do on validation rows during the fine-tuning."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from nas.accuracy import predict
from nas.seeds import generator
from nas.split import Split
from search_spaces import Candidate, Supernet, recalibrate

_RANDOM, _ROWS, _BATCH = 3, 512, 64


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

    Sub-networks of networks with batch norms are scored with statistics measured anew on training rows, the largest
    one with those of its training.
    """

    def __init__(self, supernet: Supernet, train: Split, validation: Split, seed: int) -> None:
        self._supernet, self._train, self._validation, self._seed = supernet, train, validation, seed
        rng = generator(seed, "probes")
        space = supernet.space
        self._candidates = [space.largest(), space.smallest(), *(space.sample(rng) for _ in range(_RANDOM))]
        self._norms = any(
            isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
            for module in supernet.modules()
        )
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
        supernet, validation = self._supernet, self._validation
        device = next(supernet.parameters()).device
        if self._norms and candidate != self._candidates[0]:
            buffers = recalibrate(supernet, candidate, self._batches(device))
            forward: Any = supernet.extract(candidate, buffers).eval()
        else:
            forward = lambda **batch: supernet(candidate, **batch)  # noqa: E731
        return validation.task.score(predict(forward, validation, device=device), validation)

    def _batches(self, device: Any) -> list[dict[str, Tensor]]:
        """Training rows to measure statistics on, always the same ones."""
        rows = generator(self._seed, "probes recalibration").permutation(len(self._train))[:_ROWS]
        # Of equal size, up to one row: batch norms cannot work on a batch of one.
        parts = np.array_split(rows, -(-len(rows) // _BATCH))
        return [{name: tensor.to(device) for name, tensor in self._train.batch(part).items()} for part in parts]

    def state(self) -> dict[str, Any]:
        """All that was found, as JSON values, which have no NaN."""
        return {"probes": [[probe.step, *map(_plain, probe.scores)] for probe in self.found]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state` gave."""
        for step, *scores in state["probes"]:
            largest, smallest, *others = (math.nan if score is None else float(score) for score in scores)
            self._found[int(step)] = Probe(int(step), largest, smallest, tuple(others))


def _plain(score: float) -> float | None:
    return score if math.isfinite(score) else None
