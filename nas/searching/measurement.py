"""Objectives, and the measurements of candidates: values, or the reason of a failure."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from types import MappingProxyType
from typing import Any, Generic, Literal

import numpy as np
import numpy.typing as npt
from typing_extensions import TypeVar

from nas.bounded import in_bounds, loads
from nas.errors import UserError
from nas.files import FULL_DISK
from nas.objectives import of_its_kind
from nas.searching.domain import C
from nas.workers import Lost, Map, Task
from search_spaces.arrays import FloatArray, IntArray

X = TypeVar("X", default=Any)
"""The type of what an evaluation is told beside its candidates."""

Exact = Callable[[IntArray], FloatArray]


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation returns that has more to say of its candidates than the values of the objectives.

    Args:
        values: raw values (n, m).
        extras: for each of the n candidates what is kept beside them, as JSON data.
    """

    values: npt.ArrayLike
    extras: Sequence[Mapping[str, Any]]


Evaluate = Callable[[Sequence[C]], npt.ArrayLike | Evaluated]
MeasureValue = Callable[[C], float]
"""Measures the raw value of one objective for one candidate."""

_MAX_REASON = 500


@dataclass(frozen=True)
class Objective:
    """A quantity to optimise.

    Args:
        name: e.g. `accuracy`, `latency_ms`, `macs`.
        direction: "minimize" or "maximize".
        limit: bound on the raw value of a selected candidate: an upper bound if minimised, a lower bound if maximised.
        exact: computes raw values (n,) of encoded candidates (n, k); such an objective is never predicted.
        source: fingerprint of the data behind `exact`; a study can only be continued with the same one.

    Raises:
        UserError: an empty name, an unknown direction, or a limit that is not finite.
    """

    name: str
    direction: Literal["minimize", "maximize"] = "minimize"
    limit: float | None = None
    exact: Exact | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise UserError("an objective must have a name, got an empty one")
        if self.direction not in ("minimize", "maximize"):
            raise UserError(f"direction of {self.name} must be minimize or maximize, got {self.direction!r}")
        if self.limit is not None and not math.isfinite(self.limit):
            raise UserError(f"limit of {self.name} must be a finite number, got {self.limit}")

    @property
    def sign(self) -> float:
        """1 if minimised, -1 if maximised, so that the raw value times the sign is minimised."""
        return 1.0 if self.direction == "minimize" else -1.0


@dataclass(frozen=True)
class Measurement(Generic[C]):
    """The result of one candidate.

    Args:
        candidate: the sub-network, or what else is searched.
        values: raw values by the name of the objective; empty if the candidate failed.
        state: whether the evaluation succeeded.
        reason: why it failed; None if it did not.
        seconds: time that the evaluation took.
        known: whether the result comes from another search, and does not count towards the budget.
        extras: what the evaluation kept beside the values, as JSON data.
    """

    candidate: C
    values: Mapping[str, float]
    state: Literal["measured", "failed"]
    reason: str | None
    seconds: float
    known: bool = False
    extras: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A frozen dataclass does not protect its mappings from changes.
        object.__setattr__(self, "values", MappingProxyType(dict(self.values)))
        object.__setattr__(self, "extras", MappingProxyType(dict(self.extras)))


def refused_values(values: Mapping[str, float]) -> list[str]:
    """What keeps values, by the name of the objective, out of a study: one part of a sentence each.

    Results are committed and read by this rule, so that a study can always be read again.
    """
    bad = [(name, value) for name, value in values.items() if not of_its_kind(name, value, most_score=math.inf)]
    return [f"{name} is {value}" + (", which it cannot be" if in_bounds(value) else "") for name, value in bad]


def refused_extras(extras: Mapping[str, Any]) -> str | None:
    """What keeps extras out of a study, as `refused_values`: that they are no JSON, or hold a number out of bounds."""
    try:
        loads(json.dumps(dict(extras)))
    except (TypeError, ValueError, RecursionError) as error:
        return f"extras cannot be kept: {error}"
    return None


def violations(values: FloatArray, objectives: Sequence[Objective]) -> FloatArray:
    """By how much candidates break the limits.

    Args:
        values: minimised values (n, m); NaN breaks a limit infinitely.
        objectives: the m objectives with their limits.

    Returns:
        Sums (n,) of the excesses over the limits, each relative to its limit; 0 for feasible candidates.
    """
    total = np.zeros(len(values))
    for column, objective in zip(np.asarray(values, dtype=np.float64).T, objectives, strict=True):
        if objective.limit is not None:
            excess = np.where(np.isnan(column), np.inf, column - objective.sign * objective.limit)
            # Relative excesses, because limits have different units.
            total += np.maximum(excess, 0.0) / (abs(objective.limit) or 1.0)
    return total


Seen = Callable[[], Sequence[Measurement[C]]]
"""The results that a proposal was allowed to see; called only where they are needed."""


@dataclass(frozen=True)
class WithContext(Generic[C, X]):
    """An evaluation that is told with its candidates what the search knew when it proposed them.

    So it can stop early what is far behind the results so far, and still be a function of what it is sent: the context
    is the same for any number of workers and sizes of chunks, and after a search was killed.

    Args:
        evaluate: evaluates candidates, of one context, and returns what any evaluation returns. It must leave the
            context as it is.
        context: called in the process of the search with all results that were visible to the proposal of the
            candidates, in order: known ones first, and failed ones too. Of a batch they are those visible to its first
            candidate. What it returns must be a function of candidates, values, states and extras (as JSON data), and
            picklable where there are workers.
    """

    evaluate: Callable[[Sequence[C], X], npt.ArrayLike | Evaluated]
    context: Callable[[Sequence[Measurement[C]]], X]


@dataclass(frozen=True)
class Told(Generic[C]):
    """A chunk of candidates of one context, as it is sent to a worker."""

    candidates: list[C]
    context: Any


def measure(evaluate: Evaluate[C], candidates: list[C], objectives: Sequence[Objective]) -> list[Measurement[C]]:
    """Evaluate a chunk of candidates.

    A candidate that raises an exception or has what no study can hold, e.g. NaN, is marked as failed. If a chunk of
    several raises, its candidates are evaluated one by one, so that only those at fault fail.

    Raises:
        UserError: `evaluate` raised it, or returned an array whose shape is not (candidates, objectives).
        OSError: `evaluate` found the disk full.
    """
    start = time.perf_counter()
    try:
        raw = evaluate(candidates)
    except UserError:
        # Wrong settings are not the fault of a candidate, and every other candidate would fail as well.
        raise
    except (Exception, SystemExit) as error:  # a function of the user's own may call sys.exit
        # Nothing could be recorded on a full disk, so the search must stop instead of failing every candidate.
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            raise
        if len(candidates) > 1:
            return [result for candidate in candidates for result in measure(evaluate, [candidate], objectives)]
        reason = f"{type(error).__name__}: {error}"[:_MAX_REASON]
        return [Measurement(candidates[0], {}, "failed", reason, time.perf_counter() - start)]
    # A chunk is evaluated as a whole, so its time is divided evenly.
    seconds = (time.perf_counter() - start) / len(candidates)
    found = raw if isinstance(raw, Evaluated) else Evaluated(raw, [{}] * len(candidates))
    values = _checked(found.values, len(candidates), objectives).tolist()
    return [
        _measurement(candidate, row, objectives, seconds, extras)
        for candidate, row, extras in zip(candidates, values, found.extras, strict=True)
    ]


def _checked(raw: npt.ArrayLike, rows: int, objectives: Sequence[Objective]) -> FloatArray:
    expected = (rows, len(objectives))
    try:
        values = np.asarray(raw, dtype=np.float64)
    except (TypeError, ValueError) as error:
        got = f"{type(raw).__name__}: {error}"
        raise UserError(f"evaluate must return numbers of shape {expected}, got {got}") from error
    if values.shape != expected:
        names = ", ".join(objective.name for objective in objectives)
        raise UserError(
            f"evaluate must return shape {expected}, one row a candidate and one column each for {names}, "
            f"got shape {values.shape}"
        )
    return values


def _measurement(
    candidate: C, row: list[float], objectives: Sequence[Objective], seconds: float, extras: Mapping[str, Any]
) -> Measurement[C]:
    named = {objective.name: value for objective, value in zip(objectives, row, strict=True)}
    beside = refused_extras(extras)
    bad = [*refused_values(named), *([] if beside is None else [beside])]
    kept = extras if beside is None else {}
    if bad:
        return Measurement(candidate, {}, "failed", ", ".join(bad)[:_MAX_REASON], seconds, extras=kept)
    return Measurement(candidate, named, "measured", None, seconds, extras=kept)


def _measure_told(
    evaluate: Callable[[Sequence[C], Any], npt.ArrayLike | Evaluated], told: Told[C], objectives: Sequence[Objective]
) -> list[Measurement[C]]:
    return measure(lambda candidates: evaluate(candidates, told.context), told.candidates, objectives)


def _failed(chunk: list[C], lost: Lost) -> list[Measurement[C]]:
    return [Measurement(candidate, {}, "failed", lost.reason, lost.seconds) for candidate in chunk]


def _told_failed(told: Told[C], lost: Lost) -> list[Measurement[C]]:
    return _failed(told.candidates, lost)


def _one_by_one(chunk: list[C]) -> list[list[C]]:
    return [[candidate] for candidate in chunk]


def _told_one_by_one(told: Told[C]) -> list[Told[C]]:
    return [Told(part, told.context) for part in _one_by_one(told.candidates)]


def _together(results: Sequence[list[Measurement[C]]]) -> list[Measurement[C]]:
    return [measurement for part in results for measurement in part]


@dataclass(frozen=True)
class Staged(Generic[C]):
    """An evaluation in two stages: one that any worker can run, and one that must run in this process.

    Latencies compare only if they are measured side by side in one process, undisturbed by each other. They are
    therefore measured here, one candidate at a time and in order, while workers evaluate the other objectives.

    Args:
        anywhere: evaluates n candidates in any process; returns the values (n, m - h) of the objectives that are not in
            `here`, in their order. It may be one that is told a context.
        here: by the name of the objective, the functions that measure it in this process; not called for candidates
            that failed in the first stage.
        objectives: all m objectives, in order.
        at_once: evaluates one candidate in this process before it is sent to a worker, where that takes no time: what
            `anywhere` returns for it alone, or None where that must be asked.
    """

    anywhere: Evaluate[C] | WithContext[C]
    here: Mapping[str, MeasureValue[C]]
    objectives: tuple[Objective, ...]
    at_once: Callable[[C], Evaluated | None] | None = None

    @property
    def function(self) -> Task[Any, list[Measurement[C]]]:
        """The first stage as a function of a chunk, see `chunks`; it can be pickled if `anywhere` can.

        Candidates whose worker died each time, or that took too long, are marked as failed.
        """
        if isinstance(self.anywhere, WithContext):
            told = partial(_measure_told, self.anywhere.evaluate, objectives=self._of_workers)
            return Task(told, _told_failed, _told_one_by_one, _together)
        return Task(partial(measure, self.anywhere, objectives=self._of_workers), _failed, _one_by_one, _together)

    @property
    def _of_workers(self) -> tuple[Objective, ...]:
        # Without the formulas of exact objectives, which are not needed in workers and may be large.
        return tuple(replace(o, exact=None) for o in self.objectives if o.name not in self.here)

    def chunks(self, candidates: list[C], size: int, seen: Seen[C]) -> list[Any]:
        """Chunks of up to `size` candidates for `function`.

        Args:
            candidates: those of one proposal.
            size: of a chunk.
            seen: the results that the proposal was allowed to see; called only where the evaluation is told of them.
        """
        parts = [candidates[i : i + size] for i in range(0, len(candidates), size)]
        if not isinstance(self.anywhere, WithContext):
            return parts
        context = self.anywhere.context(seen())
        return [Told(part, context) for part in parts]

    def begun(
        self, run: Map, function: Task[Any, list[Measurement[C]]], candidates: list[C], *, size: int, seen: Seen[C]
    ) -> list[Iterator[list[Measurement[C]]]]:
        """Results of the first stage in the order of the candidates of one proposal, as iterators to read in turn.

        Args:
            run: evaluates chunks, possibly in parallel.
            function: `function` of this evaluation; one object for all proposals, because workers keep it.
            candidates: those of the proposal.
            size: as of `chunks`.
            seen: as of `chunks`.
        """
        told = [(candidate, self._told_at_once(candidate)) for candidate in candidates]
        found: list[Iterator[list[Measurement[C]]]] = []
        for known, group in groupby(told, key=lambda each: each[1] is not None):
            members = list(group)
            if known:
                found.append(iter([[result for _, result in members if result is not None]]))
            else:
                found.append(run(function, self.chunks([candidate for candidate, _ in members], size, seen)))
        return found

    def _told_at_once(self, candidate: C) -> Measurement[C] | None:
        start = time.perf_counter()
        try:
            found = None if self.at_once is None else self.at_once(candidate)
        except Exception:
            # The evaluation meets it as well, and says what becomes of the candidate.
            return None
        if found is None:
            return None
        row = _checked(found.values, 1, self._of_workers).tolist()[0]
        return _measurement(candidate, row, self._of_workers, time.perf_counter() - start, found.extras[0])

    def completed(self, measurement: Measurement[C]) -> Measurement[C]:
        """Run the second stage and return the measurement with all objectives; raises as `measure`."""
        if not self.here or measurement.state == "failed":
            return measurement

        def evaluate(candidates: Sequence[C]) -> list[list[float]]:
            return [[measure_value(candidate) for measure_value in self.here.values()] for candidate in candidates]

        # Through `measure`, so that exceptions mark the candidate as failed in this stage, too.
        added = measure(evaluate, [measurement.candidate], [Objective(name) for name in self.here])[0]
        seconds = measurement.seconds + added.seconds
        if added.state == "failed":
            return replace(added, seconds=seconds, known=measurement.known)
        both = {**measurement.values, **added.values}
        return replace(measurement, values={o.name: both[o.name] for o in self.objectives}, seconds=seconds)
