"""What the operating system counts besides time: largest memory of the process, energy of the processor."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


def peak_memory_mib() -> float | None:
    """Largest resident memory of this process since it began, in MiB; None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2**20 if sys.platform == "darwin" else 2**10)


@dataclass(frozen=True)
class _Zone:
    """One processor package: the file of its counter in microjoules, and where that begins again from 0."""

    counter: Path
    wraps_at: int

    def read(self) -> int:
        return int(self.counter.read_text(encoding="ascii"))


def energy_meter(root: Path = POWERCAP) -> Callable[[], Callable[[], float]] | None:
    """A stop watch of energy by RAPL: calling it starts, calling what it gives says the millijoules since.

    Counts every package of the machine as a whole, idle power and other processes included.

    Args:
        root: the folder of powercap zones.

    Returns:
        None where there are no counters, or they may not be read (most systems let only root).
    """
    zones = []
    try:
        for folder in sorted(root.glob("intel-rapl:*")):
            if folder.name.count(":") != 1:
                continue  # cores and memory of a package are parts of it
            wraps_at = int((folder / "max_energy_range_uj").read_text(encoding="ascii"))
            zones.append(_Zone(folder / "energy_uj", wraps_at))
            zones[-1].read()
    except (OSError, ValueError):
        return None
    return (lambda: _started(tuple(zones))) if zones else None


def _started(zones: tuple[_Zone, ...]) -> Callable[[], float]:
    before = [zone.read() for zone in zones]

    def millijoules() -> float:
        passed = [
            # The counter begins again at its end, so a smaller value has passed it once.
            after - start if after >= start else after - start + zone.wraps_at
            for zone, start, after in zip(zones, before, [zone.read() for zone in zones], strict=True)
        ]
        return sum(passed) / 1000

    return millijoules
