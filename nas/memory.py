"""Peak memory of a command."""

import resource
import sys


def peak_memory_mib() -> float:
    """Peak resident memory of this process or of its largest finished child, in MiB."""
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    # ru_maxrss is in bytes on macOS and in KiB on Linux.
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
