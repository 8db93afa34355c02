"""Which functions report and export a run, by what it holds: one entry a product."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nas.runs.evolved import export_layers, report_layers
from nas.runs.export import export_run
from nas.runs.folder import Product, RunFolder
from nas.runs.report import report_run
from nas.runs.requests import ExportRequest, ReportRequest


@dataclass(frozen=True)
class Reader:
    """The functions of a product; each returns what the command prints."""

    report: Callable[[ReportRequest], dict[str, Any]]
    export: Callable[[ExportRequest], dict[str, Any]]


READERS: Mapping[Product, Reader] = {
    "super-network": Reader(report_run, export_run),
    "pruned-networks": Reader(report_run, export_run),
    "evolved-layers": Reader(report_layers, export_layers),
}


def report(request: ReportRequest) -> dict[str, Any]:
    """Report a run, whatever it holds."""
    return READERS[RunFolder(request.run).read().product].report(request)


def export(request: ExportRequest) -> dict[str, Any]:
    """Export from a run, whatever it holds."""
    return READERS[RunFolder(request.run).read().product].export(request)
