"""What `--dry-run` prints: time and memory, from a few steps that are really run and leave nothing behind."""

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from nas.learning.instatune import instatune
from nas.learning.preparation import instatune_config, prepare, training_config
from nas.learning.strong_teacher import given_teacher
from nas.learning.training import Step, fine_tune
from nas.memory import peak_memory_mib
from nas.profiling.profiles import predictions, read_profiles, space_with, with_predictions
from nas.runs.asked_search import check_search, latency_settings, run_search
from nas.runs.export import named_candidate
from nas.runs.folder import RunFolder
from nas.runs.loading import open_run
from nas.runs.objectives import LATENCY, named_objectives, objective_names
from nas.runs.requests import FinetuneRequest, FurtherRequest, SearchRequest
from nas.searching.random_search import random_search
from nas.settings import SearchSettings

_STEPS = 4
_CANDIDATES = 3


def finetuning(request: FinetuneRequest) -> dict[str, Any]:
    """Time and memory of `nas finetune`, from four steps; UserError for wrong input."""
    config, recipe = instatune_config(request), request.recipe
    prepared = prepare(request)
    train, steps = prepared.data.train, config.total_steps(len(prepared.data.train))
    seconds: list[float] = []
    # Checkpoints and the ordering of units hold a second copy of the weights.
    second = copy.deepcopy(prepared.supernet)
    few = replace(config, steps=min(_STEPS, steps), patience=None)
    teaches = config.distillation != "low-cost" and recipe.teacher is None
    teacher = given_teacher(recipe.teacher, prepared.data) if recipe.teacher else second.model if teaches else None
    instatune(prepared.supernet, train, few, teacher=teacher, on_step=_seconds_of_steps(seconds))
    found = {"sub_networks": str(prepared.supernet.space.size()), "rows": len(train), **_training(seconds, steps)}
    if teaches:
        plain, seconds = replace(training_config(request.training, request.common), steps=few.steps, patience=None), []
        fine_tune(second.model, train, plain, on_step=_seconds_of_steps(seconds))
        found = {**found, "teacher": _training(seconds, steps)}
    return found


def further(request: FurtherRequest) -> dict[str, Any]:
    """Time and memory of `nas finetune --candidate`, from four steps; UserError or NoFeasible for wrong input."""
    config = training_config(request.training, request.common)
    opened = open_run(RunFolder(request.run), request.common.device, request.network)
    chosen = named_candidate(opened, request)
    train, seconds = opened.split("train"), list[float]()
    steps = config.total_steps(len(train))
    few = replace(config, steps=min(_STEPS, steps), patience=None)
    fine_tune(opened.supernet.extract(chosen.candidate), train, few, on_step=_seconds_of_steps(seconds))
    return {"candidate": dict(chosen.candidate), "rows": len(train), **_training(seconds, steps)}


def _seconds_of_steps(seconds: list[float]) -> Callable[[Step], None]:
    return lambda step: seconds.append(step.seconds)


def _training(seconds: list[float], steps: int) -> dict[str, Any]:
    return {
        "steps": steps,
        "seconds_a_step": min(seconds),
        "seconds": steps * sum(seconds) / len(seconds),
        "peak_memory_mib": peak_memory_mib(),
    }


def searching(request: SearchRequest) -> dict[str, Any]:
    """Time and memory of `nas search`, from three random sub-networks; UserError for wrong input."""
    settings, limits = request.settings, request.limits
    opened = open_run(RunFolder(request.run), request.common.device, request.network)
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
