"""Console output for people: progress, messages and tables (the only home of rich).

Progress goes to standard error: as bars in a terminal, otherwise as a plain line from time to time.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from nas.sentences import one_line, printable

Show = Callable[[Mapping[str, Any], TextIO], None]
"""Prints the result of a command for people."""
PLAIN_EVERY_S = 30.0
# Number of last updates from which the remaining time is estimated.
_RECENT = 20


class Bar:
    """Progress of one stage: `with Bar("fine-tuning", total=500) as bar: bar.update(done, "loss 0.41")`."""

    def __init__(self, title: str, total: int, *, stream: TextIO | None = None) -> None:
        self._title, self._total = one_line(title), total
        self._stream = sys.stderr if stream is None else stream
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._started = self._printed = time.monotonic()
        self._last = self._shown = (0, "")
        self._recent: deque[tuple[float, int]] = deque(maxlen=_RECENT)

    def __enter__(self) -> "Bar":
        if self._stream.isatty():
            columns = (
                TextColumn("{task.description}", style="bold", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}", markup=False),
                TimeRemainingColumn(elapsed_when_finished=True),
            )
            self._progress = Progress(*columns, console=_console(self._stream))
            self._task = self._progress.add_task(self._title, total=self._total, figures="")
            self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._progress is not None:
            self._progress.stop()
        elif self._last != self._shown:
            self._print_line()

    def update(self, done: int, figures: str) -> None:
        """Show that `done` of the total are done, with the current figures."""
        figures = one_line(figures)
        self._last = (done, figures)
        self._recent.append((time.monotonic(), done))
        if self._progress is not None:
            self._progress.update(self._task, completed=done, figures=figures)
        elif time.monotonic() - self._printed >= PLAIN_EVERY_S or done >= self._total > self._shown[0]:
            self._printed = time.monotonic()
            self._print_line()

    def _print_line(self) -> None:
        done, figures = self._shown = self._last
        seconds = time.monotonic() - self._started
        left = self._seconds_left()
        ahead = "" if left is None else f", about {left:.0f} s left"
        print(f"{self._title}: {done}/{self._total}, {figures}, {seconds:.0f} s{ahead}", file=self._stream, flush=True)

    def _seconds_left(self) -> float | None:
        """Remaining time from the rate of the last updates; None if it is unknown or the work is done.

        A resumed stage starts with part of the total done, which took no time here and must not count.
        """
        (first, before), (last, done) = self._recent[0], self._recent[-1]
        if done <= before or done >= self._total:
            return None
        return (self._total - done) * (last - first) / (done - before)


def say(message: str, stream: TextIO | None = None) -> None:
    """Print a sentence for people on standard error, as one printable line of bounded length."""
    print(one_line(message), file=sys.stderr if stream is None else stream, flush=True)


def print_table(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]], stream: TextIO) -> None:
    """Print a table.

    Args:
        title: title of the table.
        columns: heads of the columns after the first, which holds the names of the rows.
        rows: cells by the name of the row.
        stream: where it is printed.
    """
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for column in columns:
        table.add_column(printable(column), justify="right")
    for name, cells in rows.items():
        table.add_row(printable(name), *map(printable, cells))
    _console(stream, None if stream.isatty() else 100).print(table)


def _console(stream: TextIO, width: int | None = None) -> Console:
    """A console that prints every text as it is: `[x]` is no markup, `:x:` no emoji, and no number is coloured."""
    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False)


def print_object(result: Mapping[str, Any], stream: TextIO) -> None:
    """Print one line for each entry of `result`, with nested entries indented."""
    for name, value in result.items():
        label = printable(name.replace("_", " "))
        if isinstance(value, Mapping):
            print(f"{label}:", file=stream)
            for inner, figure in value.items():
                print(f"  {printable(str(inner)).replace('_', ' ')}: {_plain(figure)}", file=stream)
        else:
            print(f"{label}: {_plain(value)}", file=stream)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{str(name).replace('_', ' ')} {_plain(each)}" for name, each in value.items())
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return ", ".join(_plain(item) for item in value) if isinstance(value, (list, tuple)) else printable(str(value))
