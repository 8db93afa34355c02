"""`nas report`: a page and pictures of how a fine-tuning and a search went, and the table of the front."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hardware.profile import BY_LAYER
from nas.console import say
from nas.errors import NoFeasible
from nas.profiling.agreement import agreement_record
from nas.records import Scalar
from nas.reporting.chosen import Exported
from nas.reporting.page import write_page
from nas.reporting.pictures import draw_front, draw_training
from nas.reporting.precisions import Precisions, precisions_in_words
from nas.reporting.search_page import Reported, Training, search_page
from nas.reporting.strips import Strips
from nas.reporting.table import Marks, measured_again, write_front
from nas.reporting.words import precision_of
from nas.runs.exported import read_exported
from nas.runs.folder import RunFolder, RunRecord
from nas.runs.loaded_search import LoadedSearch, conditions_of, load_search
from nas.runs.precisions import QUANTIZE
from nas.runs.products import PRODUCTS, check_finished
from nas.runs.requests import ReportRequest
from nas.searching.measurement import Measurement
from nas.settings import SearchSettings


def report_run(request: ReportRequest) -> dict[str, Any]:
    """Draw how the fine-tuning went (training.png), and of a search report.html, pareto.png and front.csv.

    In these the full network and the chosen one are marked. Before the first search of a run only the fine-tuning is
    drawn.

    Raises:
        UserError: the fine-tuning is not finished, no such search, or a limit on something that it did not measure.
        NoFeasible: nothing meets the limits; report.html shows what was measured.
    """
    run, folder, limits = request.run, RunFolder(request.run), request.limits.checked()
    record = folder.read()
    with folder.shared():
        check_finished(folder, record.product)
        training = _training(folder, record)
        only_training = not folder.searches() and request.name == SearchSettings.name and not limits
        if training.probes and only_training:
            return {"run": str(run), **_draw_training(folder, record, training)}
        # What is refused, because a file of the search is damaged, changes nothing.
        try:
            found = _report_search(request, limits, record, training)
        except NoFeasible:
            _draw_training(folder, record, training)
            raise
        return {**found, **_draw_training(folder, record, training)}


def _draw_training(folder: RunFolder, record: RunRecord, training: Training) -> dict[str, str]:
    """The picture's path by name; nothing where no sub-network was scored on the way."""
    if not training.probes:
        return {}
    picture = folder.path / "training.png"
    draw_training(
        training.probes,
        picture,
        epoch_steps=training.epoch_steps,
        metric=training.metric,
        title=f"Fine-tuning of {Path(str(record.request.get('model'))).name}, {training.steps} steps",
    )
    return {"training": str(picture)}


def _training(folder: RunFolder, record: RunRecord) -> Training:
    """How the fine-tuning went; without probes where it is not done, or the run is of none."""
    if not (folder.supernet / "finetuned.json").is_file():
        return Training()
    finetuned = folder.read_finetuned()
    batch, rows = record.request.get("batch_size"), record.rows.get("train", 1)
    steps = max(1, -(-rows // batch)) if isinstance(batch, int) and batch > 0 else 1
    return Training(finetuned.probes, finetuned.metric, steps, finetuned.steps)


def _report_search(
    request: ReportRequest, limits: Mapping[str, float], record: RunRecord, training: Training
) -> dict[str, Any]:
    folder = RunFolder(request.run)
    search = load_search(folder, request.name)
    study, verified, path = search.study, search.verified, search.folder
    full, page = study.find(study.space.full()), path / "report.html"
    reported = _reported(request, limits, record, search, training)
    try:
        best = search.best(limits)
    except NoFeasible as error:
        # The page shows what was measured, and why none of it is chosen.
        write_page(search_page(replace(reported, marks=Marks(full, None), nothing_fits=str(error))), page)
        say(f"{page} shows what was measured")
        raise
    marks = Marks(full, study.find(best.measurement.candidate))
    write_front(study, marks, path / "front.csv", verified)
    model = Path(str(record.request.get("model"))).name
    title = f"{PRODUCTS[record.product].plural} of {model}, {study.measured_here} measured"
    draw_front(study, marks, path / "pareto.png", title=title, latency_of=_latency_of(search))
    write_page(search_page(replace(reported, marks=marks, reasons=best.reasons)), page)
    return {
        "run": str(folder.path),
        "search": request.name,
        "measured": study.measured_here,
        "front": len(study.front()),
        "chosen": None if marks.chosen is None else _described(marks.chosen, search),
        "deployment": conditions_of(search.deployment, search.profiles),
        "report": str(page),
        "picture": str(path / "pareto.png"),
        "table": str(path / "front.csv"),
        **agreement_record(study, verified),
    }


def _reported(
    request: ReportRequest, limits: Mapping[str, float], record: RunRecord, search: LoadedSearch, training: Training
) -> Reported:
    """What the page says, but for the marks."""
    model = str(record.request.get("model"))
    own = not (RunFolder(request.run).supernet / "config.json").is_file()
    return Reported(
        run=str(request.run),
        name=request.name,
        model=model,
        study=search.study,
        marks=Marks(None, None),
        verified=search.verified,
        profiles=search.profiles,
        conditions=conditions_of(search.deployment, search.profiles),
        finetuning=record.request,
        networks=PRODUCTS[record.product].plural,
        begun_by=PRODUCTS[record.product].begun_by,
        further=PRODUCTS[record.product].sections(RunFolder(request.run)),
        search=_searched(search),
        classes=record.classes,
        rows=dict(record.rows.items()),
        versions=record.versions,
        training=training,
        exported=_exported(search.folder),
        own_model=model if own else None,
        limits=tuple(part for name, value in limits.items() for part in (f"--{name.replace('_', '-')}", repr(value))),
    )


def _searched(search: LoadedSearch) -> Mapping[str, Scalar]:
    """The request of the search, with what layers may compute in as words."""
    if search.precisions is None:
        return search.request
    return {**search.request, QUANTIZE: precisions_in_words(search.precisions)}


def _exported(folder: Path) -> Exported | None:
    record = read_exported(folder)
    if record is None:
        return None
    return Exported(
        candidate=record.candidate,
        metric=record.metric,
        today=record.today,
        full=record.full,
        chosen=record.chosen,
        points=record.points,
        interval=record.interval,
        said=record.what_the_data_can_tell,
        conditions=record.deployment,
        serving_int8=record.serving_int8 or {},
    )


def _latency_of(search: LoadedSearch) -> str:
    """What a latency was measured with, or is predicted for."""
    if search.profiles:
        return "predicted for " + ", ".join(
            f"{each.machine.processor}, {_computing(each.runtime, each.precision)}, batch {each.batch}"
            for each in search.profiles.values()
        )
    deployment = search.deployment
    tokens = "" if deployment.tokens is None else f"{deployment.tokens} tokens, "
    computing = _computing(deployment.runtime, deployment.precision)
    return f"{computing}, batch 1, {tokens}threads: {deployment.threads}"


def _computing(runtime: str, precision: str) -> str:
    return f"{runtime}{', ' if precision == BY_LAYER else ' '}{precision_of(precision)}"


def _described(measurement: Measurement, search: LoadedSearch) -> dict[str, Any]:
    again, precisions = measured_again(measurement, search.verified), Precisions.of(search.study.space)
    said = {"sizes": "; ".join(Strips.of(search.study.space).said(measurement.candidate))}
    if precisions is not None:
        said["precisions"] = precisions.said(measurement.candidate)
    return {**measurement.values, **again, **said, "candidate": dict(measurement.candidate)}
