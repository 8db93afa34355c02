"""The study, which records the measurements of a search, and `searching`, the context that all algorithms run in."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Generic, Protocol, TypedDict, Unpack, overload, runtime_checkable

import numpy as np
import optuna
import pandas as pd

from nas.errors import NoFeasible, UserError
from nas.searching import pareto
from nas.searching.domain import C, Domain
from nas.searching.estimation import Estimate
from nas.searching.evaluation import Evaluations, OnResult, check_counts
from nas.searching.identity import SearchIdentity, identity_of
from nas.searching.measurement import (
    Evaluate,
    Measurement,
    Objective,
    Staged,
    WithContext,
    refused_extras,
    refused_values,
    violations,
)
from nas.searching.selection import select_by_estimates
from nas.searching.space_domain import SpaceDomain, as_domain, space_of
from nas.searching.storage import open_study, read_study
from nas.searching.storage_address import Storage
from nas.searching.trials import in_memory
from nas.seeds import generator
from nas.workers import Map, Workers, mapped
from predictors import Quality
from search_spaces.arrays import FloatArray
from search_spaces.space import Candidate, Space

_LISTED = 10_000
"""Largest domain whose candidates are all enumerated to check whether the limits can be met."""


class Study(Generic[C]):
    """The measurements of a search in the order in which they were committed.

    Args:
        domain: the candidates, a space or any other domain.
        objectives: the objectives.
        measurements: measurements that exist already.
        keep: called with each further measurement to store it.

    Attributes:
        domain: the candidates.
        quality: for each round, how well the latest candidates were predicted before the predictors learned from them,
            by the name of the objective. Empty for searches without predictors; it is not stored.
        estimates: the accuracy to expect on new rows, of candidates that were scored again. `nas.search` sets them at
            its end. They are not stored: a study that is loaded has none, and `select` then goes by accuracies as the
            search measured them, unless the same search is called again or they are set.
    """

    def __init__(
        self,
        domain: Space | Domain[C],
        objectives: Sequence[Objective],
        measurements: Sequence[Measurement[C]] = (),
        keep: Callable[[Measurement[C]], None] | None = None,
    ) -> None:
        self.domain = as_domain(domain)
        self.objectives = tuple(objectives)
        self._measurements = list(measurements)
        self._keep = keep
        self.quality: list[dict[str, Quality]] = []
        self.estimates: dict[C, Estimate] = {}

    @property
    def space(self: "Study[Candidate]") -> Space:
        """The space of the candidates; raises UserError if they are those of another domain."""
        return space_of(self.domain)

    @property
    def measurements(self) -> list[Measurement[C]]:
        """All measurements in the order of commitment, including failed ones."""
        return list(self._measurements)

    @property
    def measured_here(self) -> int:
        """How many candidates this search measured: those that failed or were known before do not count."""
        return sum(m.state == "measured" and not m.known for m in self._measurements)

    def commit(self, measurement: Measurement[C]) -> None:
        """Add a measurement; raises UserError when it cannot be written."""
        # Written first: a result that the search has seen is then always on the disk, also after a kill.
        if self._keep is not None:
            self._keep(measurement)
        self._measurements.append(measurement)

    def front(self) -> list[Measurement[C]]:
        """The Pareto front: measured candidates within the limits that no other dominates, by the first objective."""
        values = self._minimised()
        best = np.flatnonzero(pareto.front(values, violations(values, self.objectives)))
        return [self._measurements[i] for i in best[np.lexsort(values[best].T[::-1])]]

    def find(self, candidate: C) -> Measurement[C] | None:
        """The measurement of a candidate, or None if it was not measured successfully."""
        return next((m for m in self._measurements if m.candidate == candidate and m.state == "measured"), None)

    def select(self, limits: Mapping[str, float] | None = None, **named: float) -> Measurement[C]:
        """Choose the best candidate in the first objective (ties by the next ones) that meets all limits.

        Where there are `estimates`, the choice and limits on accuracy go by them, among the candidates that have one.
        Without a limit on a cost, none is chosen then that another of them dominates as measured.

        Args:
            limits: bounds on raw values by `max_` or `min_` and the objective's name, e.g. `{"max_latency_ms": 8}`. The
                limits of the objectives themselves apply too.
            named: the same as keyword arguments.

        Raises:
            UserError: a limit does not name an objective of this study, or is not a finite number.
            NoFeasible: no measured candidate meets the limits; the message names the nearest one.
        """
        bounds = {**(limits or {}), **named}
        return select_by_estimates(self._measurements, self.objectives, bounds, self.estimates)

    def hypervolume(self, reference: Sequence[float]) -> float:
        """Hypervolume of the measured candidates.

        Args:
            reference: the reference point, raw values in the order of the objectives.

        Raises:
            UserError: `reference` does not consist of one finite number per objective.
        """
        bound = np.asarray(reference, dtype=np.float64)
        if bound.shape != (len(self.objectives),) or not np.isfinite(bound).all():
            names = ", ".join(objective.name for objective in self.objectives)
            raise UserError(f"the reference must hold one finite number each for {names}, got {reference}")
        return pareto.hypervolume(self._minimised(), bound * [objective.sign for objective in self.objectives])

    def to_pandas(self) -> pd.DataFrame:
        """A table with one row per measurement.

        Its columns are number, state, reason, seconds, known, `values_<objective>` and `params_<choice>`, or what
        else the parameters of the domain are.
        """
        rows = [
            {
                "number": number,
                "state": m.state,
                "reason": m.reason,
                "seconds": m.seconds,
                "known": m.known,
                **{f"values_{o.name}": m.values.get(o.name, math.nan) for o in self.objectives},
                **{f"params_{name}": option for name, option in self.domain.parameters(m.candidate).items()},
            }
            for number, m in enumerate(self._measurements)
        ]
        return pd.DataFrame(rows)

    def to_optuna(self) -> optuna.Study:
        """Copy the measurements to an Optuna study in memory, e.g. for `optuna.visualization`."""
        return in_memory(self.domain, self.objectives, self._measurements)

    def _minimised(self) -> FloatArray:
        """Minimised values (n, m), NaN for failed candidates."""
        rows = [[o.sign * m.values.get(o.name, math.nan) for o in self.objectives] for m in self._measurements]
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(self.objectives))


@runtime_checkable
class Watcher(Protocol[C]):
    """An `on_result` that also receives the study, before the first result."""

    def begin(self, study: Study[C]) -> None:
        """Called when the search starts or resumes."""

    def __call__(self, measurement: Measurement[C], number: int) -> None:
        """Called after each commitment with the measurement and the number of results so far."""


class Running(TypedDict, Generic[C], total=False):
    """Keyword arguments of all algorithms that control how a search runs.

    Only `lag` and `known` are part of its identity.

    Args:
        storage: journal file of the study, or URL of a database (`nas.searching.storage`). A study of the same search
            is resumed, also with a larger budget. None: in memory.
        chunk_size: longest list of candidates that `evaluate` is called with.
        on_result: called after each commitment with the measurement and the number of results so far. A resumed search
            also reports the results that it replays, unless it was complete already.
        lag: proposal i depends on results 0 .. i - lag only. None: as recorded in the study; a new one has 1, for LINAS
            what suits its `workers` (`nas.searching.pace`), for ageing evolution as many as they are.
        workers: number of candidates measured at the same time, in Ray actors if more than one. Studies of one lag are
            the same with any number.
        timeout_s: seconds after which a candidate counts as failed; needs Ray even for one worker (`nas.workers`).
        pool: what measures the candidates in place of workers of this search, opened by the caller with
            `nas.workers.mapped` and not closed here. Searches in several threads may share one, and their studies are
            those that each would have alone. It has its own number of workers and time limit, so that `workers` and
            `timeout_s` cannot be given, and a new study has a lag of 1 unless another one is.
        patience: stop when this many results in a row have not enlarged the hypervolume; None: never.
        give_up: raise UserError when the first results are all failures, or have equal values, so that the rest would
            fare alike (`nas.searching.giving_up`).
        known: earlier results (`nas.searching.warm_start`) that the search learns from without measuring or counting
            them.
    """

    storage: Storage | None
    chunk_size: int
    on_result: OnResult[C] | None
    lag: int | None
    workers: int | Workers
    timeout_s: float | None
    pool: Map | None
    patience: int | None
    give_up: bool
    known: Sequence[Measurement[C]]


@contextmanager
def searching(
    space: Space | Domain[C],
    evaluate: Evaluate[C] | WithContext[C] | Staged[C],
    objectives: Sequence[Objective],
    search_identity: SearchIdentity,
    *,
    budget: int,
    **running: Unpack[Running[C]],
) -> Iterator[tuple[Study[C], Evaluations[C]]]:
    """Context of a search: opens or resumes its study and gives the algorithm its evaluations.

    The candidates are those of a space or of any other domain. If the budget covers all of them, where they are
    counted, and there is no patience, all candidates are proposed at once and the algorithm
    has nothing left to do. When the context ends without an error, the rest of the budget goes to random candidates,
    and all proposals are measured. Keyword arguments: see `Running`.

    Yields:
        The study, and the evaluations through which the algorithm proposes candidates and reads results.

    Raises:
        UserError: a setting is out of range, `pool` is given together with `workers` or `timeout_s`, the space lacks a
            choice, or the storage is damaged, in use, not writable, or belongs to another search.
        NoFeasible: each candidate of a small space violates the limit of an objective with a formula.
    """
    chunk_size, patience = running.get("chunk_size", 1), running.get("patience")
    on_result, known = running.get("on_result"), running.get("known", ())
    check_counts(budget=budget, chunk_size=chunk_size, lag=search_identity.lag, patience=patience)
    domain = as_domain(space)
    size = _checked_size(domain, objectives, search_identity, known)
    identity, pool = identity_of(domain, objectives, search_identity, known), _pool(running)
    with _record(running.get("storage"), domain, objectives, identity) as study, pool as run_chunks:
        if isinstance(on_result, Watcher):
            on_result.begin(study)
        run = Evaluations(
            domain,
            evaluate,
            objectives,
            study,
            budget=budget,
            chunk_size=chunk_size,
            lag=search_identity.lag,
            on_result=on_result,
            known=known,
            patience=patience,
            give_up=running.get("give_up", False),
            run_chunks=run_chunks,
        )
        try:
            if run.remaining and patience is None and size is not None and budget >= size - len(known):
                run.propose(domain.every(), generator(search_identity.seed, "all"))
            yield study, run
            # An algorithm may stop early, for example when an evolution can breed no new child; `propose` replaces an
            # empty list by one random new candidate.
            while run.remaining:
                run.propose(domain.encode([]), generator(search_identity.seed, "fill up", run.proposed))
            run.finish()
        finally:
            run.abandon()


@overload
def load_study(storage: Storage) -> Study: ...


@overload
def load_study(storage: Storage, read: Callable[[Any], Domain[C]]) -> Study[C]: ...


def load_study(storage: Storage, read: Callable[[Any], Domain[Any]] = SpaceDomain.from_identity) -> Study[Any]:
    """Read a study without changing it, e.g. `load_study("study.journal").to_pandas()` for a table.

    The functions of exact objectives are not stored, so the objectives of the study have none.

    Args:
        storage: journal file or URL of a database.
        read: makes the domain of its candidates from what `Domain.identity` returned; by default that of a space.

    Raises:
        UserError: the file or database does not exist, or holds no study of this project and of such a domain.
    """
    return Study(*read_study(storage, read))


def _pool(running: Running[C]) -> AbstractContextManager[Map]:
    """The pool that the caller has opened, or one of this search alone; raises UserError if both are asked for."""
    pool = running.get("pool")
    if pool is None:
        return mapped(running.get("workers", 1), running.get("timeout_s"))
    if "workers" in running or running.get("timeout_s") is not None:
        raise UserError("a pool has its own workers and time limit; give a pool, or workers and timeout_s, not both")
    return nullcontext(pool)


@contextmanager
def _record(
    storage: Storage | None, domain: Domain[C], objectives: Sequence[Objective], identity: Mapping[str, Any]
) -> Iterator[Study[C]]:
    if storage is None:
        yield Study(domain, objectives)
        return
    # The storage stays locked as long as the search runs.
    with open_study(storage, domain, objectives, identity) as (found, keep):
        yield Study(domain, objectives, found, keep)


def _checked_size(
    domain: Domain[C],
    objectives: Sequence[Objective],
    search_identity: SearchIdentity,
    known: Sequence[Measurement[C]],
) -> int | None:
    """The size of the domain, if what the search is asked for is right; raises as `searching`."""
    if search_identity.seed < 0:
        raise UserError(f"seed must not be negative, got {search_identity.seed}")
    names = [objective.name for objective in objectives]
    if not names or len(set(names)) != len(names):
        raise UserError(f"objectives must be at least one, with distinct names, got {names}")
    try:
        size = domain.size()
    except ValueError as error:
        raise UserError(str(error)) from error
    if len(set(domain.keys(domain.encode(each.candidate for each in known)))) != len(known):
        raise UserError("known results must name each candidate once")
    for each in known:
        if bad := refused_values(each.values):
            raise UserError(f"known results must have values that a study can hold: {', '.join(bad)}")
        if why := refused_extras(each.extras):
            raise UserError(f"known results must have extras that a study can hold: {why}")
    if size is not None and size <= _LISTED:
        _can_be_met(domain, objectives)
    return size


def _can_be_met(domain: Domain[C], objectives: Sequence[Objective]) -> None:
    """Raise NoFeasible, before anything is measured, if no candidate of a small domain meets an exact limit."""
    limited = [objective for objective in objectives if objective.exact is not None and objective.limit is not None]
    rows = domain.every() if limited else domain.encode([])
    for objective in limited:
        assert objective.exact is not None and objective.limit is not None
        best = float(np.min(objective.sign * np.asarray(objective.exact(rows), dtype=np.float64)))
        if best > objective.sign * objective.limit:
            side = "at most" if objective.sign > 0 else "at least"
            raise NoFeasible(
                f"none of the {len(rows)} candidates has {objective.name} of {side} {objective.limit:g}; "
                f"the nearest has {objective.sign * best:.6g}"
            )
