"""What every predictor must do; a new one joins by one line."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import predictors
from predictors import Additive, Chooser, Corrected, GaussianProcess, Predictor, Ridge, Svr

GROUPS = (0, 0, 1, 1, 2, 2)
MAKERS: dict[str, Callable[[], Predictor]] = {
    "ridge": Ridge,
    "svr": Svr,
    "svr-raw": lambda: Svr(standardize=False),
    "gaussian-process": GaussianProcess,
    "gaussian-process-in-groups": lambda: GaussianProcess(GROUPS, steps=10, steps_rows=40, most_rows=50),
    "chooser": lambda: predictors.Chooser((predictors.Ridge(0.1), predictors.Svr(30.0, 1.0))),
    "additive": Additive,
    "corrected": lambda: Corrected(2),
    "corrected-in-groups": lambda: Corrected(2, (0, 0, 1, 1)),
    "chooser-decimal": lambda: Chooser((Ridge(0.1), Svr(standardize=False)), relative=True, decimal=True),
}
every = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


def _data(n: int = 60, seed: int = 0, noise: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 4, size=(n, 6)) / 4
    return x, 3 + x @ np.arange(1, 7) + noise * rng.standard_normal(n)


@every
def test_it_learns_a_line_and_its_spread_is_its_error(make: Callable[[], Predictor]) -> None:
    x, y = _data()
    unseen_x, unseen_y = _data(seed=1)
    mean, spread = make().fit(x, y).predict(unseen_x)
    assert mean.shape == spread.shape == (60,) and (spread >= 0).all()
    assert predictors.kendall_tau(unseen_y, mean) > 0.9
    error = float(np.sqrt(np.mean((mean - unseen_y) ** 2)))
    assert error / 3 < spread[0] < error * 3


@every
def test_rows_do_not_depend_on_each_other(make: Callable[[], Predictor]) -> None:
    x, y = _data()
    predictor = make().fit(x, y)
    together, _ = predictor.predict(x)
    assert predictor.mean(x) == pytest.approx(together, rel=1e-9)
    alone = [predictor.predict(x[i : i + 1])[0][0] for i in range(5)]
    assert together[:5] == pytest.approx(alone, rel=1e-9)
    assert predictor.predict(np.zeros((0, 6)))[0].shape == (0,)


@every
def test_fitting_again_forgets_and_repeats(make: Callable[[], Predictor]) -> None:
    x, y = _data()
    fresh = make().fit(x, y).predict(x)
    again = make().fit(x, -y).fit(x, y).predict(x)
    assert (fresh[0] == again[0]).all() and (fresh[1] == again[1]).all()


@every
def test_rows_with_nan_labels_are_left_out(make: Callable[[], Predictor]) -> None:
    x, y = _data()
    holes = np.concatenate([y, [np.nan, np.inf]])
    mean, _ = make().fit(np.concatenate([x, x[:2]]), holes).predict(x)
    assert (mean == make().fit(x, y).predict(x)[0]).all()


@every
@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_few_rows(make: Callable[[], Predictor], rows: int) -> None:
    x, y = _data(rows)
    mean, spread = make().fit(x, y).predict(_data()[0])
    assert np.isfinite(mean).all() and np.isfinite(spread).all()


@every
@pytest.mark.parametrize("value", [0.0, -7.5])
def test_constant_labels_give_that_constant(make: Callable[[], Predictor], value: float) -> None:
    x, _ = _data()
    mean, spread = make().fit(x, np.full(len(x), value)).predict(x)
    assert mean == pytest.approx(np.full(len(x), value)) and spread == pytest.approx(np.zeros(len(x)))


@every
def test_constant_or_no_features_give_the_mean(make: Callable[[], Predictor]) -> None:
    _, y = _data()
    if make in (MAKERS["gaussian-process-in-groups"], MAKERS["corrected"], MAKERS["corrected-in-groups"]):
        pytest.skip("its features are given")
    assert make().fit(np.zeros((60, 0)), y).predict(np.zeros((2, 0)))[0] == pytest.approx([y.mean()] * 2)
    assert np.isfinite(make().fit(np.ones((60, 2)), y).predict(np.ones((2, 2)))[0]).all()


@every
def test_the_unit_of_the_labels_does_not_matter_much(make: Callable[[], Predictor]) -> None:
    x, y = _data()
    small = make().fit(x, 1e-6 * y).predict(x)[0] * 1e6
    large = make().fit(x, 1e6 * y).predict(x)[0] / 1e6
    # Support vectors with a fixed margin see labels as they are: within the margin all are alike.
    tolerance = 0.02 if make is not MAKERS["svr-raw"] else np.inf
    assert small == pytest.approx(large, rel=tolerance) and np.isfinite(small).all()


@every
def test_wrong_input_is_one_clear_error(make: Callable[[], Predictor]) -> None:
    x, y = _data()
    with pytest.raises(ValueError, match="shape"):
        make().fit(x, y[:-1])
    with pytest.raises(ValueError, match="shape"):
        make().fit(x[0], y)
    with pytest.raises(ValueError, match="at least one finite label"):
        make().fit(x, np.full(len(x), np.nan))
    with pytest.raises(ValueError, match="features must be finite"):
        make().fit(x * np.nan, y)
    with pytest.raises(ValueError, match="fit must come before"):
        make().predict(x)
    fitted = make().fit(x, y)
    with pytest.raises(ValueError, match=r"\(n, 6\)"):
        fitted.predict(x[:, :5])
    with pytest.raises(ValueError, match="features must be finite"):
        fitted.predict(x * np.nan)


@every
def test_it_is_saved_as_data_and_settings_and_refitted(make: Callable[[], Predictor], tmp_path: Path) -> None:
    x, y = _data()
    predictor, path = make().fit(x, y), tmp_path / "predictor.npz"
    predictors.save(predictor, path)
    loaded = predictors.load(path)
    assert loaded == predictor
    assert all((a == b).all() for a, b in zip(loaded.predict(x), predictor.predict(x), strict=True))
    assert [file.name for file in tmp_path.iterdir()] == ["predictor.npz"]
    with np.load(path, allow_pickle=False) as file:
        assert set(file.files) == {"x", "y", "about"} and json.loads(str(file["about"]))["version"] == 1


@every
def test_an_unfitted_predictor_is_not_saved(make: Callable[[], Predictor], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fit must come before"):
        predictors.save(make(), tmp_path / "predictor.npz")
    assert not list(tmp_path.iterdir())
