"""The composition: fine-tune a network into a super-network, search it, export the sub-network chosen.

The public names and their modules are listed once, in the type stub beside this file. A name is looked up when it is
first used, so that `nas --help` and `nas doctor` start without the large libraries.
"""

import ast
from importlib import import_module
from pathlib import Path
from typing import Any

_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
_MODULES = {
    str(alias.asname): str(node.module)
    for node in _STUB.body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'nas' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
