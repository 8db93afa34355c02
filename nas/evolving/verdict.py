"""What a test says of a layer: accepted, or which test rejects it and why."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Test", "Verdict", "score_name"]

Test = Literal["usable", "propagation", "quality", "stability", "behind"]
"""The tests of a layer: alone, at the initial weights of networks, after some training, under weights that are made to
fail, beside others."""

_SCORE = "accuracy "


def score_name(network: str) -> str:
    """What the accuracy in a network is called among what is measured, and as an objective."""
    return _SCORE + network


@dataclass(frozen=True)
class Verdict:
    """The outcome of one or more tests of a layer.

    Attributes:
        rejected_by: the test that rejects it; None: it is accepted.
        reason: why, in a few words; empty if it is accepted.
        measured: the numbers that were measured, by name. Those that are not finite are left out.
        steps: steps that were taken: of training, of gradient ascent, and one for each first step in a network.
    """

    rejected_by: Test | None = None
    reason: str = ""
    measured: Mapping[str, float] = field(default_factory=dict)
    steps: int = 0

    @property
    def accepted(self) -> bool:
        """Whether no test rejects the layer."""
        return self.rejected_by is None

    @property
    def accuracies(self) -> dict[str, float]:
        """The accuracies that were measured (0..1), by the name of the network."""
        return {name.removeprefix(_SCORE): each for name, each in self.measured.items() if name.startswith(_SCORE)}

    def after(self, before: "Verdict") -> "Verdict":
        """This one with the numbers and steps of the tests before it."""
        return Verdict(self.rejected_by, self.reason, {**before.measured, **self.measured}, before.steps + self.steps)
