"""Libraries that print while they load: silenced, and put back as they were."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def quiet(
    loggers: Sequence[str], shown: Callable[[], bool], hide: Callable[[], None], show: Callable[[], None]
) -> Iterator[None]:
    """No log lines and no progress bars inside; levels and bars are put back.

    Args:
        loggers: their names.
        shown: whether the library shows progress bars now.
        hide: turns them off.
        show: turns them on.
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
