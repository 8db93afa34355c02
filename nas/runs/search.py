"""`nas search` and `nas report`: a search in a run folder, what it found, and its front measured again.

A search that was cut off goes on, and one that was begun otherwise is refused. Where latencies come from device
profiles they are computed, so nothing of them is measured until the search is over.
"""

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas.console import Bar
from nas.errors import NoFeasible, UserError
from nas.profiling.front import agreement_of, chosen_of, tell_agreement, tell_unmeasured, verified_of, verify_front
from nas.profiling.profiles import (
    asked_of_profiles,
    keep_profiles,
    kept_profiles,
    predictions,
    read_profiles,
    space_with,
    with_predictions,
)
from nas.profiling.verification import Verified
from nas.reporting.pictures import Marks, draw_front, draw_training, measured_again, write_front
from nas.runs.asked_search import asked_of_search, check_search, latency_settings, run_search, study_at
from nas.runs.findings import measured, refuse_failed, summary, tell_end
from nas.runs.folder import (
    JOURNAL,
    Request,
    RunFolder,
    RunRecord,
    Scalar,
    recorded_versions,
    same_request,
    write_record,
)
from nas.runs.loading import open_run
from nas.runs.objectives import named_objectives, objective_names
from nas.runs.progress import SearchFigures
from nas.runs.requests import SearchRequest
from nas.searching.measurement import Measurement
from nas.searching.relative_latency import reference_path
from nas.searching.storage import Storage, copy_to_journal, is_url
from nas.searching.study import load_study
from nas.settings import Limits, SearchSettings


def search_run(request: SearchRequest) -> dict[str, Any]:
    """Search the run's super-network, or go on with that search; UserError for wrong input.

    With device profiles the latencies are theirs, and nothing of them is measured until the search is over.
    """
    folder, limits = RunFolder(request.run), request.limits
    profiles = read_profiles(request.settings.profile)
    names = objective_names(request.settings, limits, folder.read(), tuple(profiles))
    settings = replace(request.settings, objectives=names)
    objectives = named_objectives(names, limits, tuple(profiles))
    check_search(settings)
    latency = latency_settings(settings, profiles.values())
    asked = {**asked_of_search(settings, limits, request.common, latency), **asked_of_profiles(profiles)}
    place = folder.search(settings.name)
    with folder.locked():
        if (place / "search.json").exists():
            same_request(place, folder.read_search(settings.name).asked, asked)
        opened = open_run(folder, request.common.device, request.network)
        # 1. What the profiles predict of the sub-networks whose sizes they ask for.
        space = space_with(opened.supernet.space, profiles)
        predicted = predictions(opened, profiles, space, settings)
        warm = None if settings.warm_start is None else study_at(settings.warm_start, besides=place)
        new = not (place / "search.json").exists()
        if new:
            keep_profiles(place, profiles)
            write_record(place / "search.json", Request(asked=asked, versions=recorded_versions()))
        # 2. The search.
        storage = _storage(folder, settings)
        title = f"Searching {space.size():,} sub-networks"
        with Bar(title, min(settings.budget, space.size())) as bar:
            figures = SearchFigures(bar)
            with _unless_refused(place, new, figures):
                study = run_search(
                    opened,
                    with_predictions(objectives, predicted),
                    settings,
                    request.common.seed,
                    storage=storage,
                    latency=latency,
                    latency_file=reference_path(place / JOURNAL),
                    on_result=figures,
                    space=space,
                    warm_start=warm,
                )
                # A database keeps what failed; the folder goes.
                again = "repeat the command" if not is_url(storage) else "give the search another --name"
                refuse_failed(study.measurements, f"mend that and {again}")
        if is_url(storage):
            # What comes after a search reads the journal.
            copy_to_journal(storage, place / JOURNAL)
        # 3. The front measured again, where its devices are here; as predicted, it is there to be read already.
        marks, table = Marks(study.find(space.largest()), None), place / "front.csv"
        write_front(study, marks, table, verified_of(place, study))
        verified = verify_front(place, study, predicted)
        write_front(study, marks, table, verified)
    tell_end(study, settings.budget, settings.patience)
    tell_agreement(study, verified)
    return {
        **summary(request.run, settings.name, table, study, verified),
        **agreement_of(study, verified),
    }


def _storage(folder: RunFolder, settings: SearchSettings) -> Storage:
    """The journal of the run, or its study in the database: of a name that no other run has."""
    if settings.storage is None:
        return folder.search(settings.name) / JOURNAL
    if "#" in settings.storage:
        return settings.storage
    identity = hashlib.sha256(folder.run_json.read_bytes()).hexdigest()[:8]
    return f"{settings.storage}#{folder.path.resolve().name}-{identity}/{settings.name}"


@contextmanager
def _unless_refused(place: Path, new: bool, figures: SearchFigures) -> Iterator[None]:
    """Leave no trace of a search that is refused and has measured nothing; what is measured stays."""
    try:
        yield
    except (UserError, NoFeasible):
        if (new or figures.begun) and not figures.found:
            shutil.rmtree(place, ignore_errors=True)
        raise


def report_run(run: Path, name: str, limits: Limits) -> dict[str, Any]:
    """Draw how the fine-tuning went (training.png), and of a search pareto.png and front.csv with the chosen marked.

    Before the first search of a run only the fine-tuning is drawn.

    Raises:
        UserError: no such search, or a limit on something that it did not measure.
        NoFeasible: nothing meets the limits.
    """
    folder = RunFolder(run)
    record = folder.read()
    with folder.locked():
        training = _draw_training(folder, record)
        if training and not folder.searches() and name == SearchSettings.name and not limits.given():
            return {"run": str(run), **training}
        return {**_report_search(folder, record, name, limits), **training}


def _draw_training(folder: RunFolder, record: RunRecord) -> dict[str, str]:
    """The picture's place by name; nothing where the fine-tuning is not done or was not watched."""
    if not folder.supernet.exists():
        return {}
    finetuned = folder.read_finetuned()
    if not finetuned.probes:
        return {}
    batch = record.asked.get("batch_size")
    rows = record.rows.get("train", 1)
    picture = folder.path / "training.png"
    draw_training(
        finetuned.probes,
        picture,
        epoch_steps=max(1, -(-rows // batch)) if isinstance(batch, int) and batch > 0 else 1,
        metric=finetuned.metric,
        title=f"Fine-tuning of {Path(str(record.asked.get('model'))).name}, {finetuned.steps} steps",
    )
    return {"training": str(picture)}


def _report_search(folder: RunFolder, record: RunRecord, name: str, limits: Limits) -> dict[str, Any]:
    asked, place = folder.read_search(name).asked, folder.search(name)
    study = load_study(place / JOURNAL)
    verified = verified_of(place, study)
    tell_unmeasured(study, verified, kept_profiles(place))
    best = chosen_of(study, verified, limits)
    marks = Marks(study.find(study.space.largest()), study.find(best.candidate))
    write_front(study, marks, place / "front.csv", verified)
    title = f"Sub-networks of {Path(str(record.asked.get('model'))).name}, {measured(study)} measured"
    draw_front(study, marks, place / "pareto.png", title=title, latency_of=_latency_of(record, asked, place))
    return {
        "run": str(folder.path),
        "search": name,
        "measured": measured(study),
        "front": len(study.front()),
        "chosen": None if marks.chosen is None else _described(marks.chosen, verified),
        "picture": str(place / "pareto.png"),
        "table": str(place / "front.csv"),
        **agreement_of(study, verified),
    }


def _latency_of(record: RunRecord, asked: Mapping[str, Scalar], place: Path) -> str:
    """What a latency was measured with, or is predicted for."""
    profiles = kept_profiles(place)
    if profiles:
        return "predicted for " + ", ".join(
            f"{each.machine.processor}, {each.runtime}, batch {each.batch}" for each in profiles.values()
        )
    tokens = f"{asked.get('tokens')} tokens, " if record.kind == "text" else ""
    return f"batch 1, {tokens}threads: {asked.get('threads')}"


def _described(measurement: Measurement, verified: Sequence[Verified]) -> dict[str, Any]:
    again = measured_again(measurement, verified)
    return {**measurement.values, **again, "candidate": dict(measurement.candidate)}
