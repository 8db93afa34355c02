"""The composition: fine-tune a network into a super-network, search it, export the sub-network chosen.

Names are looked up when first used, so that `nas --help` and `nas doctor` start without the large libraries.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_HOMES = {
    "InstaTuneConfig": "instatune",
    "LinasConfig": "linas",
    "Measurement": "evaluation",
    "NoFeasible": "errors",
    "Objective": "evaluation",
    "Study": "study",
    "UserError": "errors",
    "export": "export",
    "instatune": "instatune",
    "linas": "linas",
    "nsga2": "nsga2",
    "random_search": "random_search",
    "search": "search",
}

__all__ = sorted(_HOMES)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # Importing `nas.linas` binds the sub-module to the name of the function it is named after: keep the function.
        if _HOMES.get(name) == name and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nas' has no attribute {name!r}")
    return getattr(import_module(f"nas.{_HOMES[name]}"), name)
