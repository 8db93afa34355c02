"""Temporarily silence libraries that log or show progress bars while they load."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def quiet(
    loggers: Sequence[str], shown: Callable[[], bool], hide: Callable[[], None], show: Callable[[], None]
) -> Iterator[None]:
    """Suppress log messages and progress bars inside the context; both are restored afterwards.

    Args:
        loggers: names of the loggers to suppress.
        shown: returns whether the library shows progress bars now.
        hide: turns progress bars off.
        show: turns progress bars on.
    """
    logs, bars = [logging.getLogger(name) for name in loggers], shown()
    levels = [log.level for log in logs]
    hide()
    for log in logs:
        log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
        if bars:
            show()
