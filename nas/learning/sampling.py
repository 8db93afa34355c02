"""Which sub-networks a training step of a super-network trains, beside the full network that every step trains."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np

from nas.errors import UserError
from nas.searching.pareto import front
from nas.seeds import generator
from predictors import Ridge
from search_spaces import Candidate, Space
from search_spaces.arrays import FloatArray, IntArray

_PURPOSE = "candidates"


class Sampling(Protocol):
    """Draws the sub-networks of every step.

    What is drawn follows from the settings, the step and what was observed at earlier steps, and from nothing else, so
    that all processes draw alike and a resumed run draws as one never killed.
    """

    @property
    def learns(self) -> bool:
        """Whether `observe` has any effect."""

    def draw(self, step: int) -> list[Candidate]:
        """The sub-networks of a step (from 1), without the full network."""

    def observe(self, step: int, candidates: Sequence[Candidate], losses: Sequence[float]) -> None:
        """Be told how much higher each sub-network's loss is than that of the full network on the same rows.

        The losses must be equal on all processes.
        """

    def state(self) -> dict[str, Any]:
        """All that was learned so far, as JSON values."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state` gave."""


@dataclass(frozen=True)
class Uniform:
    """Every choice of every block on its own, uniform over its options (InstaTune, arXiv 2308.15609, section 3.1).

    Args:
        space: of the sub-networks.
        samples: sub-networks a step, at least 0.
        seed: of the draws.
    """

    space: Space
    samples: int = 1
    seed: int = 0
    learns: ClassVar[bool] = False

    def draw(self, step: int) -> list[Candidate]:
        """See `Sampling`."""
        rng = generator(self.seed, _PURPOSE, step)
        return [self.space.sample(rng) for _ in range(self.samples)]

    def observe(self, step: int, candidates: Sequence[Candidate], losses: Sequence[float]) -> None:
        """See `Sampling`: nothing is learned."""

    def state(self) -> dict[str, Any]:
        """See `Sampling`: nothing."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Sampling`: nothing."""


@dataclass(frozen=True)
class Sandwich(Uniform):
    """The smallest sub-network, then `samples` random ones (the sandwich rule, arXiv 1903.05134, section 3.1).

    With the full network, which every step trains, both ends of the space are trained at every step.
    """

    def draw(self, step: int) -> list[Candidate]:
        """See `Sampling`."""
        return [self.space.smallest(), *super().draw(step)]


@dataclass(frozen=True)
class ParetoSettings:
    """How `Pareto` draws.

    Args:
        uniform_share: part of the draws, 0..1, that stays uniform, so that no sub-network is forgotten.
        proposals: random candidates of which one is taken, at least 1; more of them ask for more of it.
        least: observations before the first fit, at least 2; uniform until then.
        refit_every: steps from one fit to the next, at least 1.
        window: newest observations that a fit learns from, at least `least`: older ones tell of older weights.
    """

    uniform_share: float = 0.25
    proposals: int = 64
    least: int = 64
    refit_every: int = 25
    window: int = 512

    def __post_init__(self) -> None:
        if not 0 <= self.uniform_share <= 1:
            raise UserError(f"uniform_share must be from 0 to 1, got {self.uniform_share}")
        for name, bound in (("proposals", 1), ("least", 2), ("refit_every", 1), ("window", self.least)):
            if getattr(self, name) < bound:
                raise UserError(f"{name} must be at least {bound}, got {getattr(self, name)}")


@dataclass
class Pareto:
    """More often sub-networks near the predicted Pareto front of loss against cost.

    Of some random candidates one of those is taken, at random, that no other beats in both the predicted loss and the
    cost. The prediction is a ridge regression on the losses observed lately, each less the full network's loss on the
    same rows, so that easy and hard batches compare.

    Source: "best-up" sampling of AttentiveNAS (arXiv 2011.09011, section 3). Differs: there a target cost is drawn and
    the best of the candidates near it is taken; here the front of the random candidates stands for all costs at once,
    and the predictor learns during the training instead of before.

    Args:
        space: of the sub-networks.
        costs: encoded candidates (n, k) -> cost (n,), e.g. multiply-accumulates.
        samples: sub-networks a step, at least 0.
        seed: of the draws.
        settings: how to draw.
    """

    space: Space
    costs: Callable[[IntArray], FloatArray]
    samples: int = 1
    seed: int = 0
    settings: ParetoSettings = ParetoSettings()
    learns: ClassVar[bool] = True
    _encoded: list[list[int]] = field(default_factory=list, init=False, repr=False)
    _losses: list[float] = field(default_factory=list, init=False, repr=False)
    _fitted: int = field(default=0, init=False, repr=False)
    _fitted_at: int = field(default=0, init=False, repr=False)
    _predictor: Ridge | None = field(default=None, init=False, repr=False)
    _drawn: tuple[int, list[Candidate]] | None = field(default=None, init=False, repr=False)

    def draw(self, step: int) -> list[Candidate]:
        """See `Sampling`; the same when a step asks again, e.g. for the next part of its batch."""
        if self._drawn is None or self._drawn[0] != step:
            due = not self._fitted or step >= self._fitted_at + self.settings.refit_every
            if due and len(self._losses) >= self.settings.least:
                self._encoded = self._encoded[-self.settings.window :]
                self._losses = self._losses[-self.settings.window :]
                self._fitted_at = step
                self._fit(len(self._losses))
            rng = generator(self.seed, _PURPOSE, step)
            self._drawn = step, [self._one(rng) for _ in range(self.samples)]
        return list(self._drawn[1])

    def _fit(self, count: int) -> None:
        self._fitted = count
        if count:
            encoded = np.array(self._encoded[:count], dtype=np.int64)
            self._predictor = Ridge().fit(self.space.features(encoded), self._losses[:count])

    def _one(self, rng: np.random.Generator) -> Candidate:
        if self._predictor is None or rng.random() < self.settings.uniform_share:
            return self.space.sample(rng)
        encoded = self.space.random(self.settings.proposals, rng)
        loss, _ = self._predictor.predict(self.space.features(encoded))
        best = np.flatnonzero(front(np.stack([loss, self.costs(encoded)], axis=1)))
        return self.space.decode(encoded[[rng.choice(best)]])[0]

    def observe(self, step: int, candidates: Sequence[Candidate], losses: Sequence[float]) -> None:
        """See `Sampling`; losses that are not finite are left out."""
        known = [(candidate, loss) for candidate, loss in zip(candidates, losses, strict=True) if math.isfinite(loss)]
        self._encoded += self.space.encode([candidate for candidate, _ in known]).tolist()
        self._losses += [float(loss) for _, loss in known]

    def state(self) -> dict[str, Any]:
        """See `Sampling`: the observations, how many of them are in the last fit, and its step."""
        return {
            "encoded": [list(row) for row in self._encoded],
            "losses": list(self._losses),
            "fitted": self._fitted,
            "fitted_at": self._fitted_at,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Sampling`; the fit is made again from what it was made from."""
        self._encoded = [[int(index) for index in row] for row in state["encoded"]]
        self._losses = [float(loss) for loss in state["losses"]]
        self._fitted_at, self._predictor, self._drawn = int(state["fitted_at"]), None, None
        self._fit(int(state["fitted"]))
