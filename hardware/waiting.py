"""Whether calls that were timed had to wait for a processor that other programs used.

A call that gets a processor whenever it wants one takes no more wall time than the process takes CPU time: its threads
compute, or wait for one that does. Wall time beyond that is waiting, and makes latencies too high. With several threads
only the worst of it is seen, because their CPU times add up. What a GPU computes takes no CPU time: such calls are not
to be judged by this.
"""

from collections.abc import Sequence
from typing import Protocol

# Wall time over CPU time from which other programs must be the reason.
_FACTOR = 1.25
# A runtime that computes in a thread of its own wakes it for each call, which takes no CPU time.
_WAKING_MS = 0.1


class Timed(Protocol):
    """What was measured of one callable: a `Latency` or a `Timing`."""

    @property
    def samples(self) -> Sequence[float]:
        """Wall times in milliseconds."""

    @property
    def cpu_ms(self) -> float:
        """Median of the CPU times of these calls, in milliseconds."""


class Waiting:
    """Adds up wall and CPU time of calls on the processor."""

    def __init__(self) -> None:
        self.calls = 0
        self._wall_ms = self._cpu_ms = 0.0

    def add(self, timed: Timed) -> None:
        """Include the calls of one callable."""
        self.calls += len(timed.samples)
        self._wall_ms += sum(timed.samples)
        self._cpu_ms += timed.cpu_ms * len(timed.samples)

    @property
    def factor(self) -> float | None:
        """Wall time over CPU time of all calls; None where they did not wait, or CPU times are not known."""
        if self._cpu_ms <= 0 or self._wall_ms <= _FACTOR * self._cpu_ms + _WAKING_MS * self.calls:
            return None
        return self._wall_ms / self._cpu_ms

    def warning(self, consequence: str) -> str | None:
        """A sentence for people, which ends with what follows for these latencies; None where no call waited."""
        if self.factor is None:
            return None
        return (
            f"Other programs keep this machine busy: measured calls took {self.factor:.1f} times their processor time; "
            f"{consequence}"
        )
