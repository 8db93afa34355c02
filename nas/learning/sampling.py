"""Strategies to draw the sub-networks of a training step; the full network is trained in each step in addition.

`Uniform` is that of the InstaTune paper, `Sandwich` adds the smallest sub-network, and `Pareto` learns during the
training which sub-networks are near the front of loss and cost.
"""

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
    """Draws the sub-networks of each step.

    The draws depend on the settings, the step and the losses observed at earlier steps only. So all processes draw the
    same sub-networks, and a resumed run draws the same as one that was not interrupted.
    """

    @property
    def learns(self) -> bool:
        """Whether `observe` has any effect."""

    def draw(self, step: int) -> list[Candidate]:
        """Draw the sub-networks of a step (from 1), without the full network."""

    def observe(self, step: int, candidates: Sequence[Candidate], losses: Sequence[float]) -> None:
        """Record the losses of sub-networks.

        Args:
            step: number of the step.
            candidates: the sub-networks.
            losses: loss of each sub-network minus that of the full network on the same rows; equal on all processes.
        """

    def state(self) -> dict[str, Any]:
        """Everything learned so far as JSON values."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set the state to one that `state` returned."""


@dataclass(frozen=True)
class Uniform:
    """Draws each choice of each block independently and uniformly (InstaTune, arXiv 2308.15609, section 3.1).

    Args:
        space: the space of the sub-networks.
        samples: sub-networks per step, at least 0.
        seed: seed of the draws.
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
        """See `Sampling`; has no effect."""

    def state(self) -> dict[str, Any]:
        """See `Sampling`; always empty."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Sampling`; has no effect."""


@dataclass(frozen=True)
class Sandwich(Uniform):
    """Draws the smallest sub-network and `samples` random ones (the sandwich rule, arXiv 1903.05134, section 3.1).

    Together with the full network, both ends of the space are trained in each step.
    """

    def draw(self, step: int) -> list[Candidate]:
        """See `Sampling`."""
        return [self.space.smallest(), *super().draw(step)]


@dataclass(frozen=True)
class ParetoSettings:
    """Settings of `Pareto`.

    Args:
        uniform_share: share (0..1) of the draws that stays uniform, so that no part of the space is neglected.
        proposals: random candidates from which one is chosen, at least 1; more proposals make the choice stricter.
        least: observations before the first fit, at least 2; draws are uniform until then.
        refit_every: steps between two fits, at least 1.
        window: number of newest observations used for a fit, at least `least`; older ones describe older weights.

    Raises:
        UserError: a setting is out of its range.
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
    """Prefers sub-networks near the predicted Pareto front of loss and cost.

    From random candidates, one is drawn uniformly from those that no other dominates in predicted loss and cost. The
    prediction is a ridge regression on recently observed losses. Each of them is the difference from the full network's
    loss on the same rows, which makes easy and hard batches comparable.

    Source: "best-up" sampling of AttentiveNAS (arXiv 2011.09011, section 3). Differs: the paper draws a target cost and
    takes the best of the candidates near it, where the front of random candidates covers all costs at once here; and
    the predictor is fitted during the training instead of before.

    Args:
        space: the space of the sub-networks.
        costs: encoded candidates (n, k) -> cost (n,), e.g. multiply-accumulates.
        samples: sub-networks per step, at least 0.
        seed: seed of the draws.
        settings: further settings.
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
        """See `Sampling`; further calls for the same step return the same sub-networks."""
        # A step with gradient accumulation draws once per part, and the parts must train the same sub-networks although
        # the losses of the earlier parts were observed in the meantime.
        if self._drawn is None or self._drawn[0] != step:
            # Fitting costs more than a draw, and the predictor need not follow each step.
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
        """Fit the predictor to the first `count` observations; later ones came after the fit that is to be repeated."""
        self._fitted = count
        if count:
            encoded = np.array(self._encoded[:count], dtype=np.int64)
            self._predictor = Ridge().fit(self.space.features(encoded), self._losses[:count])

    def _one(self, rng: np.random.Generator) -> Candidate:
        if self._predictor is None or rng.random() < self.settings.uniform_share:
            return self.space.sample(rng)
        encoded = self.space.random(self.settings.proposals, rng)
        # One member of the front at random: always taking the best of some weighting would train few sizes only.
        loss, _ = self._predictor.predict(self.space.features(encoded))
        best = np.flatnonzero(front(np.stack([loss, self.costs(encoded)], axis=1)))
        return self.space.decode(encoded[[rng.choice(best)]])[0]

    def observe(self, step: int, candidates: Sequence[Candidate], losses: Sequence[float]) -> None:
        """See `Sampling`; losses that are not finite are left out."""
        known = [(candidate, loss) for candidate, loss in zip(candidates, losses, strict=True) if math.isfinite(loss)]
        self._encoded += self.space.encode([candidate for candidate, _ in known]).tolist()
        self._losses += [float(loss) for _, loss in known]

    def state(self) -> dict[str, Any]:
        """See `Sampling`: the observations, how many of them the last fit used, and the step of that fit."""
        return {
            "encoded": [list(row) for row in self._encoded],
            "losses": list(self._losses),
            "fitted": self._fitted,
            "fitted_at": self._fitted_at,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `Sampling`; the predictor is fitted again to the same observations instead of being stored."""
        self._encoded = [[int(index) for index in row] for row in state["encoded"]]
        self._losses = [float(loss) for loss in state["losses"]]
        self._fitted_at, self._predictor, self._drawn = int(state["fitted_at"]), None, None
        self._fit(int(state["fitted"]))
