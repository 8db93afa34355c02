"""The order in which measurements are committed and seen by a search.

A search proposes encoded candidates and asks for the results that it may see. Chunks of candidates go through a `Map`,
results are committed to the record in the order of the proposals, and proposal i sees results 0 .. i - lag only. So a
search is a function of its seed and of the committed results, whatever runs beside it and however often it is killed.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from nas.errors import UserError
from nas.searching.enumeration import every_row
from nas.searching.giving_up import refuse_hopeless
from nas.searching.measurement import Evaluate, Measurement, Objective, Staged, violations
from nas.searching.stagnation import stagnant
from search_spaces.arrays import FloatArray, IntArray
from search_spaces.space import Candidate, Space

OnResult = Callable[[Measurement, int], None]


class Map(Protocol):
    """How chunks are measured: results in the order of the chunks. The built-in `map` is the serial one."""

    def __call__(
        self, function: Callable[[list[Candidate]], list[Measurement]], chunks: Iterable[list[Candidate]], /
    ) -> Iterator[list[Measurement]]:
        """Apply `function` to every chunk."""


class Record(Protocol):
    """Where results are kept: what an earlier run of the same search committed, and room for more."""

    @property
    def measurements(self) -> list[Measurement]:
        """Everything committed, in order."""

    def commit(self, measurement: Measurement) -> None:
        """Keep one more result."""


@dataclass(frozen=True)
class Results:
    """What a search may see: `rows` (n, k) encoded, `values` (n, m) minimised (NaN: failed), `violations` (n,)."""

    rows: IntArray
    values: FloatArray
    violations: FloatArray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def good(self) -> npt.NDArray[np.bool_]:
        """Which rows were measured (n,)."""
        return np.asarray(np.isfinite(self.values).all(axis=1))


def check_counts(**counts: int | None) -> None:
    """UserError for a count that is given and below 1."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise UserError(f"{name} must be at least 1, got {value}")


class Evaluations:
    """The proposals of one search and their results.

    What `record` already holds is replayed: it is committed again in memory, not measured. Where it differs from the
    proposals (a record carried to another machine, whose arithmetic differs in the last digit) the record wins.

    Args:
        evaluate: all objectives of a candidate, or a `Staged` one, whose one part stays in this process.
        budget: number of candidates in the end, failed ones included and known ones not.
        chunk_size: the longest list that `evaluate` gets.
        lag: proposal i sees results 0 .. i - lag.
        on_result: called after each commitment with the measurement and how many there are now, replayed ones included
            (where anything is left to measure) and known ones not.
        known: results from elsewhere, seen by every proposal and never proposed; one without values for the objectives
            that stay in this process gets them here.
        patience: stop when so many results in a row did not enlarge the hypervolume; None: never.
        give_up: raise UserError where the first candidates measured here have all failed, or have equal values
            (`nas.searching.giving_up`).

    Raises:
        UserError: budget, chunk_size, lag or patience below 1; later, where the search is given up.
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
        self._running: deque[Iterator[list[Measurement]]] = deque()
        self._arrived: deque[Measurement] = deque()
        self._known = self._commit_known(known)
        self._replay = list(record.measurements)[len(known) :]
        self._replay_rows = space.encode([measurement.candidate for measurement in self._replay])
        total = min(budget, space.size() - len(known))
        self._total = total if len(self._replay) < total else 0

    @property
    def proposed(self) -> int:
        """Number of proposals so far, all distinct."""
        return len(self._rows)

    @property
    def remaining(self) -> int:
        """Number of proposals still to make: 0 when the budget is spent, the space is exhausted or patience is over."""
        return max(0, self._total - len(self._rows))

    @property
    def known(self) -> int:
        """Number of results that were given."""
        return len(self._known)

    @property
    def pending(self) -> IntArray:
        """What was proposed and is not in `results()` (n, k): a proposal should not lie beside it by chance."""
        hidden = self._rows[max(0, self.proposed - self._lag + 1) :]
        return np.array(hidden, dtype=np.int64).reshape(len(hidden), len(self._space.choices))

    def is_new(self, rows: IntArray) -> npt.NDArray[np.bool_]:
        """Which canonical rows (n, k) were not proposed before, (n,)."""
        return np.array([row.tobytes() not in self._seen for row in rows], dtype=np.bool_)

    def propose(self, rows: IntArray, rng: np.random.Generator) -> None:
        """Add the new ones of `rows` (n, k) up to the budget; when none is new, one random new candidate."""
        if self._out_of_patience():
            self._total = self.proposed
        start = self.proposed
        self._add(rows)
        if self.proposed == start and self.remaining:
            self._add(self._random_new(rng))
        known = max(start, min(self.proposed, len(self._replay)))
        self._running.append(iter([self._replay[start:known]]))
        if self.proposed > known:
            candidates = self._space.decode(np.array(self._rows[known:]))
            chunks = [candidates[i : i + self._chunk_size] for i in range(0, len(candidates), self._chunk_size)]
            self._running.append(self._map(self._function, chunks))

    def results(self) -> Results:
        """What the next proposal may see, measured now where it is not yet."""
        return self._first(max(0, self.proposed - self._lag + 1))

    def finish(self) -> Results:
        """Everything proposed, measured now where it is not yet."""
        return self._first(self.proposed)

    def _out_of_patience(self) -> bool:
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
            replayed = self.proposed < len(self._replay)
            row = self._replay_rows[self.proposed] if replayed else proposal
            self._seen.add(row.tobytes())
            self._rows.append(row)

    def _random_new(self, rng: np.random.Generator) -> IntArray:
        for _ in range(50):
            rows = self._space.random(100, rng)
            new = rows[self.is_new(rows)]
            if len(new):
                return new[:1]
        rows = every_row(self._space)
        return rng.permutation(rows[self.is_new(rows)])[:1]

    def _commit_known(self, known: Sequence[Measurement]) -> list[Measurement]:
        """The known results, taken from the record where it has them, else completed and committed."""
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
        while not self._arrived:
            self._arrived.extend(next(self._running[0], ()))
            if not self._arrived:
                self._running.popleft()
        measurement = self._arrived.popleft()
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
