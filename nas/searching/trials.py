"""Convert measurements to finished trials of Optuna and back, in a form that Optuna's dashboard and plots can read."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from nas.searching.domain import C, Domain
from nas.searching.measurement import Measurement, Objective, refused_extras, refused_values
from search_spaces.space import Option

NUMBER = "supersieve_number"
"""Attribute of a trial: its number among the measurements of the study."""
EXTRAS = "extras"
"""Attribute of a trial: what its evaluation kept beside the values, as JSON data."""
CANDIDATE = "supersieve_candidate"
"""Attribute of a trial: the candidate as JSON data, where its parameters do not tell it."""


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Context in which Optuna logs errors only; its log level is restored afterwards."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def in_memory(
    domain: Domain[C], objectives: Sequence[Objective], measurements: Sequence[Measurement[C]]
) -> optuna.Study:
    """Make an Optuna study in memory with one trial per measurement."""
    with quiet_optuna(), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(directions=[objective.direction for objective in objectives])
        study.set_metric_names([objective.name for objective in objectives])
    for measurement in measurements:
        study.add_trial(to_trial(domain, objectives, measurement))
    return study


def _distribution(options: Sequence[Option]) -> BaseDistribution:
    """The distribution of a parameter: integers for a range, so that Optuna plots them in order, else categories."""
    if isinstance(options, range):
        return IntDistribution(options[0], options[-1], step=options.step)
    return CategoricalDistribution(options)


def _active(domain: Domain[C], candidate: C) -> dict[str, Option]:
    return {name: option for name, option in domain.parameters(candidate).items() if option is not None}


def to_trial(
    domain: Domain[C], objectives: Sequence[Objective], measurement: Measurement[C], number: int | None = None
) -> FrozenTrial:
    """Convert a measurement to a finished trial with the parameters that matter, raw values and attributes.

    The attributes of the trial hold the seconds, the reason of a failure, whether the result was known before, the
    candidate where the parameters do not tell it, and where it is stored, its number among the measurements.
    """
    # Optuna allows trials without some of the parameters, which is its way to express conditional choices.
    active = _active(domain, measurement.candidate)
    attributes = _attributes(measurement)
    if not domain.parameters_suffice:
        attributes[CANDIDATE] = domain.to_json(measurement.candidate)
    if number is not None:
        attributes[NUMBER] = number
    failed = measurement.state == "failed"
    trial = optuna.trial.create_trial(
        state=TrialState.FAIL if failed else TrialState.COMPLETE,
        values=None if failed else [measurement.values[objective.name] for objective in objectives],
        params=active,
        distributions={name: _distribution(domain.options(name)) for name in active},
        user_attrs=attributes,
    )
    # `create_trial` gives both times the current time; move the start so that Optuna shows the true duration.
    assert trial.datetime_complete is not None
    trial.datetime_start = trial.datetime_complete - timedelta(seconds=measurement.seconds)
    return trial


def _attributes(measurement: Measurement[C]) -> dict[str, Any]:
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


def from_trial(domain: Domain[C], objectives: Sequence[Objective], trial: FrozenTrial) -> Measurement[C]:
    """Convert a trial that `to_trial` made back to a measurement.

    Raises:
        ValueError, KeyError, TypeError: the trial was not made by `to_trial` for this domain and these objectives.
    """
    if trial.state not in (TrialState.COMPLETE, TrialState.FAIL):
        raise ValueError(f"trial {trial.number} must be finished, got {trial.state.name}")
    candidate = domain.from_json(trial.params if domain.parameters_suffice else trial.user_attrs[CANDIDATE])
    if _active(domain, candidate) != trial.params:
        raise ValueError(f"trial {trial.number} has parameters that are not those of its candidate")
    seconds, known = float(trial.user_attrs["seconds"]), trial.user_attrs.get("known") is True
    extras = trial.user_attrs.get(EXTRAS, {})
    if not isinstance(extras, dict):
        raise TypeError(f"extras of trial {trial.number} must be an object, got {type(extras).__name__}")
    if why := refused_extras(extras):
        raise ValueError(f"trial {trial.number}: {why}")
    if trial.state == TrialState.FAIL:
        return Measurement(candidate, {}, "failed", str(trial.user_attrs["reason"]), seconds, known, extras)
    values = [float(value) for value in trial.values]
    if len(values) != len(objectives):
        raise ValueError(f"trial {trial.number} must have {len(objectives)} values, got {values}")
    named = {objective.name: value for objective, value in zip(objectives, values, strict=True)}
    if bad := refused_values(named):
        raise ValueError(f"trial {trial.number}: {', '.join(bad)}")
    return Measurement(candidate, named, "measured", None, seconds, known, extras)
