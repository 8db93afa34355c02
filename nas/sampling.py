"""Which sub-networks a training step of a super-network trains, beside the full network that every step trains."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nas.seeds import generator
from search_spaces import Candidate, Space

_PURPOSE = "candidates"


class Sampling(Protocol):
    """Draws the sub-networks of every step.

    What is drawn follows from the settings, the step and what was observed at earlier steps, and from nothing else, so
    that all processes draw alike and a resumed run draws as one never killed.
    """

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
