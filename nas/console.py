"""What a person sees while work goes on and when it is done; the only home of rich.

Progress goes to standard error: bars in a terminal, elsewhere one plain line now and then.
"""

import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

PLAIN_EVERY_S = 30.0
_RECENT = 20


class Bar:
    """Progress of one stage: `with Bar("fine-tuning", total=500) as bar: bar.update(done, "loss 0.41")`."""

    def __init__(self, title: str, total: int, *, stream: TextIO | None = None) -> None:
        self._title, self._total = title, total
        self._stream = sys.stderr if stream is None else stream
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._started = self._printed = time.monotonic()
        self._last = (0, "")
        self._recent: deque[tuple[float, int]] = deque(maxlen=_RECENT)

    def __enter__(self) -> "Bar":
        if self._stream.isatty():
            columns = (
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(elapsed_when_finished=True),
            )
            self._progress = Progress(*columns, console=Console(file=self._stream))
            self._task = self._progress.add_task(self._title, total=self._total, figures="")
            self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._progress is not None:
            self._progress.stop()
        elif self._last[0]:
            self._print_line()

    def update(self, done: int, figures: str) -> None:
        """Show that `done` of the total are done, with the figures of the moment."""
        self._last = (done, figures)
        self._recent.append((time.monotonic(), done))
        if self._progress is not None:
            self._progress.update(self._task, completed=done, figures=figures)
        elif time.monotonic() - self._printed >= PLAIN_EVERY_S:
            self._printed = time.monotonic()
            self._print_line()

    def _print_line(self) -> None:
        done, figures = self._last
        seconds = time.monotonic() - self._started
        left = self._seconds_left()
        ahead = "" if left is None else f", about {left:.0f} s left"
        print(f"{self._title}: {done}/{self._total}, {figures}, {seconds:.0f} s{ahead}", file=self._stream, flush=True)

    def _seconds_left(self) -> float | None:
        """By the pace of the last updates, so that what a resumed work finds done does not count; None at the end."""
        (first, before), (last, done) = self._recent[0], self._recent[-1]
        if done <= before or done >= self._total:
            return None
        return (self._total - done) * (last - first) / (done - before)


def say(message: str, stream: TextIO | None = None) -> None:
    """One line for the person who waits, on standard error."""
    print(message, file=sys.stderr if stream is None else stream, flush=True)


def print_table(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]], stream: TextIO) -> None:
    """A table with a named row each: the first column holds the names, the others `columns`."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    for name, cells in rows.items():
        table.add_row(name, *cells)
    width = None if stream.isatty() else 100
    Console(file=stream, width=width, highlight=False).print(table)


def print_object(result: Mapping[str, Any], stream: TextIO) -> None:
    """A line for each entry of `result`; entries of a nested one are indented."""
    for name, value in result.items():
        label = name.replace("_", " ")
        if isinstance(value, Mapping):
            print(f"{label}:", file=stream)
            for inner, figure in value.items():
                print(f"  {str(inner).replace('_', ' ')}: {_plain(figure)}", file=stream)
        else:
            print(f"{label}: {_plain(value)}", file=stream)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return ", ".join(_plain(item) for item in value) if isinstance(value, (list, tuple)) else str(value)


def print_comparison(result: Mapping[str, Any], out: TextIO) -> None:
    """Print the result of an export: the full and the chosen network side by side."""
    full, chosen = result["full"], result["chosen"]
    metric = "accuracy" if "test_accuracy" in full else "r2"
    scored = "test accuracy" if metric == "accuracy" else "test R squared"
    scores = [network[f"test_{metric}"] for network in (full, chosen)]
    rows = {
        scored: tuple(f"{100 * score:.1f} %" if metric == "accuracy" else f"{score:.3f}" for score in scores),
        "latency": (f"{full['latency_ms']:.1f} ms", f"{chosen['latency_ms']:.1f} ms"),
        "multiply-accumulates": (_count(full["macs"]), _count(chosen["macs"])),
        "parameters": (_count(full["parameters"]), _count(chosen["parameters"])),
        "size": (f"{full['size_mib']:.1f} MiB", f"{chosen['size_mib']:.1f} MiB"),
    }
    difference, (low, high) = result[f"{metric}_difference_points"], result[f"{metric}_difference_interval"]
    change = {
        scored: f"{difference:+.1f} points [{low:+.1f}, {high:+.1f}]",
        "latency": f"{result['speedup']:.2f}x faster",
        **{
            label: f"{100 * (chosen[key] / full[key] - 1):+.0f} %"
            for label, key in (("multiply-accumulates", "macs"), ("parameters", "parameters"), ("size", "size_mib"))
        },
    }
    if chosen.get("predicted_latency_ms") is not None:
        predicted = (full["predicted_latency_ms"], chosen["predicted_latency_ms"])
        rows["latency predicted"] = (f"{predicted[0]:.1f} ms", f"{predicted[1]:.1f} ms")
        change["latency predicted"] = f"{predicted[0] / predicted[1]:.2f}x faster"
    cells = {label: (*values, change[label]) for label, values in rows.items()}
    print_table("Full and chosen network", ("full", "chosen", "difference"), cells, out)
    how = ", ".join(f"{name} {value}" for name, value in result["measured_on"].items())
    print(f"{result['what_the_data_can_tell']}\nMeasured interleaved in one process: {how}.", file=out)
    print(f"Exported to {result['export']}; its README.md says how to load it.", file=out)


def _count(number: float) -> str:
    return f"{number / 1e6:,.1f} M" if number >= 1e6 else f"{number:,.0f}"
