"""The order in which results are committed and become visible to a search.

A search proposes encoded candidates and reads the results that are visible to it. Candidates are evaluated in chunks
through a map, possibly in parallel. Results are committed to the record in the order of the proposals, not of their
arrival, and proposal i sees exactly the results 0 .. i - lag. The search is therefore a function of its seed and of the
committed results: neither the number and speed of workers nor an interruption changes what it proposes.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from nas.errors import UserError
from nas.searching.enumeration import every_row
from nas.searching.giving_up import refuse_hopeless
from nas.searching.measurement import Evaluate, Measurement, Objective, Staged, violations
from nas.searching.stagnation import stagnant
from nas.workers import Map, abandon
from search_spaces.arrays import FloatArray, IntArray
from search_spaces.space import Space

OnResult = Callable[[Measurement, int], None]


class Record(Protocol):
    """A store of results, which may hold those of an interrupted run of the same search."""

    @property
    def measurements(self) -> list[Measurement]:
        """All committed results, in order."""

    def commit(self, measurement: Measurement) -> None:
        """Store one more result."""


@dataclass(frozen=True)
class Results:
    """The results that are visible to a search.

    Args:
        rows: encoded candidates (n, k).
        values: their values (n, m), with signs such that all objectives are minimised; NaN where it failed.
        violations: by how much each candidate breaks the limits (n,), see `measurement.violations`.
    """

    rows: IntArray
    values: FloatArray
    violations: FloatArray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def good(self) -> npt.NDArray[np.bool_]:
        """Which candidates were evaluated without failure (n,)."""
        return np.asarray(np.isfinite(self.values).all(axis=1))


def check_counts(**counts: int | None) -> None:
    """Raise UserError if a count is below 1; None is accepted."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")


class Evaluations:
    """The proposals of one search and their results.

    Results that `record` already contains are replayed: they are used in place of an evaluation. If a proposal differs
    from the record (on another machine, whose arithmetic may differ in the last digit), the record takes precedence.

    Args:
        space: the space that candidates are encoded in.
        evaluate: evaluates all objectives of a list of candidates; a `Staged` evaluation has one part that stays in
            this process.
        objectives: the objectives, in the order of the values that `evaluate` returns.
        record: where results are committed.
        budget: total number of candidates, including failed ones but not known ones.
        chunk_size: largest number of candidates in one call of `evaluate`.
        lag: proposal i sees results 0 .. i - lag. A lag of 1 is a serial search; a larger one lets as many candidates
            be evaluated in parallel.
        on_result: called after each commit with the measurement and the number of results so far, which includes
            replayed results but not known ones.
        known: results from another search, which are visible to every proposal and never proposed. Objectives that are
            measured in this process are measured for them here.
        patience: stop after this many consecutive results that did not increase the hypervolume; None: never.
        give_up: raise UserError if the first candidates measured by this process all failed or have equal values, see
            `nas.searching.giving_up`.
        run_chunks: evaluates chunks of candidates, possibly in parallel.

    Raises:
        UserError: budget, chunk_size, lag or patience below 1; in later calls, if the search is given up.
    """

    def __init__(
        self,
        space: Space,
        evaluate: Evaluate | Staged,
        objectives: Sequence[Objective],
        record: Record,
        *,
        budget: int,
        chunk_size: int = 1,
        lag: int = 1,
        on_result: OnResult | None = None,
        known: Sequence[Measurement] = (),
        patience: int | None = None,
        give_up: bool = False,
        run_chunks: Map = map,
    ) -> None:
        check_counts(budget=budget, chunk_size=chunk_size, lag=lag, patience=patience)
        self._space, self._objectives, self._record = space, tuple(objectives), record
        self._chunk_size, self._lag, self._on_result, self._map = chunk_size, lag, on_result, run_chunks
        self._patience, self._give_up = patience, give_up
        self._session: list[Measurement] = []
        self._staged = evaluate if isinstance(evaluate, Staged) else Staged(evaluate, {}, self._objectives)
        self._function = self._staged.function
        self._rows: list[IntArray] = []
        self._seen: set[bytes] = set()
        self._values: list[list[float]] = []
        # Results in the order of proposals, replayed or evaluated, and those that have arrived but are not committed.
        self._running: deque[Iterator[list[Measurement]]] = deque()
        self._arrived: deque[Measurement] = deque()
        self._known = self._commit_known(known)
        self._replay = list(record.measurements)[len(known) :]
        self._replay_rows = space.encode([measurement.candidate for measurement in self._replay])
        total = min(budget, space.size() - len(known))
        # A complete record is left as it is: nothing is proposed or replayed.
        self._total = total if len(self._replay) < total else 0

    @property
    def proposed(self) -> int:
        """Number of proposals so far; all are distinct."""
        return len(self._rows)

    @property
    def remaining(self) -> int:
        """Number of further proposals; 0 if the budget is spent, the space exhausted or the patience over."""
        return max(0, self._total - len(self._rows))

    @property
    def known(self) -> int:
        """Number of known results."""
        return len(self._known)

    @property
    def pending(self) -> IntArray:
        """Proposals whose results are not visible yet (n, k), so that a search can avoid similar candidates."""
        hidden = self._rows[max(0, self.proposed - self._lag + 1) :]
        return np.array(hidden, dtype=np.int64).reshape(len(hidden), len(self._space.choices))

    def is_new(self, rows: IntArray) -> npt.NDArray[np.bool_]:
        """Which of the canonical rows (n, k) are neither proposed nor known, (n,)."""
        return np.array([row.tobytes() not in self._seen for row in rows], dtype=np.bool_)

    def propose(self, rows: IntArray, rng: np.random.Generator) -> None:
        """Propose the new candidates among `rows` (n, k), within the budget; if none is new, a random new one."""
        if self._out_of_patience():
            self._total = self.proposed
        start = self.proposed
        self._add(rows)
        if self.proposed == start and self.remaining:
            self._add(self._random_new(rng))
        # Proposals up to here have results in the record; the others are evaluated.
        replayed = max(start, min(self.proposed, len(self._replay)))
        self._running.append(iter([self._replay[start:replayed]]))
        if self.proposed > replayed:
            candidates = self._space.decode(np.array(self._rows[replayed:]))
            chunks = [candidates[i : i + self._chunk_size] for i in range(0, len(candidates), self._chunk_size)]
            self._running.append(self._map(self._function, chunks))

    def results(self) -> Results:
        """The results that are visible to the next proposal; waits for those that are still being evaluated."""
        return self._first(max(0, self.proposed - self._lag + 1))

    def finish(self) -> Results:
        """The results of all proposals; waits for those that are still being evaluated."""
        return self._first(self.proposed)

    def abandon(self) -> None:
        """Leave no work of this search to workers that others use too: what they have not begun is not measured."""
        while self._running:
            abandon(self._running.popleft())

    def _out_of_patience(self) -> bool:
        # Only visible results count: the decision must not depend on how fast workers are.
        if self._patience is None or self.proposed - self._lag + 1 < self._patience:
            return False
        seen = self.results()
        return stagnant(seen.values, seen.violations, self._patience)

    def _first(self, count: int) -> Results:
        while len(self._values) < count:
            self._commit_next()
        found = [self._minimised(measurement) for measurement in self._known] + self._values[:count]
        values = np.array(found, dtype=np.float64).reshape(len(found), len(self._objectives))
        shown = np.array(self._rows[:count], dtype=np.int64).reshape(count, len(self._space.choices))
        rows = np.concatenate([self._space.encode([each.candidate for each in self._known]), shown])
        return Results(rows, values, violations(values, self._objectives))

    def _add(self, rows: IntArray) -> None:
        for proposal in self._space.canonical(rows):
            if not self.remaining:
                return
            if proposal.tobytes() in self._seen:
                continue
            # The record takes precedence over the proposal, so that a continued search repeats the interrupted one.
            replayed = self.proposed < len(self._replay)
            row = self._replay_rows[self.proposed] if replayed else proposal
            self._seen.add(row.tobytes())
            self._rows.append(row)

    def _random_new(self, rng: np.random.Generator) -> IntArray:
        # Sampling fails only if nearly all candidates are used, and then the space is small enough to enumerate.
        for _ in range(50):
            rows = self._space.random(100, rng)
            new = rows[self.is_new(rows)]
            if len(new):
                return new[:1]
        rows = every_row(self._space)
        return rng.permutation(rows[self.is_new(rows)])[:1]

    def _commit_known(self, known: Sequence[Measurement]) -> list[Measurement]:
        """Commit the known results that the record does not contain yet, with their missing objectives measured."""
        found = list(self._record.measurements)[: len(known)]
        for measurement in known[len(found) :]:
            measurement = self._staged.completed(replace(measurement, known=True))
            self._record.commit(measurement)
            found.append(measurement)
        for measurement, row in zip(found, self._space.encode([each.candidate for each in found]), strict=True):
            self._seen.add(row.tobytes())
            if self._on_result is not None:
                self._on_result(measurement, 0)
        return found

    def _commit_next(self) -> None:
        """Wait for the next result in the order of proposals, and commit it unless it is a replayed one."""
        while not self._arrived:
            self._arrived.extend(next(self._running[0], ()))
            if not self._arrived:
                self._running.popleft()
        measurement = self._arrived.popleft()
        # Objectives of this process are measured here, one candidate after another, in the order of proposals.
        if len(self._values) >= len(self._replay):
            measurement = self._staged.completed(measurement)
            self._record.commit(measurement)
            self._session.append(measurement)
        self._values.append(self._minimised(measurement))
        if self._on_result is not None:
            self._on_result(measurement, len(self._values))
        if self._give_up:
            refuse_hopeless(self._objectives, self._session)

    def _minimised(self, measurement: Measurement) -> list[float]:
        return [o.sign * measurement.values.get(o.name, math.nan) for o in self._objectives]
