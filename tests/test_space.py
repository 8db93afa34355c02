"""Laws of spaces: canonical forms, exact counts, encoding, JSON, and what they refuse."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import AttributeCut, AxisCut, BlockCut, Choice, Space

SPACE = Space(
    (
        Choice("depth", (1, 2, 3), cuts=(BlockCut("blocks", 3, (2, 0, 1)),)),
        Choice("heads.0", (1, 2), active_if=("depth", (2, 3)), cuts=(AxisCut("w", 0, 0, 1, 2, 4),)),
        Choice("bits.0", ("int8", "float32"), active_if=("heads.0", (2,)), ordered=False),
        Choice("width", range(2, 9, 3), cuts=(AttributeCut("m", "n", 0, 1),)),
    )
)


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    choices: list[Choice] = []
    for index in range(draw(st.integers(1, 5))):
        parent = draw(st.sampled_from(choices)) if choices and draw(st.booleans()) else None
        values = draw(st.sets(st.sampled_from(parent.options), min_size=1)) if parent else None
        condition = (parent.name, tuple(sorted(values))) if parent and values else None
        options = tuple(range(1, 1 + draw(st.integers(1, 3))))
        choices.append(Choice(f"c{index}", options, active_if=condition, ordered=draw(st.booleans())))
    return Space(tuple(choices))


@given(spaces())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_size_counts_the_distinct_candidates(space: Space) -> None:
    every = itertools.product(*(range(len(choice.options)) for choice in space.choices))
    candidates = space.decode(np.array(list(every)))
    assert len(set(candidates)) == space.size()
    assert space.decode(space.encode(candidates)) == candidates
    assert (space.canonical(space.encode(candidates)) == space.encode(candidates)).all()
    assert len(np.unique(space.features(space.encode(list(set(candidates)))), axis=0)) == space.size()


@given(spaces(), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_json_and_samples_come_back(space: Space, seed: int) -> None:
    assert Space.from_json(space.to_json()) == space
    assert hash(Space.from_json(space.to_json())) == hash(space)
    sample = space.sample(np.random.default_rng(seed))
    assert sample == space.sample(np.random.default_rng(seed))
    assert space.candidate(dict(sample)) == sample


def test_inactive_choices_are_none_and_do_not_count() -> None:
    assert SPACE.size() == 3 * (1 + 2 * (1 + 2))
    small = SPACE.candidate({"depth": 1, "heads.0": 2, "bits.0": "int8", "width": 5})
    assert dict(small) == {"depth": 1, "heads.0": None, "bits.0": None, "width": 5}
    assert small == SPACE.candidate({"depth": 1, "width": 5})
    assert SPACE.largest()["bits.0"] == "float32"
    assert SPACE.full() == SPACE.candidate({"depth": 3, "heads.0": 2, "bits.0": "float32", "width": 8})
    assert Space.from_json(SPACE.to_json()) == SPACE


def test_features_mask_the_inactive_and_split_categories() -> None:
    rows = SPACE.encode([SPACE.smallest(), SPACE.largest()])
    assert SPACE.features(rows).tolist() == [[1 / 3, 0, 0, 0, 2 / 8], [1, 1, 0, 1, 1]]


def test_spaces_join_and_close_conditions() -> None:
    bits = Space((Choice("bits", (8, 32), active_if=("depth", (3,))),))
    with pytest.raises(ValueError, match="bits depends on depth"):
        bits.size()
    assert (SPACE + bits).size() == 3 * (1 + 6 - 3) + 3 * 3 * 2
    with pytest.raises(ValueError, match="depth twice"):
        SPACE + SPACE


def test_wide_ranges_stay_ranges() -> None:
    wide = Space(tuple(Choice(f"channels.{i}", range(1, 10**9)) for i in range(3)))
    assert wide.size() == (10**9 - 1) ** 3
    assert wide.decode(wide.encode([wide.largest()]))[0] == wide.largest()
    assert len(wide.to_json()) < 1000


WITH = '{"version": 1, "choices": [{"name": "a", "ordered": true, "cuts": [], %s}]}'


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Choice("a", ()), "at least one option"),
        (lambda: Choice("a", (2, 1)), "must increase"),
        (lambda: Choice("a", ("x", "x")), "must be distinct"),
        (lambda: Choice("a", (1,), active_if=("b", ())), "never active"),
        (lambda: Space((Choice("a", (1,), ("b", (1,))), Choice("b", (1,), ("a", (1,))))).size(), "circle"),
        (lambda: SPACE.candidate({"depth": 4, "width": 2}), "depth must be one of"),
        (lambda: SPACE.candidate({"depth": 3, "width": 2}), "heads.0 must be given"),
        (lambda: SPACE.candidate({"height": 4}), "height is no choice"),
        (lambda: SPACE.decode([[9, 0, 0, 0]]), "index of depth must be in 0..2"),
        (lambda: SPACE.decode([[0, 0, 0]]), "must have shape"),
        (lambda: Space.from_json("[1]"), "not the JSON of a space"),
        (lambda: Space.from_json(WITH % '"options": [1], "active_if": []'), "not the JSON of a space"),
        (
            lambda: Space.from_json(WITH % '"options": {"start": 1, "stop": Infinity, "step": 1}, "active_if": null'),
            "stop must be an integer of usual size",
        ),
        (lambda: Space.from_json("{"), "not the JSON of a space"),
        (lambda: Space.from_json("[" * 100_000), "not the JSON of a space"),
        (lambda: Space.from_json(json.dumps({"version": 2, "choices": []})), "version 1"),
        (lambda: Space.from_json(SPACE.to_json().replace('"axis"', '"shell"')), "kind of a cut"),
    ],
)
def test_what_is_wrong_is_said(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
