"""Dominance, ranks, crowding and hypervolume against pymoo's and moocore's, on any small table of values."""

import warnings

import moocore
import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nas.searching import pareto
from search_spaces.arrays import FloatArray

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pymoo.indicators.hv import HV
    from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

ROWS = st.integers(1, 25)


@st.composite
def tables(draw: st.DrawFn, least: int = 1, most: int = 5) -> FloatArray:
    """Few levels, so that rows tie and repeat."""
    rows, columns = draw(ROWS), draw(st.integers(least, most))
    levels = st.lists(st.integers(0, 8), min_size=columns, max_size=columns)
    return np.array(draw(st.lists(levels, min_size=rows, max_size=rows)), dtype=np.float64)


@settings(deadline=None)
@given(tables())
def test_ranks_and_front(values: FloatArray) -> None:
    ranks = np.empty(len(values), dtype=np.int64)
    for rank, front in enumerate(NonDominatedSorting().do(values)):
        ranks[front] = rank
    assert (pareto.ranks(values) == ranks).all()
    assert (pareto.front(values) == moocore.is_nondominated(values, keep_weakly=True)).all()


@settings(deadline=None)
@given(st.integers(1, 25), st.integers(2, 5), st.integers(0, 10**6))
def test_crowding_of_one_front(rows: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.stack([rng.permutation(rows) for _ in range(columns)], axis=1).astype(float)
    ours = pareto.crowding(values, np.zeros(rows, dtype=np.int64))
    assume(rows > 2)
    np.testing.assert_allclose(ours / columns, calc_crowding_distance(values.copy()))


@settings(deadline=None)
@given(tables(least=2))
def test_crowding_front_by_front(values: FloatArray) -> None:
    ranks = pareto.ranks(values)
    together = pareto.crowding(values, ranks)
    for rank in np.unique(ranks):
        inside = ranks == rank
        np.testing.assert_allclose(together[inside], pareto.crowding(values[inside], ranks[inside]))


@settings(deadline=None)
@given(tables(least=1, most=4), st.integers(5, 10))
def test_hypervolume(values: FloatArray, corner: int) -> None:
    reference = np.full(values.shape[1], float(corner))
    ours = pareto.hypervolume(values, reference)
    np.testing.assert_allclose(ours, moocore.hypervolume(values, ref=reference), atol=1e-9)
    inside = values[(values < reference).all(axis=1)]
    if len(inside):
        np.testing.assert_allclose(ours, HV(ref_point=reference)(inside))
