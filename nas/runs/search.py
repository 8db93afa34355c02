"""`nas search`: candidates of a run's super-network measured, and the front measured again as it will be delivered.

A search that was cut off goes on, and one that was begun otherwise is refused. Where latencies come from device
profiles they are computed, so nothing of them is measured until the search is over.
"""

import hashlib
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hardware.inputs import device_of
from nas.console import Bar, say
from nas.errors import NoFeasible, UserError
from nas.memory import peak_memory_mib
from nas.networks.loading import maker
from nas.objectives import MEASURED, SCORES, quantity
from nas.profiling.agreement import agreement_record, agreements
from nas.profiling.choice import choose
from nas.profiling.deployed_candidates import measures_of_files
from nas.profiling.device_latency import on_devices
from nas.profiling.front import verify_front
from nas.profiling.profiles import keep_profiles
from nas.profiling.verification import Remeasuring, Verified
from nas.profiling.verified_record import read_verified
from nas.records import recorded_versions, write_record
from nas.reporting.table import Marks, measured_again, write_front
from nas.runs.checked_search import CheckedSearch, Proposing, checked_search
from nas.runs.folder import JOURNAL, RequestRecord, RunFolder
from nas.runs.loaded_search import conditions_of
from nas.runs.requests import SearchRequest
from nas.searching.giving_up import constant_objectives, described_constants, refuse_constant, refuse_failed
from nas.searching.progress import SearchFigures
from nas.searching.random_search import random_search
from nas.searching.relative_latency import reference_path
from nas.searching.rescoring import rivals
from nas.searching.storage import copy_to_journal
from nas.searching.storage_address import Storage, is_url
from nas.searching.study import Study, load_study
from nas.searching.supernet_search import Algorithm, search
from nas.settings import SearchSettings
from nas.workers import Workers

_ESTIMATED = 3
_QUANTIZED_RIVALS = 6
_AGREE = 0.6
"""Least rank correlation between the scores of a search and those of its files."""


def search_run(request: SearchRequest) -> dict[str, Any]:
    """Search the run's super-network, or go on with that search; UserError for wrong input."""
    folder = RunFolder(request.run)
    folder.read("super-network")
    settings = request.settings
    own = next((name.strip() for name in (settings.objectives or "").split(",") if ":" in name), None)
    apart = settings.workers > 1 or settings.ray or settings.ray_address is not None
    with folder.locked(f"search {settings.name}", None if apart else own):
        return searched(folder, request)


def searched(folder: RunFolder, request: SearchRequest, proposing: Proposing | None = None) -> dict[str, Any]:
    """What `search_run` does in a folder that is locked already.

    Args:
        folder: of the run.
        request: of the search.
        proposing: proposes the candidates; None: what the request names.
    """
    # 1. What is searched and for what, with the latencies that device profiles predict.
    made = checked_search(folder, request, proposing)
    settings = made.settings
    path = folder.search(settings.name)
    new = not (path / "search.json").exists()
    if new:
        keep_profiles(path, made.profiles)
        write_record(path / "search.json", RequestRecord(request=dict(made.record), versions=recorded_versions()))
    # 2. The search.
    storage = _storage(folder, settings)
    with _refused_leaves_nothing(path, storage, new):
        study = _measured(made, storage, path)
    if is_url(storage):
        # What comes after a search reads the journal.
        copy_to_journal(storage, path / JOURNAL)
    # 3. The front measured again as it is delivered, and on the devices that are here; as the search has it, it is
    # there to be read already.
    marks, table = Marks(study.find(made.space.full()), None), path / "front.csv"
    write_front(study, marks, table, read_verified(path, study.space))
    verified = _verified(made, study, path)
    write_front(study, marks, table, verified)
    if made.proposing.goes_on:
        _say_end(study, settings)
    _say_agreement(study, verified)
    return {
        "run": str(request.run),
        "search": settings.name,
        **_summary(study, verified),
        "deployment": conditions_of(made.deployment, made.profiles),
        "table": str(table),
        **agreement_record(study, verified),
    }


def estimate(request: SearchRequest) -> dict[str, Any]:
    """Time and memory of `search_run`, from three random sub-networks; writes nothing, errors as there."""
    folder = RunFolder(request.run)
    folder.read("super-network")
    folder.check()
    made = checked_search(folder, request)
    started = time.monotonic()
    # In this process and in memory; a warm start changes what is measured, not how long it takes.
    settings = replace(
        made.settings, budget=_ESTIMATED, workers=1, ray=False, ray_address=None, timeout_s=None, patience=None
    )
    objectives = tuple(replace(each, limit=None) for each in made.objectives)
    few = replace(made, request=replace(request, settings=settings), objectives=objectives, warm_start=None)
    study = _run(few, random_search, storage=None)
    each = [measurement.seconds for measurement in study.measurements]
    start_up = time.monotonic() - started - sum(each)
    # Latency, energy and memory are measured one at a time, whatever the workers do.
    here = any(each.exact is None and each.name in MEASURED for each in made.objectives)
    at_a_time = 1 if here else made.settings.workers
    budget = min(made.settings.budget, made.space.size())
    return {
        "sub_networks": str(made.space.size()),
        "budget": budget,
        "seconds_a_candidate": sum(each) / len(each),
        "seconds": start_up + budget * sum(each) / len(each) / at_a_time,
        "peak_memory_mib": peak_memory_mib(),
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
def _refused_leaves_nothing(path: Path, storage: Storage, new: bool) -> Iterator[None]:
    """Remove the folder of a search that is refused and has measured nothing; what is measured stays."""
    before = new and (path / JOURNAL).exists()
    try:
        yield
    except (UserError, NoFeasible):
        study: Study | None = None
        with suppress(UserError):
            study = load_study(storage)
        measured = study is not None and any(each.state == "measured" for each in study.measurements)
        # A study that was there before this search, or cannot be read, is not ours to remove.
        ours = (new and not before) or (not new and study is not None)
        if not measured and ours:
            shutil.rmtree(path, ignore_errors=True)
        raise


def _measured(made: CheckedSearch, storage: Storage, path: Path) -> Study:
    title = made.proposing.title or f"Searching {made.space.size():,} sub-networks"
    with Bar(title, min(made.settings.budget, made.space.size())) as bar:
        study = _run(
            made,
            made.proposing.algorithm,
            storage=storage,
            latency_file=reference_path(path / JOURNAL),
            on_result=SearchFigures(bar),
        )
    # A database keeps what failed; the folder goes.
    again = "repeat the command" if not is_url(storage) else "give the search another --name"
    refuse_failed(study.measurements, f"mend that and {again}")
    return study


def _run(
    made: CheckedSearch,
    algorithm: Algorithm,
    *,
    storage: Storage | None,
    latency_file: Path | None = None,
    on_result: SearchFigures | None = None,
) -> Study:
    settings, loaded = made.settings, made.loaded
    return search(
        loaded.supernet,
        made.space,
        made.rows,
        made.objectives,
        budget=settings.budget,
        seed=made.request.common.seed,
        algorithm=algorithm,
        networks=made.networks,
        anew=made.proposing.anew,
        storage=storage,
        example_inputs=loaded.example(made.latency.tokens),
        latency=made.latency,
        latency_file=latency_file,
        threads=settings.accuracy_threads,
        on_result=on_result,
        lag=settings.lag,
        workers=Workers(settings.workers, settings.ray, settings.ray_address),
        timeout_s=settings.timeout_s,
        patience=settings.patience,
        give_up=made.proposing.goes_on,
        # The command scores the front by itself, so that what is done is kept.
        estimate=False,
        warm_start=made.warm_start,
    )


def _verified(made: CheckedSearch, study: Study, path: Path) -> list[Verified]:
    """The front and its rivals measured again, as they are delivered, on all validation rows and the devices here."""
    deployment, loaded = made.deployment, made.loaded
    try:
        deployment.check()
    except ValueError as error:
        say(f"The front is not written in its deployment here: {error}")
        return verify_front(path, study, Remeasuring(on_devices(made.predicted)))
    with measures_of_files(
        made.networks,
        deployment,
        loaded.split("validation"),
        [objective.name for objective in study.objectives],
        example=loaded.example(deployment.tokens or 1),
        calibration=partial(loaded.int8_calibration, made.settings.calibration_rows),
        device=device_of(loaded.supernet),
        searched_rows=len(made.rows),
        threads=made.settings.accuracy_threads,
        factory=maker(made.request.model, len(loaded.record.classes)),
    ) as again:
        others = rivals(study.measurements, study.objectives, len(made.rows)) if again.measures else []
        # Quantizing a network takes as long as scoring it several times.
        others = others[: min(_QUANTIZED_RIVALS, made.settings.verify // 2)] if deployment.is_quantized else others
        full = study.find(study.space.full())
        others += [full] if again.measures and full is not None else []
        on_device = on_devices(made.predicted, deployment, again.run)
        return verify_front(path, study, again.joined(on_device), others, made.settings.verify)


def _summary(study: Study, verified: Sequence[Verified]) -> dict[str, Any]:
    """What was found, by the names that the command prints.

    Raises:
        UserError: no objective tells the candidates apart.
        NoFeasible: nothing measured meets the limits; the message names the nearest.
    """
    if any(objective.limit is not None for objective in study.objectives):
        choose(study, verified, {})
    refuse_constant(study.objectives, study.measurements)
    constant = constant_objectives(study.objectives, study.measurements)
    if constant:
        say(f"{described_constants(constant, study.measurements)}: that does not tell them apart")
    full = study.find(study.space.full())
    return {
        "measured": study.measured_here,
        "failed": sum(m.state == "failed" for m in study.measurements),
        "known": sum(m.known for m in study.measurements),
        "every_sub_network": len(study.measurements) >= study.space.size(),
        "full": None if full is None else {**full.values, **measured_again(full, verified)},
        "front": [{**m.values, **measured_again(m, verified)} for m in study.front()],
    }


def _say_end(study: Study, settings: SearchSettings) -> None:
    """Say why a search ended before its budget, where it did."""
    new = len(study.measurements) - sum(m.known for m in study.measurements)
    if len(study.measurements) >= study.space.size():
        beyond = f", --budget {settings.budget} is past that" if settings.budget > new else ""
        say(f"There are {study.space.size():,} sub-networks, and all of them were measured{beyond}")
    elif new < settings.budget and settings.patience is not None:
        say(
            f"Stopped after {new} of {settings.budget}: {settings.patience} measurements in a row did not enlarge the "
            "hypervolume"
        )


def _say_agreement(study: Study, verified: Sequence[Verified]) -> None:
    """Print the agreement of predicted and measured values, and how many measurements were unstable."""
    for name, agreement in agreements(study.front(), study.objectives, verified).items():
        tau = "" if agreement.kendall_tau is None else f", Kendall tau {agreement.kendall_tau:.2f}"
        error = "" if agreement.mape is None else f", off by {agreement.mape:.1f} % in the mean"
        say(
            f"{quantity(name).label} of {agreement.count} sub-networks measured again{error}{tau}; "
            f"{agreement.non_dominated} of the front are still on it"
        )
        if name in SCORES and agreement.kendall_tau is not None and agreement.kendall_tau < _AGREE:
            say(
                f"The search and its files rank these by {quantity(name).label} differently: go by the measured "
                "values, and search with more --rows or a larger --budget"
            )
    unstable = sum(len(each.unstable) for each in verified)
    if unstable:
        say(f"{unstable} of these measurements did not get stable; something else runs on this machine")
