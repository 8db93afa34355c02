"""The composition: fine-tune a network into a super-network, search it, export the sub-network chosen.

Names are looked up when first used, so that `nas --help` and `nas doctor` start without the large libraries.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "ImportanceConfig": "nas.learning.importance",
    "InstaTuneConfig": "nas.learning.instatune",
    "LatencySettings": "nas.searching.relative_latency",
    "LinasConfig": "nas.searching.linas",
    "Measurement": "nas.searching.measurement",
    "NoFeasible": "nas.errors",
    "Nsga2Config": "nas.searching.nsga2",
    "Objective": "nas.searching.measurement",
    "Source": "nas.data.reading",
    "Study": "nas.searching.study",
    "UserError": "nas.errors",
    "Workers": "nas.searching.workers",
    "block_order": "nas.learning.block_order",
    "export": "nas.exporting.folder",
    "instatune": "nas.learning.instatune",
    "known_results": "nas.searching.warm_start",
    "linas": "nas.searching.linas",
    "load_data": "nas.data.reading",
    "load_pretrained": "nas.networks.pretrained",
    "load_study": "nas.searching.study",
    "nsga2": "nas.searching.nsga2",
    "order_by_importance": "nas.learning.importance",
    "profile_latency": "nas.profiling.latency",
    "profiled_latency": "nas.profiling.latency",
    "random_search": "nas.searching.random_search",
    "recalibrate": "search_spaces.supernets.recalibration",
    "search": "nas.searching.supernet_search",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nas' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
