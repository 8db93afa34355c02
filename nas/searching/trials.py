"""Measurements as trials of Optuna: one finished trial each, in the form that its own tools and dashboard read."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from nas.searching.measurement import Measurement, Objective
from search_spaces.space import Candidate, Choice, Space


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """No log lines of Optuna inside; its level is put back."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def in_memory(space: Space, objectives: Sequence[Objective], measurements: Sequence[Measurement]) -> optuna.Study:
    """A study in memory with a trial for each measurement."""
    with quiet_optuna(), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(directions=[objective.direction for objective in objectives])
        study.set_metric_names([objective.name for objective in objectives])
    for measurement in measurements:
        study.add_trial(to_trial(space, objectives, measurement))
    return study


def _distribution(choice: Choice) -> BaseDistribution:
    if isinstance(choice.options, range):
        return IntDistribution(choice.options[0], choice.options[-1], step=choice.options.step)
    return CategoricalDistribution(choice.options)


def to_trial(space: Space, objectives: Sequence[Objective], measurement: Measurement) -> FrozenTrial:
    """A finished trial: options of the active choices, raw values, seconds and the reason of a failure."""
    active = {name: option for name, option in measurement.candidate.items() if option is not None}
    failed = measurement.state == "failed"
    trial = optuna.trial.create_trial(
        state=TrialState.FAIL if failed else TrialState.COMPLETE,
        values=None if failed else [measurement.values[objective.name] for objective in objectives],
        params=active,
        distributions={name: _distribution(space[name]) for name in active},
        user_attrs=_told(measurement),
    )
    assert trial.datetime_complete is not None
    trial.datetime_start = trial.datetime_complete - timedelta(seconds=measurement.seconds)
    return trial


def _told(measurement: Measurement) -> dict[str, Any]:
    told: dict[str, Any] = {"seconds": measurement.seconds}
    if measurement.state == "failed":
        told["reason"] = measurement.reason
    if measurement.known:
        told["known"] = True
    return told


def from_trial(space: Space, objectives: Sequence[Objective], trial: FrozenTrial) -> Measurement:
    """The measurement that `to_trial` wrote; raises ValueError, KeyError or TypeError for any other trial."""
    if trial.state not in (TrialState.COMPLETE, TrialState.FAIL):
        raise ValueError(f"trial {trial.number} must be finished, got {trial.state.name}")
    candidate: Candidate = space.candidate(trial.params)
    if {name for name, option in candidate.items() if option is not None} != set(trial.params):
        raise ValueError(f"trial {trial.number} names choices that do not matter in it")
    seconds, known = float(trial.user_attrs["seconds"]), trial.user_attrs.get("known") is True
    if trial.state == TrialState.FAIL:
        return Measurement(candidate, {}, "failed", str(trial.user_attrs["reason"]), seconds, known)
    values = [float(value) for value in trial.values]
    if len(values) != len(objectives) or not np.isfinite(values).all():
        raise ValueError(f"trial {trial.number} must have {len(objectives)} finite values, got {values}")
    named = {objective.name: value for objective, value in zip(objectives, values, strict=True)}
    return Measurement(candidate, named, "measured", None, seconds, known)
