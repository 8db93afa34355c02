"""Failures stay with their candidate, nothing is measured twice, and a proposal sees only what its lag allows."""

import errno
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nas.errors import UserError
from nas.searching.enumeration import every_row, one_gene_changes
from nas.searching.evaluation import Evaluations
from nas.searching.measurement import Evaluated, Measurement, Objective, Staged, measure, violations
from nas.searching.stagnation import stagnant
from search_spaces.space import Candidate, Choice, Space

SPACE = Space((Choice("depth", (1, 2)), Choice("width", (8, 16, 32), active_if=("depth", (2,))), Choice("k", (3, 5))))
OBJECTIVES = (Objective("accuracy", "maximize"), Objective("macs"))


class _Kept:
    def __init__(self) -> None:
        self.measurements: list[Measurement] = []

    def commit(self, measurement: Measurement) -> None:
        self.measurements.append(measurement)


def _evaluate(candidates: Sequence[Candidate]) -> np.ndarray:
    rows = SPACE.encode(candidates)
    return np.stack([rows.sum(axis=1), 1 + rows[:, 0]], axis=1).astype(float)


def _run(record: _Kept, budget: int = 4, **settings: int) -> Evaluations:
    return Evaluations(SPACE, _evaluate, OBJECTIVES, record, budget=budget, **settings)


RNG = np.random.default_rng(0)


def test_objectives_say_what_is_wrong() -> None:
    with pytest.raises(UserError, match="minimize or maximize"):
        Objective("accuracy", "up")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="finite"):
        Objective("accuracy", limit=float("nan"))
    with pytest.raises(UserError, match="name"):
        Objective("")


def test_violations_are_shares_of_the_limits_broken() -> None:
    objectives = (Objective("accuracy", "maximize", limit=0.8), Objective("latency_ms", limit=10.0))
    values = np.array([[-0.9, 8.0], [-0.6, 10.0], [-0.6, 15.0], [np.nan, 1.0]])
    assert violations(values, objectives).tolist() == pytest.approx([0.0, 0.25, 0.75, np.inf])


@pytest.mark.parametrize(("error", "ends"), [(TimeoutError("slow"), False), (OSError(errno.ENOSPC, "full"), True)])
def test_a_disk_that_is_full_ends_the_search_and_no_other_error_of_the_system(error: OSError, ends: bool) -> None:
    def evaluate(candidates: Sequence[Candidate]) -> list[list[float]]:
        raise error

    candidates, objectives = [SPACE.smallest()], [Objective("a")]
    if ends:
        with pytest.raises(OSError, match="full"):
            measure(evaluate, candidates, objectives)
    else:
        assert measure(evaluate, candidates, objectives)[0].reason == "TimeoutError: slow"


def test_an_exception_or_nan_fails_that_candidate_only() -> None:
    def evaluate(candidates: Sequence[Candidate]) -> np.ndarray:
        if any(c["k"] == 5 for c in candidates):
            raise RuntimeError("out of memory")
        return np.array([[np.nan if c["depth"] == 2 else 1.0, 2.0] for c in candidates])

    rows = every_row(SPACE)
    results = measure(evaluate, SPACE.decode(rows), OBJECTIVES)
    assert [r.candidate for r in results] == SPACE.decode(rows)
    for result in results:
        if result.candidate["k"] == 5:
            assert (result.state, result.reason, dict(result.values)) == ("failed", "RuntimeError: out of memory", {})
        elif result.candidate["depth"] == 2:
            assert (result.state, result.reason) == ("failed", "accuracy is nan")
        else:
            assert dict(result.values) == {"accuracy": 1.0, "macs": 2.0} and result.seconds >= 0


@pytest.mark.parametrize("wrong", [np.zeros(2), np.zeros((2, 3)), "no", [[1, 2], [3]]])
def test_a_wrong_shape_is_one_clear_error(wrong: object) -> None:
    with pytest.raises(UserError, match=r"evaluate must return .*\(2, 2\)"):
        measure(lambda _: wrong, SPACE.decode(every_row(SPACE)[:2]), OBJECTIVES)  # type: ignore[arg-type, return-value]


def test_a_keyboard_interrupt_passes_through() -> None:
    def evaluate(candidates: Sequence[Candidate]) -> np.ndarray:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(evaluate, SPACE.decode(every_row(SPACE)[:2]), OBJECTIVES)


def test_every_row_is_the_whole_space_once() -> None:
    rows = every_row(SPACE)
    assert len(rows) == SPACE.size() == 8 and len(set(SPACE.decode(rows))) == 8
    near = one_gene_changes(SPACE, rows[:1])
    assert ((SPACE.canonical(near) != rows[0]).any(axis=1)).all()


def test_duplicates_and_rows_beyond_the_budget_are_not_measured() -> None:
    record = _Kept()
    run = _run(record, budget=3)
    run.propose(np.array([[0, 2, 0], [0, 1, 0], [0, 0, 1]]), RNG)  # the first two are one candidate
    run.propose(every_row(SPACE), RNG)
    assert len(run.finish()) == len(record.measurements) == 3 and run.remaining == 0
    assert len({m.candidate for m in record.measurements}) == 3


def test_a_batch_without_news_is_replaced_by_a_random_candidate_until_the_space_ends() -> None:
    record = _Kept()
    run = _run(record, budget=100)
    while run.remaining:
        run.propose(SPACE.encode([SPACE.smallest()]), RNG)
    run.finish()
    assert len({m.candidate for m in record.measurements}) == SPACE.size()


@pytest.mark.parametrize("lag", [1, 2, 5])
def test_a_proposal_sees_results_up_to_its_lag(lag: int) -> None:
    run = _run(_Kept(), budget=8, lag=lag)
    rows = every_row(SPACE)
    seen = []
    for row in rows:
        seen.append(len(run.results()))
        run.propose(row[None], RNG)
    assert seen == [max(0, i - lag + 1) for i in range(8)]


@pytest.mark.parametrize("chunk_size", [1, 3, 8])
def test_chunks_change_nothing_but_the_calls(chunk_size: int) -> None:
    record, sizes = _Kept(), []

    def evaluate(candidates: Sequence[Candidate]) -> np.ndarray:
        sizes.append(len(candidates))
        return _evaluate(candidates)

    run = Evaluations(SPACE, evaluate, OBJECTIVES, record, budget=8, chunk_size=chunk_size)
    run.propose(every_row(SPACE), RNG)
    values = run.finish().values
    assert max(sizes) == chunk_size and sum(sizes) == 8
    assert (values == _evaluate(SPACE.decode(every_row(SPACE))) * [-1, 1]).all()


def test_another_map_joins_without_touching_the_search() -> None:
    calls = []

    def eager(
        function: Callable[[list[Candidate]], list[Measurement]], chunks: Iterable[list[Candidate]], /
    ) -> Iterator[list[Measurement]]:
        done = {i: function(chunk) for i, chunk in reversed(list(enumerate(chunks)))}
        calls.append(len(done))
        return iter([done[i] for i in sorted(done)])

    record = _Kept()
    run = Evaluations(SPACE, _evaluate, OBJECTIVES, record, budget=8, run_chunks=eager)
    run.propose(every_row(SPACE), RNG)
    run.finish()
    assert calls == [8] and [m.candidate for m in record.measurements] == SPACE.decode(every_row(SPACE))


def test_a_record_is_replayed_and_wins_over_the_proposals() -> None:
    first = _Kept()
    run = _run(first, budget=3)
    run.propose(every_row(SPACE)[:3], RNG)
    run.finish()
    known, heard = list(first.measurements), []
    again = Evaluations(
        SPACE, _evaluate, OBJECTIVES, first, budget=6, on_result=lambda m, count: heard.append((m, count))
    )
    again.propose(every_row(SPACE)[[0, 1, 5]], RNG)  # another machine might ask for another third candidate
    again.propose(every_row(SPACE), RNG)
    again.finish()
    assert first.measurements[:3] == known and len({m.candidate for m in first.measurements}) == 6
    assert [count for _, count in heard] == [1, 2, 3, 4, 5, 6] and [m for m, _ in heard] == first.measurements


@pytest.mark.parametrize("name", ["budget", "chunk_size", "lag", "patience"])
def test_settings_below_one_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} must be at least 1"):
        _run(_Kept(), **{"budget": 1, name: 0})


def test_a_stage_that_stays_here_is_measured_in_order_where_the_rest_did_not_fail() -> None:
    seen: list[Candidate] = []

    def anywhere(candidates: Sequence[Candidate]) -> np.ndarray:
        return np.array([[np.nan if c["k"] == 5 else float(c["depth"])] for c in candidates])

    def latency(candidate: Candidate) -> float:
        seen.append(candidate)
        if candidate["width"] == 32:
            raise RuntimeError("no clock")
        return 7.0

    objectives = (Objective("latency_ms"), Objective("accuracy", "maximize", exact=lambda rows: rows[:, 0]))
    record = _Kept()
    staged = Staged(anywhere, {"latency_ms": latency}, objectives)
    run = Evaluations(SPACE, staged, objectives, record, budget=8, chunk_size=3)
    run.propose(every_row(SPACE), RNG)
    run.finish()
    assert seen == [m.candidate for m in record.measurements if m.candidate["k"] == 3]
    for measurement in record.measurements:
        if measurement.candidate["k"] == 5:
            assert measurement.reason == "accuracy is nan"
        elif measurement.candidate["width"] == 32:
            assert (measurement.state, measurement.reason) == ("failed", "RuntimeError: no clock")
        else:
            expected = {"latency_ms": 7.0, "accuracy": float(measurement.candidate["depth"] or 0)}
            assert dict(measurement.values) == expected and list(measurement.values) == ["latency_ms", "accuracy"]


def test_what_is_said_at_once_is_sent_nowhere() -> None:
    """The results are those of the evaluation, in order, but what is known here is never asked of it."""
    asked: list[Candidate] = []

    def anywhere(candidates: Sequence[Candidate]) -> Evaluated:
        asked.extend(candidates)
        values = [[math.nan if c["k"] == 5 else float(c["depth"]), 1.0] for c in candidates]
        return Evaluated(values, [{"k": c["k"]} for c in candidates])

    def at_once(candidate: Candidate) -> Evaluated | None:
        if candidate["depth"] == 1:
            raise RuntimeError("cannot tell")
        return anywhere([candidate]) if candidate["k"] == 5 else None

    def found(staged: Staged) -> list[Measurement]:
        asked.clear()
        record = _Kept()
        run = Evaluations(SPACE, staged, OBJECTIVES, record, budget=8, chunk_size=2, run_chunks=eager)
        run.propose(every_row(SPACE), RNG)
        run.finish()
        return [replace(measurement, seconds=0.0) for measurement in record.measurements]

    sent: list[Candidate] = []

    def eager(function: Any, chunks: Iterable[list[Candidate]], /) -> Iterator[Any]:
        chunks = list(chunks)
        sent.extend(candidate for chunk in chunks for candidate in chunk)
        return iter([function(chunk) for chunk in chunks])

    whole = found(Staged(anywhere, {}, OBJECTIVES))
    assert len(sent) == len(asked) == len(whole) == 8
    sent.clear()
    assert found(Staged(anywhere, {}, OBJECTIVES, at_once)) == whole
    assert sent == [m.candidate for m in whole if m.candidate["k"] == 3 or m.candidate["depth"] == 1]
    assert len(asked) == 8


def _known(*rows: Sequence[int]) -> list[Measurement]:
    candidates = SPACE.decode(np.array(rows))
    return [Measurement(c, {"accuracy": 0.5, "macs": 1.0}, "measured", None, 0.0) for c in candidates]


def test_known_results_are_seen_first_and_cost_nothing() -> None:
    record, heard, measured = _Kept(), [], []

    def evaluate(candidates: Sequence[Candidate]) -> np.ndarray:
        measured.extend(candidates)
        return _evaluate(candidates)

    def run() -> Evaluations:
        return Evaluations(
            SPACE,
            evaluate,
            OBJECTIVES,
            record,
            budget=3,
            known=_known([0, 0, 0], [1, 2, 1]),
            on_result=lambda m, number: heard.append((m.known, number)),
        )

    search = run()
    assert len(search.results()) == search.known == 2 and search.remaining == 3
    search.propose(every_row(SPACE), RNG)
    seen = search.finish()
    assert seen.rows[:2].tolist() == [[0, 0, 0], [1, 2, 1]] and len(seen) == 5
    assert [m.known for m in record.measurements] == [True, True, False, False, False]
    assert heard == [(True, 0), (True, 0), (False, 1), (False, 2), (False, 3)]
    assert len(measured) == 3 and not {m.candidate for m in record.measurements[:2]} & set(measured)
    again = run()
    again.propose(every_row(SPACE), RNG)
    again.finish()
    assert len(measured) == 3 and len(record.measurements) == 5


def test_known_results_get_here_what_only_compares_here() -> None:
    objectives = (Objective("accuracy", "maximize"), Objective("latency_ms"))
    staged = Staged(lambda c: [[1.0]] * len(c), {"latency_ms": lambda _: 3.0}, objectives)
    known = [Measurement(SPACE.smallest(), {"accuracy": 0.5}, "measured", None, 0.0)]
    record = _Kept()
    Evaluations(SPACE, staged, objectives, record, budget=1, known=known)
    assert dict(record.measurements[0].values) == {"accuracy": 0.5, "latency_ms": 3.0}


def test_patience_ends_a_search_that_finds_nothing_more() -> None:
    wide = Space((Choice("a", tuple(range(50))),))

    def evaluate(candidates: Sequence[Candidate]) -> np.ndarray:
        return np.array([[max(float(c["a"] or 0), 40.0)] for c in candidates])

    def found(patience: int | None, lag: int = 1) -> list[Measurement]:
        record = _Kept()
        run = Evaluations(wide, evaluate, (Objective("x"),), record, budget=50, patience=patience, lag=lag)
        for row in range(49, -1, -1):
            run.propose(np.array([[row]]), RNG)
        run.finish()
        return record.measurements

    # Improves up to the tenth result, 40; five without improvement follow, and what was under way by then.
    assert len(found(5)) == 15 and len(found(5, lag=4)) == 18 and len(found(None)) == 50


def test_nothing_stagnates_before_something_meets_the_limits() -> None:
    values, broken = np.array([[3.0], [2.0], [2.0], [2.0]]), np.array([1.0, 1.0, 1.0, 0.0])
    assert not stagnant(values, broken, 2)
    assert stagnant(values, np.zeros(4), 2) and not stagnant(values, np.zeros(4), 3)
    assert not stagnant(values[:2], np.zeros(2), 2)
    assert not stagnant(np.full((4, 1), np.nan), np.zeros(4), 2)


def test_what_is_pending_is_what_is_hidden() -> None:
    run = _run(_Kept(), budget=8, lag=3)
    assert len(run.pending) == 0
    run.propose(every_row(SPACE)[:4], RNG)
    assert run.pending.tolist() == every_row(SPACE)[2:4].tolist() and len(run.results()) == 2
