"""The layers of a run, reported and exported: `nas report` and `nas export` of an evolution."""

from pathlib import Path
from typing import Any

from nas.console import say
from nas.errors import UserError
from nas.evolving.domain import LayerDomain
from nas.evolving.evonorm import RankedLayer, read_layer, write_layer
from nas.exporting.folder import check_target, in_place_of
from nas.files import replacing_folder
from nas.reporting.layers import layers_page
from nas.reporting.page import write_page
from nas.runs.folder import JOURNAL, RunFolder, Unfinished
from nas.runs.layer_network import write_with_layer
from nas.runs.makers import MAKERS
from nas.runs.requests import ExportRequest, ReportRequest
from nas.searching.study import Study, load_study
from nas.settings import ModelSettings, SearchSettings
from search_spaces.graphs import LayerGraph

_LAYER = "layer.json"
_GO_ON = MAKERS["evolved-layers"].go_on


def layer_files(folder: RunFolder) -> Path:
    """The best layers as files, 1.json the best."""
    return folder.evolution / "layers"


def evolution_of(folder: RunFolder) -> Study[LayerGraph]:
    """The study of an evolution; Unfinished where there is none yet, UserError where it is damaged."""
    journal = folder.evolution / JOURNAL
    if not journal.is_file():
        raise Unfinished(f"the evolution in {folder.path} has hardly begun", _GO_ON)
    return load_study(journal, LayerDomain.from_identity)


def report_layers(request: ReportRequest) -> dict[str, Any]:
    """Write evolution/report.html: what was tried and rejected, and the best layers as graphs and formulas.

    Raises:
        UserError: the evolution has hardly begun, a limit is given, or a file is damaged.
    """
    if request.limits.checked():
        raise UserError("an evolution of layers has no limits; leave them out")
    _nothing_of_a_search(request.name)
    folder = RunFolder(request.run)
    record = folder.read("evolved-layers")
    with folder.shared():
        study = evolution_of(folder)
        page = folder.evolution / "report.html"
        write_page(layers_page(study, _ranked(folder), record.request), page)
    best = [row.formula for row in _ranked(folder)]
    return {"run": str(folder.path), "tried": len(study.measurements), "best": best[:1], "report": str(page)}


def _ranked(folder: RunFolder) -> list[RankedLayer]:
    paths = sorted(layer_files(folder).glob("*.json"), key=lambda path: (len(path.name), path.name))
    return [read_layer(path) for path in paths]


def export_layers(request: ExportRequest) -> dict[str, Any]:
    """Write one of the best layers into a folder: layer.json, which `search_spaces.graphs.LayerGraph` reads.

    With a model, the network with the layer in it is written beside that, see `nas.runs.layer_network`.

    Raises:
        UserError: the evolution is not finished, there is no such layer, `out` is something else, or the layer cannot
            be put into the model.
    """
    folder, out = RunFolder(request.run), request.out
    record = folder.read("evolved-layers")
    if request.model is None and request.own != ModelSettings():
        raise UserError(
            "--weights, --image-size, --mean, --std and --tokenizer describe a network: name it with --model"
        )
    if request.limits.checked():
        raise UserError("an evolution of layers has no limits; leave them out, and name a layer with --candidate")
    _nothing_of_a_search(request.name, request.runtime, request.precision, request.profile)
    rows = _ranked(folder)
    if not rows and layer_files(folder).is_dir():
        raise UserError(
            f"the evolution in {folder.path} has accepted no layer; repeat `nas evolve` with a larger --budget"
        )
    if not rows:
        raise Unfinished(f"the evolution in {folder.path} is not finished", _GO_ON)
    spec = request.candidate or "1"
    if not spec.isdecimal() or not 1 <= int(spec) <= len(rows):
        raise UserError(f"--candidate must be the number of a layer from 1 to {len(rows)}, got {spec!r}")
    check_target(out, _holds_layer)
    row = rows[int(spec) - 1]
    say(f"Exporting to {out}{in_place_of(out / _LAYER)}")
    with replacing_folder(out) as part:
        write_layer(row, part / _LAYER)
        network = {} if request.model is None else write_with_layer(row.graph, request, record, part)
    return {"layer": row.formula, **row.accuracies, **network, "export": str(out)}


def _holds_layer(folder: Path) -> bool:
    """Whether `export_layers` wrote into a folder."""
    try:
        read_layer(folder / _LAYER)
    except UserError:
        return False
    return True


def _nothing_of_a_search(name: str, *others: str | None) -> None:
    """UserError for flags that choose among searches and their deployments, of which an evolution has none."""
    if name != SearchSettings.name or any(other is not None for other in others):
        raise UserError("an evolution of layers has no --name, --runtime, --precision or --profile; leave them out")
