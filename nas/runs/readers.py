"""Which functions report and export a run, by what it holds: one entry a product."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nas.console import Show, print_object
from nas.reporting.endings import PRUNED_NETWORK, print_comparison, print_report
from nas.runs.evolved import export_layers, report_layers
from nas.runs.export import export_run
from nas.runs.folder import RunFolder
from nas.runs.makers import Product
from nas.runs.report import report_run
from nas.runs.requests import ExportRequest, ReportRequest


@dataclass(frozen=True)
class Reader:
    """The functions of a product.

    Args:
        report: returns what `nas report` prints.
        show_report: prints that for people.
        export: returns what `nas export` prints.
        show_export: prints that for people.
    """

    report: Callable[[ReportRequest], dict[str, Any]]
    show_report: Show
    export: Callable[[ExportRequest], dict[str, Any]]
    show_export: Show


READERS: Mapping[Product, Reader] = {
    "super-network": Reader(report_run, print_report, export_run, print_comparison),
    "pruned-networks": Reader(report_run, partial(print_report, noun=PRUNED_NETWORK), export_run, print_comparison),
    "evolved-layers": Reader(report_layers, print_object, export_layers, print_object),
}


def reader(run: Path) -> Reader:
    """The functions for what a run holds; UserError where it is no run."""
    return READERS[RunFolder(run).read().product]
