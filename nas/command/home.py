"""A home folder and a user's name where the system gives none, as in a container that runs as a bare number.

Libraries look for both, some of them while they are imported, and say of their absence what leads nowhere.
"""

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from nas.console import say


@contextmanager
def home() -> Iterator[None]:
    """Context in which this process has a home folder, a temporary one if need be, and its user a name."""
    try:
        getpass.getuser()
    except (OSError, KeyError):
        os.environ["LOGNAME"] = f"user-{os.getuid()}"
    try:
        Path.home()
    except RuntimeError:
        with TemporaryDirectory(prefix="nas-home-", ignore_cleanup_errors=True) as folder:
            os.environ["HOME"] = folder
            say("This user has no home folder, so that what is fetched is fetched again the next time; set HOME")
            try:
                yield
            finally:
                del os.environ["HOME"]
        return
    yield
