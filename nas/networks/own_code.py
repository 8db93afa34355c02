"""Import a function that the user names on the command line as `module:function`.

Importing runs the user's code, so the name comes from the command line only, never from a file of a run folder.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from nas.errors import UserError

RAISED = (Exception, SystemExit)
"""What the user's code may raise: anything, and `sys.exit` too, which must not end the command in silence."""


@contextmanager
def current_folder() -> Iterator[None]:
    """Context in which modules of the current folder can be imported, as with `python -m`."""
    # The installed command `nas` is a script, for which Python does not add the current folder to the search path.
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def own_function(spec: str) -> Callable[..., Any]:
    """Import the function named by `spec`.

    Args:
        spec: `module:function`; the module is looked for in the current folder first.

    Raises:
        UserError: the name has another form, cannot be imported, or is not callable.
    """
    module_name, _, name = spec.partition(":")
    if not module_name or not name:
        raise UserError(f"a function of your own is named as module:function, got {spec!r}")
    try:
        with current_folder():
            function = getattr(import_module(module_name), name)
    except RAISED as error:
        # --debug shows the traceback.
        raise UserError(f"{spec} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise UserError(f"{spec} must be a function, it is {type(function).__name__}")
    return function  # type: ignore[no-any-return]
