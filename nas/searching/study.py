"""The record of a search: what was measured, what is best, and the search that writes it."""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict, runtime_checkable

import numpy as np
import optuna
import pandas as pd

from nas.errors import NoFeasible, UserError
from nas.searching import pareto
from nas.searching.enumeration import every_row
from nas.searching.evaluation import Evaluations, OnResult, check_counts
from nas.searching.measurement import Evaluate, Measurement, Objective, Staged, violations
from nas.searching.selection import select
from nas.searching.storage import Storage, open_study, read_study
from nas.searching.trials import in_memory
from nas.searching.workers import Workers, mapped
from nas.seeds import generator
from predictors import Quality
from search_spaces.arrays import FloatArray
from search_spaces.space import Candidate, Space

_LISTED = 10_000


@dataclass(frozen=True)
class SearchIdentity:
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

    def find(self, candidate: Candidate) -> Measurement | None:
        """The measurement of a candidate, if it was measured."""
        return next((m for m in self._measurements if m.candidate == candidate and m.state == "measured"), None)

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
        """One row a measurement: number, state, reason, seconds, known, `values_<objective>`, `params_<choice>`."""
        rows = [
            {
                "number": number,
                "state": m.state,
                "reason": m.reason,
                "seconds": m.seconds,
                "known": m.known,
                **{f"values_{o.name}": m.values.get(o.name, math.nan) for o in self.objectives},
                **{f"params_{name}": option for name, option in m.candidate.items()},
            }
            for number, m in enumerate(self._measurements)
        ]
        return pd.DataFrame(rows)

    def to_optuna(self) -> optuna.Study:
        """A copy as an Optuna study in memory, e.g. for `optuna.visualization`."""
        return in_memory(self.space, self.objectives, self._measurements)

    def _minimised(self) -> FloatArray:
        """(n, m), NaN where failed."""
        rows = [[o.sign * m.values.get(o.name, math.nan) for o in self.objectives] for m in self._measurements]
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(self.objectives))


@runtime_checkable
class Watcher(Protocol):
    """An `on_result` that is shown the study too, before the first result."""

    def begin(self, study: Study) -> None:
        """The search begins, or goes on."""

    def __call__(self, measurement: Measurement, number: int) -> None:
        """As `on_result`."""


class Running(TypedDict, total=False):
    """How a search runs, in keywords that all algorithms take; nothing of it makes it another search but `known`.

    Args:
        storage: journal file of the study, or URL of a database (`nas.searching.storage`); a study of the same search
            is resumed, with a larger budget if asked. None: kept in memory.
        chunk_size: longest list that `evaluate` is called with.
        on_result: called after each commitment with the measurement and the number committed; a search that goes on
            tells of what it replays too, one that was at its end already of nothing.
        workers: how many candidates are measured at a time, in Ray actors where it is more than one; never changes the
            study.
        timeout_s: seconds after which a candidate has failed; needs Ray for one worker too (`nas.searching.workers`).
        patience: stop when so many results in a row did not enlarge the hypervolume; None: never.
        known: results from elsewhere (`nas.searching.warm_start`): learned from, never measured again, not counted.
    """

    storage: Storage | None
    chunk_size: int
    on_result: OnResult | None
    workers: int | Workers
    timeout_s: float | None
    patience: int | None
    known: Sequence[Measurement]


@contextmanager
def searching(
    space: Space,
    evaluate: Evaluate | Staged,
    objectives: Sequence[Objective],
    search_identity: SearchIdentity,
    *,
    budget: int,
    storage: Storage | None = None,
    chunk_size: int = 1,
    on_result: OnResult | None = None,
    workers: int | Workers = 1,
    timeout_s: float | None = None,
    patience: int | None = None,
    known: Sequence[Measurement] = (),
) -> Iterator[tuple[Study, Evaluations]]:
    """A study, begun or taken up again in `storage`, and the evaluations of one search.

    Where the budget reaches the size of the space and no patience ends it, every candidate is proposed at once. On
    leaving without an error, what is left of the budget goes to random candidates, and what is proposed is measured.
    Keywords: see `Running`.

    Raises:
        UserError: settings out of range, a space that lacks a choice, or a storage that is damaged, in use, not
            writable, or of another search.
        NoFeasible: every candidate of the space breaks the limit of an objective with a formula.
    """
    check_counts(budget=budget, chunk_size=chunk_size, lag=search_identity.lag, patience=patience)
    _check(space, objectives, search_identity, known)
    identity = _identity(space, objectives, search_identity, known)
    with _record(storage, space, objectives, identity) as study, mapped(workers, timeout_s) as run_chunks:
        if isinstance(on_result, Watcher):
            on_result.begin(study)
        run = Evaluations(
            space,
            evaluate,
            objectives,
            study,
            budget=budget,
            chunk_size=chunk_size,
            lag=search_identity.lag,
            on_result=on_result,
            known=known,
            patience=patience,
            run_chunks=run_chunks,
        )
        if run.remaining and patience is None and budget >= space.size() - len(known):
            run.propose(every_row(space), generator(search_identity.seed, "all"))
        yield study, run
        while run.remaining:
            run.propose(space.encode([]), generator(search_identity.seed, "fill up", run.proposed))
        run.finish()


def load_study(storage: Storage) -> Study:
    """Read a study from its journal file or from the URL of its database, without changing it.

    Exact objectives have lost their function. `load_study("study.journal").to_pandas()` is its table.

    Raises:
        UserError: no such file or database, or no study of this project in it.
    """
    return Study(*read_study(storage))


@contextmanager
def _record(
    storage: Storage | None, space: Space, objectives: Sequence[Objective], identity: Mapping[str, Any]
) -> Iterator[Study]:
    if storage is None:
        yield Study(space, objectives)
        return
    with open_study(storage, space, objectives, identity) as (found, keep):
        yield Study(space, objectives, found, keep)


def _check(
    space: Space, objectives: Sequence[Objective], search_identity: SearchIdentity, known: Sequence[Measurement]
) -> None:
    if len({each.candidate for each in known}) != len(known):
        raise UserError("known results must name each candidate once")
    if search_identity.seed < 0:
        raise UserError(f"seed must not be negative, got {search_identity.seed}")
    names = [objective.name for objective in objectives]
    if not names or len(set(names)) != len(names):
        raise UserError(f"objectives must be at least one, with distinct names, got {names}")
    try:
        size = space.size()
    except ValueError as error:
        raise UserError(str(error)) from error
    if size <= _LISTED:
        _can_be_met(space, objectives)


def _can_be_met(space: Space, objectives: Sequence[Objective]) -> None:
    """NoFeasible, before anything is measured, where a limit is beyond every candidate of a small space."""
    limited = [objective for objective in objectives if objective.exact is not None and objective.limit is not None]
    rows = every_row(space) if limited else space.encode([])
    for objective in limited:
        assert objective.exact is not None and objective.limit is not None
        best = float(np.min(objective.sign * np.asarray(objective.exact(rows), dtype=np.float64)))
        if best > objective.sign * objective.limit:
            side = "at most" if objective.sign > 0 else "at least"
            raise NoFeasible(
                f"none of the {len(rows)} candidates has {objective.name} of {side} {objective.limit:g}; "
                f"the nearest has {objective.sign * best:.6g}"
            )


def _identity(
    space: Space, objectives: Sequence[Objective], search_identity: SearchIdentity, known: Sequence[Measurement]
) -> dict[str, Any]:
    return {
        "space": space.to_json(),
        "objectives": [_told(objective) for objective in objectives],
        "algorithm": search_identity.algorithm,
        "config": _plain(search_identity.config),
        "seed": int(search_identity.seed),
        "lag": int(search_identity.lag),
        "known": _fingerprint(known),
    }


def _told(objective: Objective) -> dict[str, Any]:
    told = {"name": objective.name, "direction": objective.direction, "limit": objective.limit}
    source = {} if objective.source is None else {"source": objective.source}
    return {**told, "exact": objective.exact is not None, **source}


def _fingerprint(known: Sequence[Measurement]) -> str | None:
    if not known:
        return None
    told = [[dict(m.candidate), dict(m.values)] for m in known]
    return f"{len(known)} results, {hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]}"


def _plain(value: Any) -> Any:
    """Settings as JSON data; a function is named by its module and name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, functools.partial):
        return [_plain(value.func), _plain(value.args), {name: _plain(each) for name, each in value.keywords.items()}]
    if isinstance(value, np.generic):
        return value.item()
    if callable(value):
        kind = value if hasattr(value, "__qualname__") else type(value)
        return f"{kind.__module__}:{kind.__qualname__}"
    return value
