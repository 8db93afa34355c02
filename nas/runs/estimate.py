"""What `--dry-run` prints: time and memory, from a few steps that are really run and leave nothing behind."""

import time
from typing import Any

from nas.memory import peak_memory_mib
from nas.profiling.profiles import predictions, read_profiles, space_with, with_predictions
from nas.runs.asked_search import check_search, latency_settings, run_search
from nas.runs.folder import RunFolder
from nas.runs.loading import load_run
from nas.runs.requests import SearchRequest
from nas.searching.objectives import LATENCY, named_objectives, objective_names
from nas.searching.random_search import random_search
from nas.settings import SearchSettings

_CANDIDATES = 3


def searching(request: SearchRequest) -> dict[str, Any]:
    """Time and memory of `nas search`, from three random sub-networks; UserError for wrong input."""
    settings, limits = request.settings, request.limits
    opened = load_run(RunFolder(request.run), request.common.device, request.model)
    profiles = read_profiles(settings.profile)
    names = objective_names(settings, limits, opened.record, tuple(profiles))
    space = space_with(opened.supernet.space, profiles)
    predicted = predictions(opened, profiles, space, settings)
    objectives = with_predictions(named_objectives(names, limits, tuple(profiles)), predicted)
    check_search(settings)
    started = time.monotonic()
    # In this process and in memory; the limits and the warm start change what is measured, not how long it takes.
    few = SearchSettings(names, _CANDIDATES, rows=settings.rows, accuracy_threads=settings.accuracy_threads)
    study = run_search(
        opened,
        objectives,
        few,
        request.common.seed,
        storage=None,
        latency=latency_settings(settings, profiles.values()),
        algorithm=random_search,
        space=space,
    )
    each = [measurement.seconds for measurement in study.measurements]
    start_up = time.monotonic() - started - sum(each)
    # Latencies are measured one at a time, whatever the workers do.
    measured = [each.name for each in objectives if each.exact is None]
    at_a_time = 1 if LATENCY in measured else settings.workers
    budget = min(settings.budget, space.size())
    return {
        "sub_networks": str(space.size()),
        "budget": budget,
        "seconds_a_candidate": sum(each) / len(each),
        "seconds": start_up + budget * sum(each) / len(each) / at_a_time,
        "peak_memory_mib": peak_memory_mib(),
    }
