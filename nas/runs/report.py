"""`nas report`: pictures of how a fine-tuning and a search went, and the table of the front."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas.profiling.front import agreement_record
from nas.profiling.verification import Verified
from nas.reporting.pictures import draw_front, draw_training
from nas.reporting.table import Marks, measured_again, write_front
from nas.runs.folder import RunFolder, RunRecord
from nas.runs.loaded_search import LoadedSearch, conditions_of, load_search
from nas.runs.requests import ReportRequest
from nas.searching.measurement import Measurement
from nas.settings import Limits, SearchSettings


def report_run(request: ReportRequest) -> dict[str, Any]:
    """Draw how the fine-tuning went (training.png), and of a search pareto.png and front.csv with the chosen marked.

    Before the first search of a run only the fine-tuning is drawn.

    Raises:
        UserError: no such search, or a limit on something that it did not measure.
        NoFeasible: nothing meets the limits.
    """
    run, name, limits = request.run, request.name, request.limits
    folder = RunFolder(run)
    record = folder.read()
    with folder.locked():
        training = _draw_training(folder, record)
        if training and not folder.searches() and name == SearchSettings.name and not limits.given():
            return {"run": str(run), **training}
        return {**_report_search(folder, record, name, limits), **training}


def _draw_training(folder: RunFolder, record: RunRecord) -> dict[str, str]:
    """The picture's path by name; nothing where the fine-tuning is not done or no sub-network was scored on the way."""
    if not folder.supernet.exists():
        return {}
    finetuned = folder.read_finetuned()
    if not finetuned.probes:
        return {}
    batch = record.request.get("batch_size")
    rows = record.rows.get("train", 1)
    picture = folder.path / "training.png"
    draw_training(
        finetuned.probes,
        picture,
        epoch_steps=max(1, -(-rows // batch)) if isinstance(batch, int) and batch > 0 else 1,
        metric=finetuned.metric,
        title=f"Fine-tuning of {Path(str(record.request.get('model'))).name}, {finetuned.steps} steps",
    )
    return {"training": str(picture)}


def _report_search(folder: RunFolder, record: RunRecord, name: str, limits: Limits) -> dict[str, Any]:
    search = load_search(folder, name)
    study, verified, path = search.study, search.verified, search.folder
    best = search.best(limits.given())
    marks = Marks(study.find(study.space.full()), study.find(best.candidate))
    write_front(study, marks, path / "front.csv", verified)
    title = f"Sub-networks of {Path(str(record.request.get('model'))).name}, {study.measured_here} measured"
    draw_front(study, marks, path / "pareto.png", title=title, latency_of=_latency_of(search))
    return {
        "run": str(folder.path),
        "search": name,
        "measured": study.measured_here,
        "front": len(study.front()),
        "chosen": None if marks.chosen is None else _described(marks.chosen, verified),
        "deployment": conditions_of(search.deployment, search.profiles),
        "picture": str(path / "pareto.png"),
        "table": str(path / "front.csv"),
        **agreement_record(study, verified),
    }


def _latency_of(search: LoadedSearch) -> str:
    """What a latency was measured with, or is predicted for."""
    if search.profiles:
        return "predicted for " + ", ".join(
            f"{each.machine.processor}, {each.runtime} {each.precision}, batch {each.batch}"
            for each in search.profiles.values()
        )
    deployment = search.deployment
    tokens = "" if deployment.tokens is None else f"{deployment.tokens} tokens, "
    return f"{deployment.runtime} {deployment.precision}, batch 1, {tokens}threads: {deployment.threads}"


def _described(measurement: Measurement, verified: Sequence[Verified]) -> dict[str, Any]:
    again = measured_again(measurement, verified)
    return {**measurement.values, **again, "candidate": dict(measurement.candidate)}
