"""Convert measurements to finished trials of Optuna and back, in a form that Optuna's dashboard and plots can read."""

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

NUMBER = "supersieve_number"
"""Attribute of a trial: its number among the measurements of the study."""
EXTRAS = "extras"
"""Attribute of a trial: what its evaluation kept beside the values, as JSON data."""


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Context in which Optuna logs errors only; its log level is restored afterwards."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def in_memory(space: Space, objectives: Sequence[Objective], measurements: Sequence[Measurement]) -> optuna.Study:
    """Make an Optuna study in memory with one trial per measurement."""
    with quiet_optuna(), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(directions=[objective.direction for objective in objectives])
        study.set_metric_names([objective.name for objective in objectives])
    for measurement in measurements:
        study.add_trial(to_trial(space, objectives, measurement))
    return study


def _distribution(choice: Choice) -> BaseDistribution:
    """The distribution of a choice: integers for a range, so that Optuna plots them in order, else categories."""
    if isinstance(choice.options, range):
        return IntDistribution(choice.options[0], choice.options[-1], step=choice.options.step)
    return CategoricalDistribution(choice.options)


def to_trial(
    space: Space, objectives: Sequence[Objective], measurement: Measurement, number: int | None = None
) -> FrozenTrial:
    """Convert a measurement to a finished trial with the options of active choices, raw values and attributes.

    The attributes of the trial hold the seconds, the reason of a failure, whether the result was known before, and
    where it is stored, its number among the measurements.
    """
    # Optuna allows trials without some of the parameters, which is its way to express conditional choices.
    active = {name: option for name, option in measurement.candidate.items() if option is not None}
    failed = measurement.state == "failed"
    trial = optuna.trial.create_trial(
        state=TrialState.FAIL if failed else TrialState.COMPLETE,
        values=None if failed else [measurement.values[objective.name] for objective in objectives],
        params=active,
        distributions={name: _distribution(space[name]) for name in active},
        user_attrs=_attributes(measurement) if number is None else {**_attributes(measurement), NUMBER: number},
    )
    # `create_trial` gives both times the current time; move the start so that Optuna shows the true duration.
    assert trial.datetime_complete is not None
    trial.datetime_start = trial.datetime_complete - timedelta(seconds=measurement.seconds)
    return trial


def _attributes(measurement: Measurement) -> dict[str, Any]:
    attributes: dict[str, Any] = {"seconds": measurement.seconds}
    if measurement.state == "failed":
        attributes["reason"] = measurement.reason
    if measurement.known:
        attributes["known"] = True
    if measurement.extras:
        attributes[EXTRAS] = dict(measurement.extras)
    return attributes


def is_ours(trial: FrozenTrial) -> bool:
    """Whether a trial was made by `to_trial`, and not by another program that uses the same study."""
    return NUMBER in trial.user_attrs or "seconds" in trial.user_attrs


def check_order(trials: Sequence[FrozenTrial]) -> None:
    """Raise ValueError unless trials, each of another candidate, are all of the measurements in their order."""
    for number, trial in enumerate(trials):
        # Studies of earlier versions have no numbers.
        found = trial.user_attrs.get(NUMBER, number)
        if found != number:
            raise ValueError(f"measurement {number} must come next, trial {trial.number} holds measurement {found}")


def from_trial(space: Space, objectives: Sequence[Objective], trial: FrozenTrial) -> Measurement:
    """Convert a trial that `to_trial` made back to a measurement.

    Raises:
        ValueError, KeyError, TypeError: the trial was not made by `to_trial` for this space and these objectives.
    """
    if trial.state not in (TrialState.COMPLETE, TrialState.FAIL):
        raise ValueError(f"trial {trial.number} must be finished, got {trial.state.name}")
    candidate: Candidate = space.candidate(trial.params)
    if {name for name, option in candidate.items() if option is not None} != set(trial.params):
        raise ValueError(f"trial {trial.number} names choices that do not matter in it")
    seconds, known = float(trial.user_attrs["seconds"]), trial.user_attrs.get("known") is True
    extras = trial.user_attrs.get(EXTRAS, {})
    if not isinstance(extras, dict):
        raise TypeError(f"extras of trial {trial.number} must be an object, got {type(extras).__name__}")
    if trial.state == TrialState.FAIL:
        return Measurement(candidate, {}, "failed", str(trial.user_attrs["reason"]), seconds, known, extras)
    values = [float(value) for value in trial.values]
    if len(values) != len(objectives) or not np.isfinite(values).all():
        raise ValueError(f"trial {trial.number} must have {len(objectives)} finite values, got {values}")
    named = {objective.name: value for objective, value in zip(objectives, values, strict=True)}
    return Measurement(candidate, named, "measured", None, seconds, known, extras)
