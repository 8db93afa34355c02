"""The chooser chooses, the figures of quality equal their definitions, damaged files are refused."""

import json
from pathlib import Path

import numpy as np
import pytest

import predictors
from predictors import Chooser, Ridge, Svr


def _bent(n: int = 80) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).random((n, 3))
    return x, np.sin(6 * x[:, 0]) + x[:, 1]


def test_the_chooser_takes_the_model_that_predicts_held_out_rows_best() -> None:
    x, bent = _bent()
    options = (Ridge(1e-6), Svr(30.0, 3.0))
    assert isinstance(Chooser(options).fit(x, bent).chosen, Svr)
    assert isinstance(Chooser(options).fit(x, x @ [1.0, 2.0, 3.0]).chosen, Ridge)
    assert Chooser((Ridge(1000.0), Ridge(0.001))).fit(x, bent).chosen == Ridge(0.001)


def test_the_chooser_compares_on_some_rows_and_learns_from_all() -> None:
    x, y = _bent(200)
    few, every = Chooser((Ridge(0.1),), most_rows=20).fit(x, y), Ridge(0.1).fit(x, y)
    assert few.predict(x)[0] == pytest.approx(every.predict(x)[0])
    with pytest.raises(ValueError, match="at least one option"):
        Chooser(())


def test_the_published_grid_is_the_papers() -> None:
    options = predictors.published_chooser().options
    ridges, vectors = [o for o in options if isinstance(o, Ridge)], [o for o in options if isinstance(o, Svr)]
    assert [o.alpha for o in ridges] == pytest.approx(np.arange(1, 101) / 10)
    assert [o.cost for o in vectors] == list(range(1, 101))
    assert {(o.gamma, o.epsilon, o.standardize) for o in vectors} == {(1.0, 0.0, False)}


def test_support_vectors_predict_as_the_library_does() -> None:
    from sklearn.svm import SVR

    x, y = _bent()
    model = SVR(C=5.0, gamma=2.0 / 3, epsilon=0.01).fit(x, y)
    ours = Svr(5.0, 2.0, 0.01, standardize=False).fit(x, y)
    assert ours.predict(x)[0] == pytest.approx(model.predict(x), abs=1e-9)


def test_kendall_and_spearman_equal_scipy_with_ties() -> None:
    from scipy.stats import kendalltau, spearmanr

    rng = np.random.default_rng(0)
    for _ in range(5):
        a, b = rng.integers(0, 6, size=(2, 30)).astype(float)
        assert predictors.kendall_tau(a, b) == pytest.approx(kendalltau(a, b).statistic)
        assert predictors.spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert predictors.kendall_tau([1, 2, 3], [5, 5, 5]) == predictors.spearman([1, 2, 3], [5, 5, 5]) == 0.0


def test_relative_error_and_coverage() -> None:
    assert predictors.mape([1, 2, -4], [1.1, 2, -3]) == pytest.approx((10 + 0 + 25) / 3)
    rng = np.random.default_rng(0)
    truth = rng.standard_normal(4000)
    assert predictors.coverage(truth, np.zeros(4000), np.ones(4000), 0.9) == pytest.approx(0.9, abs=0.02)
    with pytest.raises(ValueError, match="other than 0"):
        predictors.mape([0.0], [1.0])
    with pytest.raises(ValueError, match="at least 2"):
        predictors.kendall_tau([1], [1])
    with pytest.raises(ValueError, match="level"):
        predictors.coverage([1.0], [1.0], [1.0], 1.5)
    with pytest.raises(ValueError, match="NaN"):
        predictors.spearman([1.0, np.nan], [1.0, 2.0])


@pytest.mark.parametrize(
    "about",
    [
        {"version": 2, "kind": "ridge", "settings": {}},
        {"version": 1, "kind": "os.system", "settings": {}},
        {"version": 1, "kind": "ridge", "settings": {"weights": 3}},
        {"version": 1},
        [1],
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, about: object) -> None:
    path = tmp_path / "predictor.npz"
    np.savez(path, x=np.ones((2, 1)), y=np.ones(2), about=np.array(json.dumps(about)))
    with pytest.raises(ValueError, match="must be a predictor written by this project"):
        predictors.load(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"\x93NUMPY", b"\x80\x04K\x01."])
def test_a_damaged_file_or_a_pickle_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "predictor.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="must be a predictor"):
        predictors.load(path)
