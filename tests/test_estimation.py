"""Accuracies that hold on new rows: estimates against a known truth, rivals of a front, and the choice by them."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_pyramid import split

from nas.errors import NoFeasible, UserError
from nas.profiling.choice import choosable, choose, expected
from nas.profiling.verification import Verified
from nas.searching.estimation import Hits, Others, estimated
from nas.searching.measurement import Measurement, Objective
from nas.searching.random_search import random_search
from nas.searching.rescoring import MOST_RIVALS, Scorer, change, estimates, rivals
from nas.searching.selection import select
from nas.searching.study import Study, load_study
from search_spaces import Candidate, Choice, Space
from search_spaces.arrays import BoolArray, FloatArray

SPACE = Space((Choice("a", tuple(range(100))),))
OBJECTIVES = (Objective("accuracy", "maximize"), Objective("macs"))
ROWS, CANDIDATES = 600, 24


def drawn(rng: np.random.Generator, rows: int) -> tuple[BoolArray, FloatArray, FloatArray]:
    """Hits of candidates that find the same rows hard (c, n), their true accuracies (c,) and costs (c,)."""
    costs = rng.uniform(0.3, 1.0, CANDIDATES)
    skill = 1.5 + np.log(costs) + rng.normal(0, 0.08, CANDIDATES)
    hard = rng.normal(0, 2, 200_000)
    right = 1 / (1 + np.exp(-(skill[:, None] + hard[None])))
    taken = rng.integers(0, hard.size, rows)
    return rng.random((CANDIDATES, rows)) < right[:, taken], right.mean(axis=1), costs


def test_the_best_estimate_promises_less_too_much_than_the_best_measured() -> None:
    rng = np.random.default_rng(0)
    excess: dict[str, list[float]] = {"estimate": [], "hits": []}
    inside = []
    for _ in range(40):
        hits, truth, costs = drawn(rng, ROWS)
        found = estimated(hits, costs[:, None])
        inside += [each.low <= true <= each.high for each, true in zip(found, truth, strict=True)]
        for name, values in (("estimate", [each.value for each in found]), ("hits", hits.mean(axis=1))):
            best = int(np.argmax(values))
            excess[name].append(values[best] - truth[best])
    assert abs(np.mean(excess["estimate"])) < 0.5 * np.mean(excess["hits"])
    assert 0.9 < np.mean(inside) <= 1.0


def test_the_best_few_are_shrunk_towards_a_curve_through_all() -> None:
    rng = np.random.default_rng(1)
    alone, beside = [], []
    for _ in range(40):
        hits, truth, costs = drawn(rng, ROWS)
        best = np.argsort(-hits.mean(axis=1))[:6]
        rest = np.setdiff1d(np.arange(CANDIDATES), best)
        others = Others(hits[rest].mean(axis=1), costs[rest, None], ROWS)
        alone.append(np.mean([each.value for each in estimated(hits[best], costs[best, None])] - truth[best]))
        beside.append(
            np.mean(
                [each.value for each in estimated(hits[best], costs[best, None], others)[: len(best)]] - truth[best]
            )
        )
    assert abs(np.mean(beside)) < 0.5 * abs(np.mean(alone))


def test_raw_values_are_kept_and_few_rows_are_not_shrunk() -> None:
    rng = np.random.default_rng(2)
    hits = rng.random((5, 100)) < 0.8
    found = estimated(hits, rng.uniform(1, 2, (5, 2)))
    assert [each.raw for each in found] == list(hits.mean(axis=1)) and {each.rows for each in found} == {100}
    assert all(0 <= each.low <= each.value <= each.high <= 1 for each in found)
    few = estimated(hits[:, :10], rng.uniform(1, 2, (5, 1)))
    assert [each.value for each in few] == list(hits[:, :10].mean(axis=1))
    one = estimated(hits[:1], np.ones((1, 1)))[0]
    assert one.value == one.raw and one.low < one.raw < one.high


@pytest.mark.parametrize("costs", [np.ones((4, 0)), np.ones((4, 2)), np.array([[1.0], [1e6], [1e6], [1e6]])])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_networks_and_costs_that_do_not_differ(costs: FloatArray, share: float) -> None:
    hits = np.tile(np.arange(40) < 40 * share, (4, 1))
    for each in estimated(hits, costs):
        assert each.value == pytest.approx(share, abs=1e-6) and math.isfinite(each.low + each.high)


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(UserError, match=r"hits \(c, n\) and costs \(c, k\), got \(2, 30\) and \(3, 1\)"):
        estimated(np.ones((2, 30), dtype=np.bool_), np.ones((3, 1)))


@pytest.mark.parametrize("rows", [1, 8, 13])
def test_hits_as_text(rows: int) -> None:
    right = np.random.default_rng(rows).random(rows) < 0.5
    hits = Hits.of(right)
    assert Hits.from_hex(hits.to_hex(), rows) == hits and np.array_equal(hits.array(), right)
    with pytest.raises(ValueError, match="need"):
        Hits.from_hex(hits.to_hex(), rows + 8)


def measured(values: list[tuple[float, float]]) -> list[Measurement]:
    return [
        Measurement(Candidate({"a": number}), {"accuracy": accuracy, "macs": macs}, "measured", None, 0.0)
        for number, (accuracy, macs) in enumerate(values)
    ]


def test_rows_that_are_harder_than_those_of_the_search_lower_every_estimate() -> None:
    """Accuracies on the rows of the search lie two points too high for all: the estimates are those without that."""
    rng, macs = np.random.default_rng(3), np.linspace(1.0, 2.0, 30)
    truth = 0.75 + 0.1 * np.log(macs)
    right = {number: rng.random(1500) < share for number, share in enumerate(truth)}
    exact = measured([(float(right[number].mean()), cost) for number, cost in enumerate(macs)])
    hits = {member.candidate: Hits.of(right[number]) for number, member in enumerate(exact) if number % 3 == 0}
    lucky = measured([(member.values["accuracy"] + 0.02, member.values["macs"]) for member in exact])
    found, shifted = (estimates(some, OBJECTIVES, hits, 400) for some in (exact, lucky))
    assert set(found) == set(shifted) == {member.candidate for member in exact}
    assert [each.value for each in shifted.values()] == pytest.approx([each.value for each in found.values()])
    # Those measured on fewer rows are shrunk, and never given as measured on all.
    assert {each.rows for candidate, each in found.items() if candidate not in hits} == {400}
    # Without the rows of the search, only those scored again are estimated.
    assert set(estimates(lucky, OBJECTIVES, hits)) == set(hits)


def test_what_was_not_measured_again_is_expected_to_change_as_the_others_did() -> None:
    rng, objectives = np.random.default_rng(5), (Objective("accuracy", "maximize"), Objective("latency_ms", limit=9.0))
    members = [
        replace(member, values={"accuracy": 0.9, "latency_ms": 2.0 + member.candidate["a"]})
        for member in measured([(0.9, 1.0)] * 8)
    ]
    study = Study(SPACE, objectives, members)
    verified = [
        Verified(
            member.candidate,
            {"latency_ms": member.values["latency_ms"]},
            {"latency_ms": 1.1 * member.values["latency_ms"], "accuracy": 0.8},
            hits=Hits.of(rng.permutation(1000) < 800),
            searched_rows=400,
        )
        for member in members[:4]
    ]
    found = expected(study, verified)
    assert [m.values["latency_ms"] for m in found] == pytest.approx([1.1 * m.values["latency_ms"] for m in members])
    assert [m.values["accuracy"] for m in found] == pytest.approx([0.8] * 8, abs=0.002)
    # A size that shrinks to a fifth in its files does not fall below 0, whatever the median difference is.
    sized = [replace(m, values={**m.values, "size_mib": 10.0 + 90.0 * (m.candidate["a"] < 4)}) for m in members]
    small = [replace(each, measured={**each.measured, "size_mib": 20.0}) for each in verified]
    sizes = [m.values["size_mib"] for m in expected(Study(SPACE, (*objectives, Objective("size_mib")), sized), small)]
    assert sizes == pytest.approx([20.0] * 4 + [2.0] * 4)
    # With two only, nothing is known of the others.
    few = expected(study, verified[:2])
    assert few[5].values["latency_ms"] == members[5].values["latency_ms"]


def by_size(rng: np.random.Generator, rows: int = 1500) -> tuple[list[Measurement], dict[Candidate, Hits], FloatArray]:
    """Candidates scored on 400 of the rows, the hits on all rows of every third one, and the true accuracies."""
    macs = np.linspace(1.0, 2.0, 30)
    truth = 0.75 + 0.1 * np.log(macs)
    right = rng.random((len(macs), rows)) < truth[:, None]
    members = measured([(float(each[:400].mean()), cost) for each, cost in zip(right, macs, strict=True)])
    return members, {m.candidate: Hits.of(right[n]) for n, m in enumerate(members) if n % 3 == 0}, truth


def again(hits: dict[Candidate, Hits], searched_rows: int | None = 400) -> list[Verified]:
    return [
        Verified(candidate, {}, {"accuracy": float(each.array().mean())}, hits=each, searched_rows=searched_rows)
        for candidate, each in hits.items()
    ]


@pytest.mark.parametrize("seed", range(3))
def test_luck_on_few_rows_is_not_chosen_before_what_was_scored_on_all(seed: int) -> None:
    """One member of the front was not scored again, and looks four points better than it is."""
    members, hits, truth = by_size(np.random.default_rng(seed))
    lucky = members[-1]
    assert lucky.candidate not in hits
    raw = float(truth[-1]) + 0.04
    members[-1] = replace(lucky, values={**lucky.values, "accuracy": raw})
    study = Study(SPACE, OBJECTIVES, members)
    assert study.front()[0].candidate == lucky.candidate
    verified = again(hits)
    found = {m.candidate: m.values["accuracy"] for m in choosable(study, verified)}
    assert set(found) == {m.candidate for m in study.front()} | set(hits)
    every = estimates(members, OBJECTIVES, hits, 400)
    assert found == {candidate: pytest.approx(every[candidate].value) for candidate in found}
    assert choose(study, verified, {}).values["accuracy"] == pytest.approx(truth[-1], abs=0.02)
    # No limit tells them apart either: what is only as good by luck does not meet it.
    with pytest.raises(NoFeasible):
        select(choosable(study, verified), OBJECTIVES, {"min_accuracy": raw - 0.005})


def test_scores_of_another_precision_compare_with_each_other_alone() -> None:
    """Whoever has no score of its files is no choice beside those that have, also where its latency was measured."""
    members, hits, _ = by_size(np.random.default_rng(0))
    study = Study(SPACE, OBJECTIVES, members)
    fast = next(m for m in study.front() if m.candidate not in hits)
    verified = [*again(hits, None), Verified(fast.candidate, {}, {"macs": 0.5})]
    assert {m.candidate for m in choosable(study, verified)} == set(hits)
    # What to expect of those that have none is no estimate and looks better than it is, so that they are measured next.
    found = {m.candidate: m.values["accuracy"] for m in expected(study, verified)}
    differences = [
        float(hits[m.candidate].array().mean()) - m.values["accuracy"] for m in members if m.candidate in hits
    ]
    every = estimates(members, OBJECTIVES, hits, None)
    assert set(every) == set(hits)
    for member in members:
        moved = member.values["accuracy"] + float(np.median(differences))
        wanted = every[member.candidate].value if member.candidate in hits else moved
        assert found[member.candidate] == pytest.approx(wanted)


def test_a_study_and_the_command_choose_by_one_rule() -> None:
    members, hits, _ = by_size(np.random.default_rng(4))
    study = Study(SPACE, OBJECTIVES, members)
    hits |= {m.candidate: Hits.of(np.random.default_rng(5).random(1500) < 0.8) for m in study.front()}
    found = estimates(members, OBJECTIVES, hits, 400)
    study.estimates = {candidate: each for candidate, each in found.items() if candidate in hits}
    bare = Study(SPACE, OBJECTIVES, members)
    for limits in ({}, {"max_macs": 1.8}, {"max_macs": 1.3}, {"min_accuracy": 0.75}):
        assert study.select(limits) == choose(bare, again(hits), limits)


def test_estimates_are_not_stored(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    rows = {0: (0.8, 5.0), 1: (0.9, 10.0)}
    small = Space((Choice("a", (0, 1)),))
    study = random_search(
        small, lambda some: [rows[int(c["a"])] for c in some], OBJECTIVES, budget=2, seed=0, storage=path
    )
    study.estimates = estimates(study.measurements, OBJECTIVES, {small.smallest(): Hits.of(np.ones(200, np.bool_))})
    assert study.select().candidate == small.smallest()
    loaded = load_study(path)
    assert loaded.estimates == {} and loaded.select().candidate == small.full()
    loaded.estimates = study.estimates
    assert loaded.select() == study.select()


@pytest.mark.parametrize("name", ["accuracy", "r2", "latency_ms", "own:number"])
def test_what_measuring_again_makes_of_others(name: str) -> None:
    pairs = [(0.5, 0.4), (0.8, 0.64), (1.0, 0.9), (0.9, 0.72)]
    assert change(name, pairs[:2])(0.7) == 0.7
    if name in ("accuracy", "r2"):
        assert change(name, pairs)(0.7) == pytest.approx(0.7 - 0.13)
    else:
        assert change(name, pairs)(0.7) == pytest.approx(0.7 * 0.8)
    # No ratio of numbers of which some are not above 0.
    assert change(name, [(0.0, 1.0), (-1.0, 0.0), (2.0, 3.0)])(5.0) == pytest.approx(6.0)


def test_outputs_that_are_no_numbers_have_no_hits() -> None:
    def forward(candidate: Candidate) -> Callable[..., torch.Tensor]:
        output = torch.nan if candidate["a"] else 1.0
        return lambda **inputs: torch.full((len(next(iter(inputs.values()))), 3), output)

    scorer = Scorer(forward, split(40))
    assert math.isnan(scorer(Candidate({"a": 1}))) and not scorer.hits
    assert 0 <= scorer(Candidate({"a": 0})) <= 1 and list(scorer.hits) == [Candidate({"a": 0})]


def test_rivals_are_what_one_standard_error_would_put_on_the_front() -> None:
    error = math.sqrt(0.8 * 0.2 / 400)
    found = measured([(0.9, 10), (0.8, 5), (0.8 - 0.9 * error, 6), (0.8 - 1.2 * error, 7), (0.7, 11)])
    assert [member.candidate["a"] for member in rivals(found, OBJECTIVES, 400)] == [2]
    assert [member.candidate["a"] for member in rivals(found, OBJECTIVES, 100)] == [2, 3]
    many = measured([(0.9, 1.0), *((0.9 - 1e-4 * i, 2.0) for i in range(1, 50))])
    assert [member.candidate["a"] for member in rivals(many, OBJECTIVES, 400)] == list(range(1, MOST_RIVALS + 1))
    assert rivals(many, (Objective("r2", "maximize"),), 400) == []


def test_the_choice_goes_by_the_estimates_where_there_are_any() -> None:
    members = measured([(0.9, 10), (0.8, 5)])
    study = Study(SPACE, OBJECTIVES, members)
    rng = np.random.default_rng(0)
    hits = {
        member.candidate: Hits.of(rng.random(200) < share) for member, share in zip(members, (0.6, 0.8), strict=True)
    }
    assert study.select().candidate == members[0].candidate
    study.estimates = estimates(members, OBJECTIVES, hits)
    chosen = study.select()
    assert chosen.candidate == members[1].candidate
    assert chosen.values["accuracy"] == study.estimates[chosen.candidate].value
    assert study.select(min_accuracy=0.7, max_macs=10).candidate == members[1].candidate
