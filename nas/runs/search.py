"""`nas search`: candidates of a run's super-network measured, and the front measured again as it will be delivered.

A search that was cut off goes on, and one that was begun otherwise is refused. Where latencies come from device
profiles they are computed, so nothing of them is measured until the search is over.
"""

import hashlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hardware.deployment import Deployment
from hardware.inputs import device_of
from hardware.profile import BY_LAYER, DeviceProfile
from nas.console import Bar, say
from nas.data.split import Split
from nas.data.tasks import CLASSIFICATION, TASKS
from nas.errors import NoFeasible, UserError
from nas.memory import peak_memory_mib
from nas.networks.loading import maker
from nas.networks.networks import Networks
from nas.networks.policies import joined_space
from nas.networks.quantized import QuantizedNetworks
from nas.objectives import MEASURED, is_latency
from nas.profiling.deployed_candidates import measures_of_files
from nas.profiling.front import (
    agreement_record,
    choose,
    elsewhere,
    on_devices,
    read_verified,
    say_agreement,
    verify_front,
)
from nas.profiling.objective import PredictedLatency
from nas.profiling.profiles import (
    keep_profiles,
    predictions,
    profiles_fingerprint,
    read_profiles,
    space_with,
    with_predictions,
)
from nas.profiling.verification import Remeasuring, Verified
from nas.records import Scalar, recorded_versions, same_request, write_record
from nas.reporting.table import Marks, measured_again, write_front
from nas.runs.folder import JOURNAL, RequestRecord, RunFolder
from nas.runs.loaded_search import CALIBRATION_ROWS, conditions_of, search_deployment, study_at, usable
from nas.runs.loading import LoadedRun, load_run
from nas.runs.precisions import precisions_record, searched_precisions
from nas.runs.requests import SearchRequest
from nas.searching.first_policies import StartedLinas
from nas.searching.giving_up import constant_objectives, described_constants, refuse_constant, refuse_failed
from nas.searching.linas import linas
from nas.searching.measurement import Objective
from nas.searching.nsga2 import nsga2
from nas.searching.objectives import named_objectives, objective_names
from nas.searching.progress import SearchFigures
from nas.searching.random_search import random_search
from nas.searching.relative_latency import LatencySettings, reference_path
from nas.searching.rescoring import rivals
from nas.searching.storage import Storage, copy_to_journal, is_url, shown
from nas.searching.study import Study, load_study
from nas.searching.supernet_search import Algorithm, search
from nas.seeds import generator
from nas.settings import SearchSettings
from nas.workers import Workers
from search_spaces import Space

_ALGORITHMS: dict[str, Algorithm] = {"linas": linas, "nsga2": nsga2, "random": random_search}
_ESTIMATED = 3
_QUANTIZED_RIVALS = 6
_COUNTS = (
    *("budget", "rows", "tokens", "threads", "accuracy_threads"),
    *("workers", "lag", "patience", "verify", "calibration_rows"),
)


@dataclass(frozen=True)
class Proposing:
    """What proposes the candidates of a search.

    Args:
        name: of the algorithm, as search.json has it.
        algorithm: proposes them.
        title: of the progress bar; None: how many sub-networks there are.
        goes_on: whether more could be proposed: then the search may be given up, and its end is said.
    """

    name: str
    algorithm: Algorithm
    title: str | None = None
    goes_on: bool = True


@dataclass(frozen=True)
class _Search:
    """A search that was checked, with all that it needs."""

    request: SearchRequest
    loaded: LoadedRun
    space: Space
    networks: Networks
    objectives: tuple[Objective, ...]
    predicted: Mapping[str, PredictedLatency]
    profiles: Mapping[str, DeviceProfile]
    latency: LatencySettings
    deployment: Deployment
    rows: Split
    record: Mapping[str, Scalar]
    warm_start: Storage | None
    proposing: Proposing

    @property
    def settings(self) -> SearchSettings:
        return self.request.settings


def search_run(request: SearchRequest) -> dict[str, Any]:
    """Search the run's super-network, or go on with that search; UserError for wrong input."""
    folder = RunFolder(request.run)
    folder.read("super-network")
    with folder.locked():
        return searched(folder, request)


def searched(folder: RunFolder, request: SearchRequest, proposing: Proposing | None = None) -> dict[str, Any]:
    """What `search_run` does in a folder that is locked already.

    Args:
        folder: of the run.
        request: of the search.
        proposing: proposes the candidates; None: what the request names.
    """
    settings = request.settings
    # 1. What is searched and for what, with the latencies that device profiles predict.
    made = checked_search(folder, request, proposing)
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
    write_front(study, marks, table, read_verified(path, study))
    verified = _verified(made, study, path)
    write_front(study, marks, table, verified)
    if made.proposing.goes_on:
        _say_end(study, settings)
    say_agreement(study, verified)
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


def checked_search(folder: RunFolder, request: SearchRequest, proposing: Proposing | None = None) -> _Search:
    """Everything that can be refused before anything is measured or written; arguments as for `searched`."""
    settings, limits = request.settings, request.limits.given()
    profiles = read_profiles(settings.profile)
    record = folder.read()
    metric = TASKS.get(str(record.request.get("task")), CLASSIFICATION).metric
    names = objective_names(settings.objectives, limits, metric, tuple(profiles))
    settings = replace(settings, objectives=names)
    objectives = named_objectives(names, limits, tuple(profiles))
    _check_numbers(settings)
    path = folder.search(settings.name)
    begun = folder.read_search(settings.name).request if (path / "search.json").exists() else {}
    loaded = load_run(folder, request.common.device, request.model)
    precisions = searched_precisions(settings, profiles, begun, loaded.supernet.model)
    latency = _latency_settings(settings, profiles)
    algorithm = settings.algorithm if proposing is None else proposing.name
    wanted = {
        **request_record(settings, algorithm, request.common.seed, limits, latency),
        **precisions_record(precisions),
        **profiles_fingerprint(profiles),
    }
    if begun:
        same_request(path, begun, wanted, "another search with --name")
    deployment = search_deployment(wanted, profiles, text=record.kind == "text")
    # A profile may be of a machine elsewhere; without one the networks are measured here.
    if not profiles:
        deployment = usable(loaded.on_its_device(deployment))
    space = space_with(joined_space(loaded.supernet, precisions), profiles)
    subject = partial(loaded.subject, precisions=precisions)
    predicted = predictions(subject, profiles, space, tokens=settings.tokens, threads=settings.threads)
    _measurable_here(names, predicted)
    rows = loaded.split("validation")
    if settings.rows is not None:
        rows = rows.take(settings.rows, generator(request.common.seed, "search rows"))
    quantized = None if precisions is None else loaded.quantized_networks()
    warm = None if settings.warm_start is None else study_at(settings.warm_start, besides=path)
    return _Search(
        replace(request, settings=settings),
        loaded,
        space,
        quantized or loaded.networks(),
        tuple(with_predictions(objectives, predicted)),
        predicted,
        profiles,
        latency,
        deployment,
        rows,
        wanted,
        warm,
        proposing or Proposing(settings.algorithm, _named_algorithm(settings.algorithm, quantized)),
    )


def _measurable_here(names: str, predicted: Mapping[str, PredictedLatency]) -> None:
    """UserError where energy or memory would be of this machine and the latencies of another."""
    first = next(iter(predicted.values()), None)
    why = None if first is None else elsewhere(first.profile, first.subject)
    for name in names.split(","):
        if why is not None and name in MEASURED and not is_latency(name):
            raise UserError(
                f"{name} is measured on this machine, and the first --profile is not of it ({why}); leave it out"
            )


def _check_numbers(settings: SearchSettings) -> None:
    for name in _COUNTS:
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if settings.timeout_s is not None and not settings.timeout_s > 0:
        raise UserError(f"--timeout-s must be above 0, got {settings.timeout_s}")
    if settings.storage is not None and not is_url(settings.storage):
        raise UserError(
            f"--storage must be the URL of a database, e.g. sqlite:///studies.db, got {settings.storage}; "
            "without it the study is a journal in the run folder"
        )


def _latency_settings(settings: SearchSettings, profiles: Mapping[str, DeviceProfile]) -> LatencySettings:
    """How latency is measured: as the flags say, else as the profiles were; UserError where they contradict."""
    first = next(iter(profiles.values()), None)
    if first is not None:
        for flag in ("runtime", "precision"):
            given, held = getattr(settings, flag), getattr(first, flag)
            if given is not None and given != held:
                raise UserError(
                    f"--{flag} must be that of the first --profile, {held}, got {given}; leave the flag out, or give a "
                    f"profile of {given}"
                )
        return LatencySettings(
            tokens=settings.tokens or _only(profiles, "tokens") or LatencySettings.tokens,
            threads=settings.threads or _only(profiles, "threads") or LatencySettings.threads,
            runtime=first.runtime,
            precision=first.precision,
        )
    return LatencySettings(
        tokens=settings.tokens or LatencySettings.tokens,
        threads=settings.threads or LatencySettings.threads,
        runtime=settings.runtime or LatencySettings.runtime,
        precision=BY_LAYER if settings.quantize else settings.precision or LatencySettings.precision,
    )


def _only(profiles: Mapping[str, DeviceProfile], name: str) -> int | None:
    values = {getattr(each, name) for each in profiles.values()}
    return next(iter(values)) if len(values) == 1 else None


def request_record(
    settings: SearchSettings, algorithm: str, seed: int, limits: Mapping[str, float], latency: LatencySettings
) -> dict[str, Scalar]:
    """What decides the outcome of a search but its budget, which may grow; defaults of later versions are left out."""
    named: dict[str, Scalar | None] = {"accuracy_threads": settings.accuracy_threads}
    if not settings.profile:
        # Profiles have their own entry, which stands for these too.
        for flag in ("runtime", "precision"):
            value = getattr(latency, flag)
            usual = value == getattr(LatencySettings, flag)
            # Precisions by layer have an entry of their own.
            named[flag] = None if usual or value == BY_LAYER else value
    if settings.calibration_rows != SearchSettings.calibration_rows:
        named[CALIBRATION_ROWS] = settings.calibration_rows
    if settings.warm_start is not None:
        named["warm_start"] = shown(settings.warm_start)
    if settings.storage is not None:
        # Which database, and never its password.
        scheme, digest = settings.storage.partition("://")[0], hashlib.sha256(shown(settings.storage).encode())
        named["storage"] = f"{scheme}-{digest.hexdigest()[:8]}"
    return {
        "objectives": (settings.objectives or "").replace(" ", ""),
        "algorithm": algorithm,
        "rows": settings.rows,
        "tokens": latency.tokens,
        "threads": latency.threads,
        **limits,
        **{name: value for name, value in named.items() if value is not None},
        "seed": seed,
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


def _measured(made: _Search, storage: Storage, path: Path) -> Study:
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


def _named_algorithm(name: str, quantized: QuantizedNetworks | None) -> Algorithm:
    """The algorithm of a name; LINAS begins a search over precisions with what sensitivities propose."""
    return StartedLinas(quantized) if name == "linas" and quantized is not None else _ALGORITHMS[name]


def _run(
    made: _Search,
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


def _verified(made: _Search, study: Study, path: Path) -> list[Verified]:
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
        "full": None if full is None else dict(full.values),
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
