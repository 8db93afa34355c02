"""Code of the user's own, named as module:name on the command line and never by a file."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from nas.errors import UserError


@contextmanager
def current_folder() -> Iterator[None]:
    """The current folder comes first among the places of modules, as with `python -m`."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def own_function(spec: str) -> Callable[..., Any]:
    """The function that `module:name` names; raises UserError where it cannot be imported or is none."""
    place, _, name = spec.partition(":")
    if not place or not name:
        raise UserError(f"a function of your own is named as module:function, got {spec!r}")
    try:
        with current_folder():
            function = getattr(import_module(place), name)
    except Exception as error:
        # The user's module may raise anything; --debug shows where.
        raise UserError(f"{spec} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise UserError(f"{spec} must be a function, it is {type(function).__name__}")
    return function  # type: ignore[no-any-return]
