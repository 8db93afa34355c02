"""`nas search`: a search in a run folder, what it found, and its front measured again.

A search that was cut off goes on, and one that was begun otherwise is refused. Where latencies come from device
profiles they are computed, so nothing of them is measured until the search is over.
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from nas.console import Bar
from nas.errors import NoFeasible, UserError
from nas.profiling.front import agreement_of, tell_agreement, verified_of, verify_front
from nas.profiling.profiles import (
    asked_of_profiles,
    keep_profiles,
    predictions,
    read_profiles,
    space_with,
    with_predictions,
)
from nas.records import recorded_versions, same_request, write_record
from nas.reporting.table import Marks, write_front
from nas.runs.asked_search import asked_of_search, check_search, latency_settings, run_search, study_at
from nas.runs.findings import summary, tell_end
from nas.runs.folder import (
    JOURNAL,
    RequestRecord,
    RunFolder,
)
from nas.runs.loading import load_run
from nas.runs.requests import SearchRequest
from nas.searching.giving_up import refuse_failed
from nas.searching.objectives import named_objectives, objective_names
from nas.searching.progress import SearchFigures
from nas.searching.relative_latency import reference_path
from nas.searching.storage import Storage, copy_to_journal, is_url
from nas.settings import SearchSettings


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
            same_request(place, folder.read_search(settings.name).request, asked)
        opened = load_run(folder, request.common.device, request.model)
        # 1. What the profiles predict of the sub-networks whose sizes they ask for.
        space = space_with(opened.supernet.space, profiles)
        predicted = predictions(opened, profiles, space, settings)
        warm = None if settings.warm_start is None else study_at(settings.warm_start, besides=place)
        new = not (place / "search.json").exists()
        if new:
            keep_profiles(place, profiles)
            write_record(place / "search.json", RequestRecord(request=asked, versions=recorded_versions()))
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
        marks, table = Marks(study.find(space.full()), None), place / "front.csv"
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
