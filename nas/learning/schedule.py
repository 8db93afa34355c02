"""How the learning rate falls from its peak, after the steps in which it warms up."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Linear:
    """The same amount less at every step; it would be zero at the step after the last."""

    def rate(self, peak: float, step: int, steps: int) -> float:
        """Learning rate of a step (1 .. steps); that of the first is the peak."""
        return peak * (steps - step + 1) / steps


@dataclass(frozen=True)
class Cosine:
    """Half a period of a cosine (arXiv 1608.03983, without restarts); it would be zero at the step after the last."""

    def rate(self, peak: float, step: int, steps: int) -> float:
        """Learning rate of a step (1 .. steps); that of the first is the peak."""
        return peak * (1 + math.cos(math.pi * (step - 1) / steps)) / 2


Schedule = Linear | Cosine
