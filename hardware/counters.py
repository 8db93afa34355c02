"""Counters of the operating system: peak memory of the process and energy of the processor."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


def peak_memory_mib() -> float | None:
    """Peak resident memory of this process since its start, in MiB; None where the system does not report it."""
    try:
        import resource
    except ImportError:
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # ru_maxrss is in bytes on macOS and in KiB on Linux.
    return largest / (2**20 if sys.platform == "darwin" else 2**10)


@dataclass(frozen=True)
class _Zone:
    """The energy counter of one processor package.

    Args:
        counter: file that holds the counter in microjoules.
        wraps_at: value after which the counter restarts at 0.
    """

    counter: Path
    wraps_at: int

    def read(self) -> int:
        return int(self.counter.read_text(encoding="ascii"))


def energy_meter(root: Path = POWERCAP) -> Callable[[], Callable[[], float]] | None:
    """Create a meter of the energy that the processor uses, from the RAPL counters of Linux.

    It measures all packages of the machine, including idle power and other processes.

    Args:
        root: the folder of powercap zones.

    Returns:
        A function that starts a measurement and returns a second function, which gives the millijoules since the
        start. None if there are no counters, or if this user may not read them (most systems allow only root).
    """
    zones = []
    try:
        for folder in sorted(root.glob("intel-rapl:*")):
            if folder.name.count(":") != 1:
                continue  # sub-zones (cores, memory) are included in their package
            wraps_at = int((folder / "max_energy_range_uj").read_text(encoding="ascii"))
            zones.append(_Zone(folder / "energy_uj", wraps_at))
            zones[-1].read()  # an unreadable counter raises here
    except (OSError, ValueError):
        return None
    return (lambda: _started(tuple(zones))) if zones else None


def _started(zones: tuple[_Zone, ...]) -> Callable[[], float]:
    before = [zone.read() for zone in zones]

    def millijoules() -> float:
        passed = [
            # A smaller value than at the start means that the counter has wrapped around once.
            after - start if after >= start else after - start + zone.wraps_at
            for zone, start, after in zip(zones, before, [zone.read() for zone in zones], strict=True)
        ]
        return sum(passed) / 1000

    return millijoules
