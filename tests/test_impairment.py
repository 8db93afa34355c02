"""The global ranking of pruned sub-networks, on a case worked by hand and against brute force."""

import itertools

import numpy as np
import pytest

from nas.errors import UserError
from nas.pruning.impairment import Base, Form, Scheme, best_combination, impairment, schemes
from search_spaces import Candidate, Choice, Space

SPACES = {name: Space((Choice(f"channels.{name}", range(1, 201)),)) for name in ("a", "b")}
BASES = {"a": Base(100, 0.10), "b": Base(200, 0.20)}
# The case of docs/emo-pms.md: two fronts, from hardly pruned to much.
FRONTS = {"a": ((90, 0.10), (60, 0.12), (30, 0.20)), "b": ((180, 0.20), (100, 0.21), (40, 0.40))}


def candidate(name: str, channels: int) -> Candidate:
    return SPACES[name].candidate({f"channels.{name}": channels})


FORMS = [Form(name, candidate(name, cost), cost, error) for name, front in FRONTS.items() for cost, error in front]


def names(found: list[Scheme]) -> list[tuple[float | None, ...]]:
    return [tuple(form and form.cost for form in scheme.values()) for scheme in found]


def test_the_index_worked_by_hand() -> None:
    # dP of a: -.1, -.4, -.7 and dE 0, .2, 1; of b: -.1, -.5, -.8 and 0, .05, 1.
    literal = [0.6 / 0.001, 0.3 / 0.201, 0 / 1.001, 0.7 / 0.001, 0.3 / 0.051, 0 / 1.001]
    assert impairment(FORMS, BASES, "literal") == pytest.approx(literal)
    reciprocal = [0.001 / 0.601, 0.201 / 0.301, 1.001 / 0.001, 0.001 / 0.701, 0.051 / 0.301, 1.001 / 0.001]
    assert impairment(FORMS, BASES) == pytest.approx(reciprocal)


def test_the_order_worked_by_hand() -> None:
    found = names(list(schemes(FORMS, BASES)))
    assert found == [(None, None), (None, 180), (90, 180), (90, 100), (60, 100), (30, 100), (30, 40)]


def test_the_equation_as_printed_takes_the_most_pruned_forms_first() -> None:
    found = names(list(schemes(FORMS, BASES, "literal")))
    # Then it goes back: the rate falls along the order, against what the text says of it.
    assert found == [(None, None), (30, None), (30, 40), (60, 40), (60, 100), (90, 100), (90, 180)]


def fronts(seed: int) -> tuple[list[Form], dict[str, Base]]:
    rng = np.random.default_rng(seed)
    forms, bases = [], {}
    for name in ("a", "b"):
        costs, errors = (
            np.sort(rng.choice(np.arange(5, 100), 6, replace=False))[::-1],
            np.sort(rng.uniform(0.1, 0.6, 6)),
        )
        forms += [Form(name, candidate(name, int(c)), float(c), float(e)) for c, e in zip(costs, errors, strict=True)]
        bases[name] = Base(100.0, 0.1)
    return forms, bases


@pytest.mark.parametrize("seed", range(5))
def test_the_cost_never_rises_along_the_order(seed: int) -> None:
    forms, bases = fronts(seed)
    costs = [sum(bases[n].cost if f is None else f.cost for n, f in s.items()) for s in schemes(forms, bases)]
    assert costs == sorted(costs, reverse=True)
    assert costs[0] == 200
    assert costs[-1] == sum(min(form.cost for form in forms if form.subnetwork == name) for name in bases)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 1.1])
def test_the_best_combination_against_all_of_them(seed: int, share: float) -> None:
    forms, bases = fronts(seed)
    least = sum(min(form.cost for form in forms if form.subnetwork == name) for name in bases)
    most = least + share * (200 - least)
    options = [[None, *(form for form in forms if form.subnetwork == name)] for name in bases]

    def total(combination: tuple[Form | None, ...], what: str) -> float:
        return sum(getattr(form or base, what) for form, base in zip(combination, bases.values(), strict=True))

    allowed = [each for each in itertools.product(*options) if total(each, "cost") <= most]
    best = min(total(each, "error") for each in allowed)
    chosen = tuple(best_combination(forms, bases, most).values())
    assert total(chosen, "cost") <= most
    assert total(chosen, "error") == pytest.approx(best)


def test_a_limit_below_all_is_refused() -> None:
    with pytest.raises(UserError, match="the most pruned forms cost 70"):
        best_combination(FORMS, BASES, 10)


def test_a_detector_without_errors_gives_finite_indices() -> None:
    assert np.isfinite(impairment(FORMS, {"a": Base(100, 0.0), "b": Base(200, 0.2)})).all()


@pytest.mark.parametrize(("bases", "rule"), [({"a": Base(0, 0.1), "b": BASES["b"]}, "literal"), (BASES, "ascending")])
def test_wrong_input(bases: dict[str, Base], rule: str) -> None:
    with pytest.raises(UserError, match="must"):
        impairment(FORMS, bases, rule)  # type: ignore[arg-type]
