"""A search as it is requested: everything that can be refused before anything is measured or written."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from hardware.deployment import Deployment
from hardware.profile import BY_LAYER, MOST_THREADS, DeviceProfile
from nas.data.split import Split
from nas.errors import UserError
from nas.networks.networks import Networks
from nas.networks.policies import joined_space
from nas.networks.quantized import QuantizedNetworks
from nas.objectives import MEASURED, is_latency
from nas.profiling.device_latency import elsewhere
from nas.profiling.objective import PredictedLatency
from nas.profiling.profiles import predictions, profiles_fingerprint, read_profiles, space_with, with_predictions
from nas.profiling.verified_record import read_verified
from nas.ray_address import check_answers
from nas.records import MOST, Scalar, same_request
from nas.runs.folder import RunFolder
from nas.runs.loaded_search import CALIBRATION_ROWS, search_deployment, study_at, usable
from nas.runs.loading import LoadedRun, load_run
from nas.runs.precisions import precisions_record, searched_precisions
from nas.runs.requests import SearchRequest
from nas.searching.first_policies import StartedLinas
from nas.searching.linas import linas
from nas.searching.measurement import Objective
from nas.searching.nsga2 import nsga2
from nas.searching.objectives import named_objectives, objective_names
from nas.searching.random_search import random_search
from nas.searching.relative_latency import ANOTHER_SEARCH, LatencySettings
from nas.searching.storage_address import Storage, is_url, resolved, shown
from nas.searching.supernet_search import Algorithm
from nas.seeds import generator
from nas.settings import SearchSettings
from search_spaces import Space

_ALGORITHMS: dict[str, Algorithm] = {"linas": linas, "nsga2": nsga2, "random": random_search}
_COUNTS = (
    *("budget", "rows", "tokens", "threads", "accuracy_threads"),
    *("workers", "lag", "patience", "verify", "calibration_rows"),
)
_AS_MANY_AS_THERE_ARE = ("budget", "patience", "lag", "verify")


@dataclass(frozen=True)
class Proposing:
    """What proposes the candidates of a search.

    Args:
        name: of the algorithm, as search.json has it.
        algorithm: proposes them.
        title: of the progress bar; None: how many sub-networks there are.
        goes_on: whether more could be proposed: then the search may be given up, and its end is said.
        anew: what to do for exact latencies where other programs kept the machine busy.
    """

    name: str
    algorithm: Algorithm
    title: str | None = None
    goes_on: bool = True
    anew: str = f"{ANOTHER_SEARCH} with --name"


@dataclass(frozen=True)
class CheckedSearch:
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
        """Those of the request, with the names of all objectives."""
        return self.request.settings


def checked_search(folder: RunFolder, request: SearchRequest, proposing: Proposing | None = None) -> CheckedSearch:
    """Everything that can be refused before anything is measured or written; arguments as for `search.searched`."""
    settings, limits = request.settings, request.limits.checked()
    profiles = read_profiles(settings.profile)
    record = folder.read()
    names = objective_names(settings.objectives, limits, record.task.metric, tuple(profiles))
    settings = _from_any_folder(replace(settings, objectives=names))
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
    # What the front was measured as is read now, so that a damaged record is refused before the study goes on.
    read_verified(path, space)
    quantized = None if precisions is None else loaded.quantized_networks()
    warm = None if settings.warm_start is None else study_at(settings.warm_start, besides=path)
    return CheckedSearch(
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


def _from_any_folder(settings: SearchSettings) -> SearchSettings:
    """The settings with places that are the same from whatever folder the command is repeated."""
    storage, warm = settings.storage, settings.warm_start
    return replace(
        settings,
        storage=resolved(storage) if storage is not None and is_url(storage) else storage,
        warm_start=resolved(warm) if warm is not None and is_url(warm) else warm,
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
        most = MOST_THREADS if "threads" in name else MOST
        if value is not None and value > most and name not in _AS_MANY_AS_THERE_ARE:
            raise UserError(f"--{name.replace('_', '-')} must be from 1 to {most}, got {value}")
    if settings.timeout_s is not None and not settings.timeout_s > 0:
        raise UserError(f"--timeout-s must be above 0, got {settings.timeout_s}")
    if settings.ray_address is not None:
        check_answers(settings.ray_address)
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


def _named_algorithm(name: str, quantized: QuantizedNetworks | None) -> Algorithm:
    """The algorithm of a name; LINAS begins a search over precisions with what sensitivities propose."""
    return StartedLinas(quantized) if name == "linas" and quantized is not None else _ALGORITHMS[name]
