"""A search of a run as it is asked for: checked, told from others, and run."""

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

from hardware.profile import DeviceProfile
from nas.errors import UserError
from nas.records import Scalar
from nas.runs.folder import JOURNAL, RunFolder
from nas.runs.loading import LoadedRun
from nas.searching.evaluation import OnResult
from nas.searching.linas import linas
from nas.searching.measurement import Objective
from nas.searching.nsga2 import nsga2
from nas.searching.random_search import random_search
from nas.searching.relative_latency import LatencySettings
from nas.searching.storage import Storage, is_url, shown
from nas.searching.study import Study
from nas.searching.supernet_search import Algorithm, search
from nas.searching.workers import Workers
from nas.seeds import generator
from nas.settings import Common, Limits, SearchSettings
from search_spaces import Space

_ALGORITHMS: dict[str, Algorithm] = {"linas": linas, "nsga2": nsga2, "random": random_search}


def check_search(settings: SearchSettings) -> None:
    """UserError for a number out of its range, or a storage that is no database."""
    for name in ("budget", "tokens", "threads", "accuracy_threads", "workers", "patience"):
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


def latency_settings(settings: SearchSettings, profiles: Collection[DeviceProfile] = ()) -> LatencySettings:
    """How latency is measured: as asked, else as the profiles were if they all were alike."""
    tokens, threads = ({getattr(each, name) for each in profiles} for name in ("tokens", "threads"))
    return LatencySettings(
        tokens=settings.tokens or _only(tokens) or LatencySettings.tokens,
        threads=settings.threads or _only(threads) or LatencySettings.threads,
    )


def _only(values: Collection[int | None]) -> int | None:
    return next(iter(values)) if len(values) == 1 else None


def asked_of_search(
    settings: SearchSettings, limits: Limits, common: Common, latency: LatencySettings
) -> dict[str, Scalar]:
    """What decides the outcome of a search but its budget, which may grow."""
    named: dict[str, Scalar | None] = {"accuracy_threads": settings.accuracy_threads}
    if settings.warm_start is not None:
        named["warm_start"] = shown(settings.warm_start)
    if settings.storage is not None:
        # Which database, and never its password.
        scheme, digest = settings.storage.partition("://")[0], hashlib.sha256(shown(settings.storage).encode())
        named["storage"] = f"{scheme}-{digest.hexdigest()[:8]}"
    return {
        "objectives": (settings.objectives or "").replace(" ", ""),
        "algorithm": settings.algorithm,
        "rows": settings.rows,
        "tokens": latency.tokens,
        "threads": latency.threads,
        **limits.given(),
        **{name: value for name, value in named.items() if value is not None},
        "seed": common.seed,
    }


def run_search(
    opened: LoadedRun,
    objectives: Sequence[Objective],
    settings: SearchSettings,
    seed: int,
    *,
    storage: Storage | None,
    latency: LatencySettings,
    latency_file: Path | None = None,
    on_result: OnResult | None = None,
    algorithm: Algorithm | None = None,
    space: Space | None = None,
    warm_start: Storage | None = None,
) -> Study:
    """One search of an opened run on its validation rows; UserError for settings out of range.

    `space` has fewer options than the super-network's, None: all of them. The place of `warm_start` is given, because
    the settings may name a run for it.
    """
    rows = opened.split("validation")
    if settings.rows is not None:
        if settings.rows < 1:
            raise UserError(f"--rows must be at least 1, got {settings.rows}")
        rows = rows.take(settings.rows, generator(seed, "search rows"))
    return search(
        opened.supernet,
        space or opened.supernet.space,
        rows,
        objectives,
        budget=settings.budget,
        seed=seed,
        algorithm=algorithm or _ALGORITHMS[settings.algorithm],
        storage=storage,
        example_inputs=opened.example(latency.tokens),
        latency=latency,
        latency_file=latency_file,
        calibration=opened.calibration(),
        threads=settings.accuracy_threads,
        on_result=on_result,
        workers=Workers(settings.workers, settings.ray, settings.ray_address),
        timeout_s=settings.timeout_s,
        patience=settings.patience,
        warm_start=warm_start,
    )


def study_at(place: str, besides: Path | None = None) -> Storage:
    """The study or table that a warm start names, where it may name the folder of a search or of a run too.

    Args:
        besides: the folder of the search that is to begin with it, which a run's folder does not stand for.

    Raises:
        UserError: a run that has several searches and none with the usual name, or none.
    """
    path = Path(place)
    if is_url(place) or not path.is_dir():
        return place if is_url(place) else path
    folder = RunFolder(path)
    if not folder.run_json.is_file():
        return path / JOURNAL
    itself = besides and besides.resolve()
    names = [name for name in folder.searches() if folder.search(name).resolve() != itself]
    name = names[0] if len(names) == 1 else SearchSettings.name
    if name not in names:
        known = ", ".join(names) or "none yet"
        raise UserError(f"{place} has no search named {name} (searches: {known}); name the folder of a search")
    return folder.search(name) / JOURNAL
