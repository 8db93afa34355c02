"""The memory that a command needed."""

import resource
import sys


def peak_memory_mib() -> float:
    """The largest resident memory of this process or any of its children, in MiB."""
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
