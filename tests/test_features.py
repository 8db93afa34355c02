"""What predictors see: contrasts that tell options apart, nothing of inactive choices, sums over families."""

import numpy as np
import pytest

from nas.searching.features import contrast_features, contrasts, families, one_hot_features
from nas.searching.linas import first_rows
from search_spaces import Choice, Space

SPACE = Space(
    (
        Choice("depth", (1, 2, 3)),
        *(Choice(f"heads.{i}", (2, 4, 8), active_if=("depth", tuple(range(i + 1, 4)))) for i in range(3)),
        *(Choice(f"bits.{i}", ("int8", "int4", "fp32"), ordered=False) for i in range(2)),
        Choice("channels", range(8, 129, 8)),
    )
)
ROWS = SPACE.random(200, np.random.default_rng(0))


@pytest.mark.parametrize("options", [(1, 2), (1, 2, 4), (0.25, 0.5, 0.75, 1.0), range(8, 129, 8), ("a", "b", "c")])
@pytest.mark.parametrize("ordered", [True, False])
def test_contrasts_have_mean_zero_and_right_angles(options: tuple[int, ...], ordered: bool) -> None:
    table = contrasts(Choice("c", options, ordered=ordered))
    assert table.mean(axis=0) == pytest.approx(np.zeros(table.shape[1]), abs=1e-9)
    products = table.T @ table
    assert products - np.diag(np.diag(products)) == pytest.approx(np.zeros_like(products), abs=1e-9)
    assert len(np.unique(table.round(9), axis=0)) == len(options)


def test_categories_are_equally_far_from_each_other_and_sizes_are_not() -> None:
    for ordered in (False, True):
        table = contrasts(Choice("c", (1, 2, 3, 4), ordered=ordered))
        far = np.linalg.norm(table[:, None] - table, axis=2)[np.triu_indices(4, 1)]
        assert (np.ptp(far) < 1e-9) == (not ordered)
    assert contrasts(Choice("one", (7,))).shape == (1, 0)


@pytest.mark.parametrize("make", [contrast_features, one_hot_features])
def test_rows_that_differ_have_other_features_and_every_feature_has_a_group(make: type) -> None:
    features = make(SPACE)
    x = features.of(ROWS)
    assert x.shape == (len(ROWS), len(features.groups)) and set(features.groups) == set(range(max(features.groups) + 1))
    assert len(np.unique(x.round(9), axis=0)) == len(np.unique(ROWS, axis=0))
    assert features.of(ROWS[:0]).shape == (0, x.shape[1])
    assert make(Space(())).of(np.zeros((2, 0), dtype=np.int64)).shape == (2, 0)


def test_an_inactive_choice_and_a_family_of_one_say_nothing() -> None:
    assert families(SPACE) == [[1, 2, 3], [4, 5]]
    features = contrast_features(SPACE)
    x, groups = features.of(ROWS), np.array(features.groups)
    assert (x[:, groups == 3][~SPACE.active(ROWS)[:, 3]] == 0).all()
    total = sum(x[:, groups == column] for column in (1, 2, 3)) / np.sqrt(3)
    assert x[:, groups == 7] == pytest.approx(total)
    assert max(groups) == len(SPACE.choices) + 1


def test_the_order_of_categories_means_nothing() -> None:
    names = ("int8", "int4", "fp32")
    straight = Space(tuple(Choice(f"bits.{i}", names, ordered=False) for i in range(2)))
    mixed = Space(
        (Choice("bits.0", names[::-1], ordered=False), Choice("bits.1", ("int4", "fp32", "int8"), ordered=False))
    )
    candidates = straight.decode(straight.random(20, np.random.default_rng(0)))
    here, there = (contrast_features(space).of(space.encode(candidates)) for space in (straight, mixed))
    assert here == pytest.approx(there)
    batch = [first_rows(space, 24, np.random.default_rng(0)) for space in (straight, mixed)]
    levels = [space.decode(rows[:15]) for space, rows in zip((straight, mixed), batch, strict=True)]
    assert levels[0] == levels[1]


def test_one_hot_has_one_one_for_each_active_choice() -> None:
    hot = one_hot_features(SPACE).of(ROWS)
    assert set(np.unique(hot)) == {0.0, 1.0}
    assert (hot.sum(axis=1) == SPACE.active(ROWS).sum(axis=1)).all()
