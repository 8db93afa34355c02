"""The record of a search: what was measured, what is best, the journal that survives a kill (only home of optuna).

With a storage the study is an Optuna study in Optuna's journal file: one finished trial a measured candidate, in order
of commitment, each one write. What the search was asked for stands in the study's user attributes, so that another
search never continues it. A last line torn by a kill is dropped when the search goes on.
"""

import dataclasses
import fcntl
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from nas.errors import UserError
from nas.searching import pareto
from nas.searching.evaluation import Evaluate, Evaluations, Measurement, Objective, OnResult, violations
from nas.searching.selection import select
from nas.seeds import generator
from predictors import Quality
from search_spaces.space import Candidate, Choice, Space

FloatArray = npt.NDArray[np.float64]

_NAME = "supersieve"
_VERSION = 1
_LINE_START = b'{"op_code":'


@dataclass(frozen=True)
class Recipe:
    """What makes a search the same search: its algorithm, settings (a frozen dataclass), seed and lag."""

    algorithm: str
    config: Any
    seed: int
    lag: int


class Study:
    """The measured candidates of one search, in order of commitment, and the best of them.

    Args:
        keep: called with each further measurement before it counts.

    Attributes:
        quality: round by round, how well the newest candidates were predicted before they were learned from, by the
            name of the objective; empty where nothing is predicted, and not stored.
    """

    def __init__(
        self,
        space: Space,
        objectives: Sequence[Objective],
        measurements: Sequence[Measurement] = (),
        keep: Callable[[Measurement], None] | None = None,
    ) -> None:
        self.space = space
        self.objectives = tuple(objectives)
        self._measurements = list(measurements)
        self._keep = keep
        self.quality: list[dict[str, Quality]] = []

    @property
    def measurements(self) -> list[Measurement]:
        """Everything committed, in order, failed ones too."""
        return list(self._measurements)

    def commit(self, measurement: Measurement) -> None:
        """Add one result, on the disk first; raises UserError when it cannot be written."""
        if self._keep is not None:
            self._keep(measurement)
        self._measurements.append(measurement)

    def front(self) -> list[Measurement]:
        """The measured candidates within the limits that no other dominates, best in the first objective first."""
        values = self._minimised()
        best = np.flatnonzero(pareto.front(values, violations(values, self.objectives)))
        return [self._measurements[i] for i in best[np.lexsort(values[best].T[::-1])]]

    def select(self, limits: Mapping[str, float] | None = None, **named: float) -> Measurement:
        """The best in the first objective, ties by the next, of those within all limits, the objectives' own included.

        Args:
            limits: bounds on raw values, `max_` or `min_` + objective name, e.g. `{"max_latency_ms": 8}`.
            named: the same as keywords.

        Raises:
            UserError: a limit on something that is no objective of this study, or that is no finite number.
            NoFeasible: nothing measured meets the limits; the message names the nearest.
        """
        return select(self._measurements, self.objectives, {**(limits or {}), **named})

    def hypervolume(self, reference: Sequence[float]) -> float:
        """Volume between the measured candidates and `reference` (raw values in the order of the objectives).

        Raises:
            UserError: `reference` has not one finite number an objective.
        """
        bound = np.asarray(reference, dtype=np.float64)
        if bound.shape != (len(self.objectives),) or not np.isfinite(bound).all():
            names = ", ".join(objective.name for objective in self.objectives)
            raise UserError(f"the reference must hold one finite number each for {names}, got {reference}")
        return pareto.hypervolume(self._minimised(), bound * [objective.sign for objective in self.objectives])

    def to_pandas(self) -> pd.DataFrame:
        """One row a measurement: number, state, reason, seconds, `values_<objective>`, `params_<choice>`."""
        rows = [
            {
                "number": number,
                "state": m.state,
                "reason": m.reason,
                "seconds": m.seconds,
                **{f"values_{o.name}": m.values.get(o.name, math.nan) for o in self.objectives},
                **{f"params_{name}": option for name, option in m.candidate.items()},
            }
            for number, m in enumerate(self._measurements)
        ]
        return pd.DataFrame(rows)

    def to_optuna(self) -> optuna.Study:
        """A copy as an Optuna study in memory, e.g. for `optuna.visualization`."""
        with _quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(directions=[objective.direction for objective in self.objectives])
            study.set_metric_names([objective.name for objective in self.objectives])
        for measurement in self._measurements:
            study.add_trial(_to_trial(self.space, self.objectives, measurement))
        return study

    def _minimised(self) -> FloatArray:
        """(n, m), NaN where failed."""
        rows = [[o.sign * m.values.get(o.name, math.nan) for o in self.objectives] for m in self._measurements]
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(self.objectives))


@contextmanager
def searching(
    space: Space,
    evaluate: Evaluate,
    objectives: Sequence[Objective],
    recipe: Recipe,
    *,
    budget: int,
    storage: Path | None,
    chunk_size: int,
    on_result: OnResult | None,
) -> Iterator[tuple[Study, Evaluations]]:
    """A study, begun or taken up again in `storage`, and the evaluations of one search.

    On leaving without an error, what is left of the budget goes to random candidates, and what is proposed is measured.

    Raises:
        UserError: settings out of range, a space that lacks a choice, or a storage that is damaged, in use, not
            writable, or of another search.
    """
    _check(space, objectives, recipe, {"budget": budget, "chunk_size": chunk_size, "lag": recipe.lag})
    with _journal(storage, space, objectives, recipe) as study:
        run = Evaluations(
            space,
            evaluate,
            objectives,
            study,
            budget=budget,
            chunk_size=chunk_size,
            lag=recipe.lag,
            on_result=on_result,
        )
        yield study, run
        while run.remaining:
            run.propose(space.encode([]), generator(recipe.seed, "fill up", run.proposed))
        run.finish()


def load_study(path: Path) -> Study:
    """Read a study from its journal, without changing the file; exact objectives have lost their function.

    Raises:
        UserError: no such file, or not the journal of a study.
    """
    if not path.is_file():
        raise UserError(f"there is no study at {path}; run the search first")
    stored = _read(path, _whole_length(path))
    attributes = None if stored is None else stored.user_attrs.get(_NAME)
    if stored is None or attributes is None:
        raise UserError(f"{path} holds no study of this project; name the file that the search wrote")
    try:
        space = Space.from_json(attributes["space"])
        objectives = [Objective(o["name"], o["direction"], o["limit"]) for o in attributes["objectives"]]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the study at {path} is damaged: {error}") from error
    return Study(space, objectives, _measurements(path, stored, space, objectives))


def _check(space: Space, objectives: Sequence[Objective], recipe: Recipe, counts: Mapping[str, int]) -> None:
    for name, value in counts.items():
        if value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")
    if recipe.seed < 0:
        raise UserError(f"seed must not be negative, got {recipe.seed}")
    names = [objective.name for objective in objectives]
    if not names or len(set(names)) != len(names):
        raise UserError(f"objectives must be at least one, with distinct names, got {names}")
    try:
        space.size()
    except ValueError as error:
        raise UserError(str(error)) from error


@contextmanager
def _journal(storage: Path | None, space: Space, objectives: Sequence[Objective], recipe: Recipe) -> Iterator[Study]:
    if storage is None:
        yield Study(space, objectives)
        return
    path = Path(storage)
    with _cannot_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"the study at {path} is being written by another process; wait for it to end") from error
        length = _whole_length(path)
        stored = _read(path, length)
        kept = [] if stored is None else _of_same_search(path, stored, space, objectives, recipe)
        with _cannot_write(path):
            file.truncate(length)
            # Nobody else writes while we hold the file: a lock that Optuna left there is of a killed process.
            Path(f"{path}.lock").unlink(missing_ok=True)
            stored = _begin(path, _identity(space, objectives, recipe), objectives)

        def keep(measurement: Measurement) -> None:
            with _cannot_write(path):
                stored.add_trial(_to_trial(space, objectives, measurement))

        yield Study(space, objectives, kept, keep)


@contextmanager
def _cannot_write(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"the study cannot be written to {path}: {error.strerror or error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _whole_length(path: Path) -> int:
    """Bytes of the journal without a last line torn by a kill; raises UserError when it is torn or wrong otherwise."""
    content = path.read_bytes()
    length = content.rfind(b"\n") + 1
    torn = content[length:][: len(_LINE_START)]
    lines = content[:length].splitlines()
    try:
        whole = not lines or "op_code" in json.loads(lines[-1])
    except (ValueError, TypeError, RecursionError):
        whole = False
    if not whole or not _LINE_START.startswith(torn):
        raise UserError(f"the study at {path} is damaged or no journal; name another file or put a copy in its place")
    return length


def _read(path: Path, length: int) -> optuna.Study | None:
    """Our study in the journal, None when it has none; raises UserError for a damaged journal."""
    if length == 0:
        return None
    try:
        with _quiet():
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
            if _NAME not in optuna.get_all_study_names(storage):
                return None
            return optuna.load_study(study_name=_NAME, storage=storage)
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, RecursionError) as error:
        raise UserError(f"the study at {path} is damaged: {type(error).__name__}: {error}") from error


def _begin(path: Path, identity: Mapping[str, Any], objectives: Sequence[Objective]) -> optuna.Study:
    """Our study in the journal, created where it is missing."""
    with _quiet():
        study = optuna.create_study(
            study_name=_NAME,
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(path))),
            directions=[objective.direction for objective in objectives],
            load_if_exists=True,
        )
    if _NAME not in study.user_attrs:
        study.set_user_attr(_NAME, dict(identity))
    return study


def _identity(space: Space, objectives: Sequence[Objective], recipe: Recipe) -> dict[str, Any]:
    return {
        "version": _VERSION,
        "space": space.to_json(),
        "objectives": [
            {"name": o.name, "direction": o.direction, "limit": o.limit, "exact": o.exact is not None}
            for o in objectives
        ],
        "algorithm": recipe.algorithm,
        "config": _plain(recipe.config),
        "seed": recipe.seed,
        "lag": recipe.lag,
    }


def _plain(value: Any) -> Any:
    """Settings as JSON data; a function is named by its module and name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if callable(value):
        return f"{value.__module__}:{value.__qualname__}"
    return value


def _of_same_search(
    path: Path, stored: optuna.Study, space: Space, objectives: Sequence[Objective], recipe: Recipe
) -> list[Measurement]:
    """What an earlier run of the same search measured; raises UserError when it was another search."""
    there = stored.user_attrs.get(_NAME)
    trials = stored.get_trials(deepcopy=False)
    if there is None and not trials:
        return []
    here = json.loads(json.dumps(_identity(space, objectives, recipe)))
    if not isinstance(there, dict) or there.get("version") != _VERSION:
        raise UserError(f"the study at {path} must be of version {_VERSION}; name another file")
    for key, value in here.items():
        if there.get(key) != value:
            shown = "" if key == "space" else f" ({there.get(key)}, here {value})"
            raise UserError(f"the study at {path} belongs to a search with another {key}{shown}; name another file")
    return _measurements(path, stored, space, objectives)


def _measurements(path: Path, stored: optuna.Study, space: Space, objectives: Sequence[Objective]) -> list[Measurement]:
    try:
        found = [_from_trial(space, objectives, trial) for trial in stored.get_trials(deepcopy=False)]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"the study at {path} is damaged: {error}") from error
    if len({measurement.candidate for measurement in found}) != len(found):
        raise UserError(f"the study at {path} is damaged: a candidate was recorded twice")
    return found


def _distribution(choice: Choice) -> BaseDistribution:
    if isinstance(choice.options, range):
        return IntDistribution(choice.options[0], choice.options[-1], step=choice.options.step)
    return CategoricalDistribution(choice.options)


def _to_trial(space: Space, objectives: Sequence[Objective], measurement: Measurement) -> FrozenTrial:
    """A finished trial: options of the active choices, raw values, seconds and the reason of a failure."""
    active = {name: option for name, option in measurement.candidate.items() if option is not None}
    failed = measurement.state == "failed"
    trial = optuna.trial.create_trial(
        state=TrialState.FAIL if failed else TrialState.COMPLETE,
        values=None if failed else [measurement.values[objective.name] for objective in objectives],
        params=active,
        distributions={name: _distribution(space[name]) for name in active},
        user_attrs={"seconds": measurement.seconds} | ({"reason": measurement.reason} if failed else {}),
    )
    assert trial.datetime_complete is not None
    trial.datetime_start = trial.datetime_complete - timedelta(seconds=measurement.seconds)
    return trial


def _from_trial(space: Space, objectives: Sequence[Objective], trial: FrozenTrial) -> Measurement:
    if trial.state not in (TrialState.COMPLETE, TrialState.FAIL):
        raise ValueError(f"trial {trial.number} must be finished, got {trial.state.name}")
    candidate: Candidate = space.candidate(trial.params)
    if {name for name, option in candidate.items() if option is not None} != set(trial.params):
        raise ValueError(f"trial {trial.number} names choices that do not matter in it")
    seconds = float(trial.user_attrs["seconds"])
    if trial.state == TrialState.FAIL:
        return Measurement(candidate, {}, "failed", str(trial.user_attrs["reason"]), seconds)
    values = [float(value) for value in trial.values]
    if len(values) != len(objectives) or not np.isfinite(values).all():
        raise ValueError(f"trial {trial.number} must have {len(objectives)} finite values, got {values}")
    named = {objective.name: value for objective, value in zip(objectives, values, strict=True)}
    return Measurement(candidate, named, "measured", None, seconds)
