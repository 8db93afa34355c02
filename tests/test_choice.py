"""The choice of a sub-network where accuracies are estimated: what may be chosen, and what is said of it."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from nas.errors import NoFeasible, UserError
from nas.profiling.choice import choosable, choose
from nas.profiling.reasons import reason
from nas.profiling.verification import Verified
from nas.searching.estimation import Hits
from nas.searching.measurement import Measurement, Objective
from nas.searching.rescoring import estimates
from nas.searching.study import Study
from search_spaces import Candidate, Choice, Space

SPACE = Space((Choice("a", tuple(range(100))),))
OBJECTIVES = (Objective("accuracy", "maximize"), Objective("macs"))
ROWS = 1000
RISING = [(600, 1.0), (650, 1.2), (700, 1.4), (750, 1.6), (800, 1.8)]
"""Right rows of a thousand, and a cost: the more it costs, the more is right."""


def made(values: list[tuple[int, float]], seed: int = 0) -> tuple[Study, list[Verified]]:
    """Candidates that have so many rows right and cost so much, all measured again."""
    rng = np.random.default_rng(seed)
    members, verified = [], []
    for number, (right, macs) in enumerate(values):
        candidate = Candidate({"a": number})
        members.append(Measurement(candidate, {"accuracy": right / ROWS, "macs": macs}, "measured", None, 0.0))
        hits = Hits.of(rng.permutation(ROWS) < right)
        verified.append(Verified(candidate, {}, {"accuracy": right / ROWS}, hits=hits, searched_rows=ROWS))
    return Study(SPACE, OBJECTIVES, members), verified


def estimated(study: Study, verified: list[Verified]) -> dict[int, float]:
    return {int(m.candidate["a"] or 0): m.values["accuracy"] for m in choosable(study, verified)}


def chosen(study: Study, verified: list[Verified], **limits: float) -> object:
    """What the command chooses, which is what the study does with the same estimates."""
    best = choose(study, verified, limits)
    other = Study(study.space, study.objectives, study.measurements)
    hits = {each.candidate: each.hits for each in verified if each.hits is not None}
    other.estimates = estimates(other.measurements, other.objectives, hits, ROWS)
    assert other.select(limits) == best
    return best.candidate["a"]


@pytest.mark.parametrize("limits", [{}, {"max_macs": 100.0}, {"min_accuracy": 0.5}])
def test_of_two_with_the_same_measured_accuracy_the_cheaper_is_chosen(limits: Mapping[str, float]) -> None:
    study, verified = made([*RISING, (850, 2.0), (850, 2.4)])
    found = estimated(study, verified)
    assert found[6] > found[5], "more is expected of the one that costs more"
    assert chosen(study, verified, **limits) == 5


def test_what_is_less_accurate_as_measured_and_costs_more_is_chosen_within_a_limit_on_costs_alone() -> None:
    study, verified = made([*RISING, (850, 2.0), (849, 2.4)])
    found = estimated(study, verified)
    assert found[6] > found[5]
    assert chosen(study, verified) == chosen(study, verified, min_accuracy=0.5) == 5
    assert chosen(study, verified, max_macs=2.4) == 6 and chosen(study, verified, max_macs=2.3) == 5
    limited = Study(SPACE, (OBJECTIVES[0], Objective("macs", limit=2.4)), study.measurements)
    assert chosen(limited, verified) == 6


@pytest.mark.parametrize("seed", range(20))
def test_without_limits_no_choice_is_dominated_by_what_was_measured_like_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    macs = rng.uniform(1, 2, 25).round(1)
    values = [(int(rng.binomial(ROWS, 0.75 + 0.1 * np.log(cost))), float(cost)) for cost in macs]
    study, verified = made(values, seed)
    again = [each for number, each in enumerate(verified) if number % 2]
    best = choose(study, again, {}).candidate
    known = {each.candidate for each in again}
    for other in study.measurements:
        if (other.candidate in known) == (best in known) and other.candidate != best:
            mine, theirs = (values[int(each["a"] or 0)] for each in (best, other.candidate))
            assert not (theirs[0] >= mine[0] and theirs[1] <= mine[1] and theirs != mine)


def test_what_was_measured_otherwise_dominates_nothing() -> None:
    """The cheaper one was not measured again: its accuracy, on the rows of the search, may be luck."""
    study, verified = made([*RISING, (850, 2.0), (850, 2.4)])
    assert chosen(study, verified) == 5
    less = [each for each in verified if each.candidate["a"] != 5]
    assert {5, 6} <= set(estimated(study, less)) and choose(study, less, {}).candidate["a"] == 6
    other = [
        replace(each, measured={**each.measured, "macs": 2.0}) if each.candidate["a"] == 5 else each
        for each in verified
    ]
    assert choose(study, other, {}).candidate["a"] == 6


def test_a_network_that_the_others_are_only_compared_with_is_never_chosen() -> None:
    study, verified = made([*RISING, (850, 2.0)])
    assert choose(study, verified, {}, never=Candidate({"a": 5})).candidate["a"] == 4
    with pytest.raises(NoFeasible, match=r"meets accuracy >= 0\.82; the nearest has accuracy 0.8 as measured"):
        choose(study, verified, {"min_accuracy": 0.82}, never=Candidate({"a": 5}))
    with pytest.raises(NoFeasible, match="no candidate but the full network was measured"):
        choose(*made(RISING[:1]), {}, never=Candidate({"a": 0}))


def test_a_limit_on_accuracy_that_an_estimate_does_not_meet_names_measured_and_estimated() -> None:
    study, verified = made([*RISING, (850, 2.0)])
    with pytest.raises(NoFeasible) as found:
        choose(study, verified, {"min_accuracy": 0.9})
    value = estimated(study, verified)[5]
    has = f"accuracy 0.85 as measured and {value:.6g} as estimated for new rows, macs 2"
    assert str(found.value) == f"none of 6 measured candidates meets accuracy >= 0.9; the nearest has {has}"
    # Where the measured value meets the limit, and the estimate does not.
    lucky, again = made([*RISING, (850, 1.8)])
    value = estimated(lucky, again)[5]
    assert value < 0.8499
    with pytest.raises(NoFeasible, match=f"accuracy 0.85 as measured and {value:.6g} as estimated"):
        choose(lucky, again, {"min_accuracy": 0.8499})
    lucky.estimates = estimates(lucky.measurements, OBJECTIVES, {e.candidate: e.hits for e in again if e.hits}, ROWS)
    with pytest.raises(NoFeasible, match=f"accuracy 0.85 as measured and {value:.6g} as estimated"):
        lucky.select(min_accuracy=0.8499)


def said(study: Study, verified: list[Verified], **limits: float) -> str:
    return reason(study, verified, limits, choose(study, verified, limits).candidate)


def test_what_is_said_of_a_choice_by_estimates() -> None:
    study, verified = made([*RISING, (850, 2.0), (849, 2.4)])
    found = estimated(study, verified)
    assert said(study, verified) == "", "it is the most accurate as measured"
    shown = f"84.9 % measured, {100 * found[6]:.1f} % estimated"
    assert said(study, verified, max_macs=2.4) == (
        f"Chosen by an estimate that corrects the measured accuracy for luck: {shown}; "
        f"the most accurate as measured has 85.0 %, and {100 * found[5]:.1f} % estimated"
    )
    assert said(study, verified, min_accuracy=0.5).startswith("The limit on accuracy goes by an estimate that corrects")
    # What comes before accuracy decides, and not an estimate; a limit on accuracy is compared with one still.
    costs_first = Study(SPACE, OBJECTIVES[::-1], study.measurements)
    assert said(costs_first, verified) == ""
    assert "60.0 % measured" not in said(costs_first, verified, min_accuracy=0.7)
    assert said(costs_first, verified, min_accuracy=0.7).startswith("The limit on accuracy")


def test_nothing_is_said_where_nothing_is_estimated() -> None:
    study, _ = made(RISING)
    assert said(study, []) == said(study, [], min_accuracy=0.7) == ""
    with pytest.raises(UserError, match="a limit must be of what was measured"):
        said(study, [], max_size_mib=3)
