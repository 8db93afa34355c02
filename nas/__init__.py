"""The composition: fine-tune a network into a super-network, search it, export the sub-network chosen.

Names are looked up when first used, so that `nas --help` and `nas doctor` start without the large libraries.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_HOMES = {
    "InstaTuneConfig": "nas.instatune",
    "LinasConfig": "nas.linas",
    "Measurement": "nas.evaluation",
    "NoFeasible": "nas.errors",
    "Objective": "nas.evaluation",
    "Study": "nas.study",
    "UserError": "nas.errors",
    "export": "nas.export",
    "instatune": "nas.instatune",
    "linas": "nas.linas",
    "nsga2": "nas.nsga2",
    "random_search": "nas.random_search",
    "recalibrate": "search_spaces.recalibration",
    "search": "nas.search",
}

__all__ = sorted(_HOMES)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # Importing `nas.linas` binds the sub-module to the name of the function it is named after: keep the function.
        if _HOMES.get(name) == f"nas.{name}" and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nas' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
