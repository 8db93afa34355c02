"""The order in which results are committed and become visible to a search.

A search proposes encoded candidates and reads the results that are visible to it. Candidates are evaluated in chunks
through a map, possibly in parallel. Results are committed to the record in the order of the proposals, not of their
arrival, and proposal i sees exactly the results 0 .. i - lag. The search is therefore a function of its seed and of the
committed results: neither the number and speed of workers nor an interruption changes what it proposes.
"""

import math
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, Protocol

import numpy as np
import numpy.typing as npt

from nas.errors import UserError
from nas.searching.domain import C, Domain, Genes
from nas.searching.giving_up import refuse_hopeless
from nas.searching.measurement import Evaluate, Measurement, Objective, Staged, WithContext, violations
from nas.searching.space_domain import as_domain
from nas.searching.stagnation import stagnant
from nas.workers import Map, abandon
from search_spaces.arrays import FloatArray
from search_spaces.space import Space

OnResult = Callable[[Measurement[C], int], None]


class Record(Protocol[C]):
    """A store of results, which may hold those of an interrupted run of the same search."""

    @property
    def measurements(self) -> list[Measurement[C]]:
        """All committed results, in order."""

    def commit(self, measurement: Measurement[C]) -> None:
        """Store one more result."""


@dataclass(frozen=True)
class Results:
    """The results that are visible to a search.

    Args:
        rows: encoded candidates (n, ...): of a space option indices (n, k), of other domains what they encode them as.
        values: their values (n, m), with signs such that all objectives are minimised; NaN where it failed.
        violations: by how much each candidate breaks the limits (n,), see `measurement.violations`.
    """

    rows: Genes
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


class _Growing:
    """An array that grows along its first axis. What was read of it stays as it was, and cannot be written."""

    def __init__(self, first: npt.NDArray[Any]) -> None:
        self._room, self._length = first, len(first)

    def __len__(self) -> int:
        return self._length

    def extend(self, more: npt.NDArray[Any]) -> None:
        length = self._length + len(more)
        if length > len(self._room):
            # Twice as large, so that few additions copy what is there.
            room = np.empty((2 * length, *self._room.shape[1:]), dtype=self._room.dtype)
            room[: self._length] = self._room[: self._length]
            self._room = room
        self._room[self._length : length] = more
        self._length = length

    def part(self, start: int, stop: int) -> npt.NDArray[Any]:
        found = self._room[start : min(stop, self._length)]
        found.flags.writeable = False
        return found


class Evaluations(Generic[C]):
    """The proposals of one search and their results.

    Results that `record` already contains are replayed: they are used in place of an evaluation. If a proposal differs
    from the record (on another machine, whose arithmetic may differ in the last digit), the record takes precedence.

    Args:
        domain: the candidates, a space or any other domain, and how they are encoded.
        evaluate: evaluates all objectives of a list of candidates, `WithContext` if it is told what the search knows; a
            `Staged` evaluation has parts that stay in this process.
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
        domain: Space | Domain[C],
        evaluate: Evaluate[C] | WithContext[C] | Staged[C],
        objectives: Sequence[Objective],
        record: Record[C],
        *,
        budget: int,
        chunk_size: int = 1,
        lag: int = 1,
        on_result: OnResult[C] | None = None,
        known: Sequence[Measurement[C]] = (),
        patience: int | None = None,
        give_up: bool = False,
        run_chunks: Map = map,
    ) -> None:
        check_counts(budget=budget, chunk_size=chunk_size, lag=lag, patience=patience)
        self._domain, self._objectives, self._record = as_domain(domain), tuple(objectives), record
        self._chunk_size, self._lag, self._on_result, self._map = chunk_size, lag, on_result, run_chunks
        self._patience, self._give_up = patience, give_up
        self._session: list[Measurement[C]] = []
        self._staged = evaluate if isinstance(evaluate, Staged) else Staged(evaluate, {}, self._objectives)
        self._function = self._staged.function
        # Proposals in the order in which they were made, and results in the same order; known ones come first in both.
        self._genes = _Growing(self._domain.encode([]))
        self._seen: set[Hashable] = set()
        self._results: list[Measurement[C]] = []
        self._values = _Growing(np.zeros((0, len(self._objectives))))
        # What is being replayed or evaluated, and what has arrived but is not committed.
        self._running: deque[Iterator[list[Measurement[C]]]] = deque()
        self._arrived: deque[Measurement[C]] = deque()
        self._known = len(known)
        self._commit_known(known)
        self._replay = list(record.measurements)[len(known) :]
        self._replay_genes = self._domain.encode(measurement.candidate for measurement in self._replay)
        self._replay_keys = self._domain.keys(self._replay_genes)
        size = self._domain.size()
        total = budget if size is None else min(budget, size - len(known))
        # A complete record is left as it is: nothing is proposed or replayed.
        self._total = total if len(self._replay) < total else 0

    @property
    def proposed(self) -> int:
        """Number of proposals so far; all are distinct."""
        return len(self._genes) - self._known

    @property
    def remaining(self) -> int:
        """Number of further proposals; 0 if the budget is spent, the domain exhausted or the patience over."""
        return max(0, self._total - self.proposed)

    @property
    def known(self) -> int:
        """Number of known results."""
        return self._known

    @property
    def pending(self) -> Genes:
        """Proposals whose results are not visible yet (n, ...), so that a search can avoid similar candidates."""
        return self._genes.part(self._known + self._visible(self.proposed), len(self._genes))

    def is_new(self, genes: Genes) -> npt.NDArray[np.bool_]:
        """Which of the canonical candidates (n, ...) are neither proposed nor known, (n,)."""
        return np.array([key not in self._seen for key in self._domain.keys(genes)], dtype=np.bool_)

    def propose(self, genes: Genes, rng: np.random.Generator) -> None:
        """Propose the new candidates among `genes` (n, ...), within the budget; if none is new, a random new one.

        Where no new one can be drawn, the domain is taken to be exhausted.
        """
        if self._out_of_patience():
            self._total = self.proposed
        start = self.proposed
        self._add(genes)
        if self.proposed == start and self.remaining:
            self._add(self._random_new(rng))
            self._total = self._total if self.proposed > start else start
        # Proposals up to here have results in the record; the others are evaluated.
        replayed = max(start, min(self.proposed, len(self._replay)))
        self._running.append(iter([self._replay[start:replayed]]))
        if self.proposed > replayed:
            candidates = self._domain.decode(self._genes.part(self._known + replayed, len(self._genes)))
            seen = partial(self._results_before, start)
            self._running += self._staged.begun(self._map, self._function, candidates, size=self._chunk_size, seen=seen)

    def results(self) -> Results:
        """The results that are visible to the next proposal; waits for those that are still being evaluated."""
        return self._first(self._visible(self.proposed))

    def finish(self) -> Results:
        """The results of all proposals; waits for those that are still being evaluated."""
        return self._first(self.proposed)

    def abandon(self) -> None:
        """Leave no work of this search to workers that others use too: what they have not begun is not measured."""
        while self._running:
            abandon(self._running.popleft())

    def _visible(self, proposal: int) -> int:
        """How many results a proposal sees."""
        return max(0, proposal - self._lag + 1)

    def _out_of_patience(self) -> bool:
        # Only visible results count: the decision must not depend on how fast workers are.
        if self._patience is None or self._visible(self.proposed) < self._patience:
            return False
        seen = self.results()
        return stagnant(seen.values, seen.violations, self._patience)

    def _results_before(self, proposal: int) -> list[Measurement[C]]:
        """The measurements that a proposal was allowed to see."""
        shown = self._known + self._visible(proposal)
        self._wait(shown)
        return self._results[:shown]

    def _first(self, count: int) -> Results:
        shown = self._known + count
        self._wait(shown)
        values = self._values.part(0, shown)
        return Results(self._genes.part(0, shown), values, violations(values, self._objectives))

    def _wait(self, count: int) -> None:
        while len(self._results) < count:
            self._commit_next()

    def _add(self, genes: Genes) -> None:
        genes, start, room = self._domain.canonical(genes), self.proposed, self.remaining
        new: list[int] = []
        for place, key in enumerate(self._domain.keys(genes)):
            if len(new) == room:
                break
            if key in self._seen:
                continue
            # The record takes precedence over the proposal, so that a continued search repeats the interrupted one.
            number = start + len(new)
            self._seen.add(self._replay_keys[number] if number < len(self._replay) else key)
            new.append(place)
        replayed = self._replay_genes[start : start + len(new)]
        self._genes.extend(replayed)
        self._genes.extend(genes[new[len(replayed) :]])

    def _random_new(self, rng: np.random.Generator) -> Genes:
        # Sampling fails only if nearly all candidates are used, and then those that are counted can be enumerated.
        for _ in range(50):
            genes = self._domain.sample(100, rng)
            new = genes[self.is_new(genes)]
            if len(new):
                return new[:1]
        if self._domain.size() is None:
            return self._domain.encode([])
        genes = self._domain.every()
        return rng.permutation(genes[self.is_new(genes)])[:1]

    def _commit_known(self, known: Sequence[Measurement[C]]) -> None:
        """Commit the known results that the record does not contain yet, with their missing objectives measured."""
        found = list(self._record.measurements)[: len(known)]
        for measurement in known[len(found) :]:
            measurement = self._staged.completed(replace(measurement, known=True))
            self._record.commit(measurement)
            found.append(measurement)
        genes = self._domain.encode(measurement.candidate for measurement in found)
        self._genes.extend(genes)
        self._seen.update(self._domain.keys(genes))
        for measurement in found:
            self._show(measurement, 0)

    def _commit_next(self) -> None:
        """Wait for the next result in the order of proposals, and commit it unless it is a replayed one."""
        while not self._arrived:
            self._arrived.extend(next(self._running[0], ()))
            if not self._arrived:
                self._running.popleft()
        measurement, number = self._arrived.popleft(), len(self._results) - self._known
        # Objectives of this process are measured here, one candidate after another, in the order of proposals.
        if number >= len(self._replay):
            measurement = self._staged.completed(measurement)
            self._record.commit(measurement)
            self._session.append(measurement)
        self._show(measurement, number + 1)
        if self._give_up:
            refuse_hopeless(self._objectives, self._session)

    def _show(self, measurement: Measurement[C], number: int) -> None:
        """Make a result visible to the search, and tell of it."""
        self._results.append(measurement)
        self._values.extend(np.array([[o.sign * measurement.values.get(o.name, math.nan) for o in self._objectives]]))
        if self._on_result is not None:
            self._on_result(measurement, number)
