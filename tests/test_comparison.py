"""What a difference between two regressions can tell."""

import io
import json
import math

import numpy as np
import pytest

from nas.data.tasks import Regression
from nas.exporting.comparison import Comparison, Figures, r2_difference
from nas.reporting.endings import print_comparison


def numbers(rows: int = 200) -> tuple[Regression, np.ndarray, np.ndarray]:
    """A task in other units than its outputs, labels, and outputs that are right up to some noise."""
    rng = np.random.default_rng(0)
    labels = rng.normal(50, 10, rows)
    task = Regression(mean=40.0, std=5.0)
    return task, labels, ((labels + rng.normal(0, 3, rows) - task.mean) / task.std).astype(np.float32)[:, None]


def r2(task: Regression, outputs: np.ndarray, labels: np.ndarray) -> float:
    errors = labels - (outputs[:, 0] * task.std + task.mean)
    return 1 - float((errors**2).sum() / ((labels - labels.mean()) ** 2).sum())


def test_difference_is_that_of_the_scores() -> None:
    task, labels, good = numbers()
    worse = good + 0.5
    found = r2_difference(task, worse, good, labels)
    assert found.points == pytest.approx(100 * (r2(task, worse, labels) - r2(task, good, labels)))
    assert found.low < found.points < found.high < 0
    back = r2_difference(task, good, worse, labels)
    assert (back.points, back.low, back.high) == pytest.approx((-found.points, -found.high, -found.low))


def test_equal_networks_do_not_differ() -> None:
    task, labels, outputs = numbers()
    found = r2_difference(task, outputs, outputs, labels)
    assert (found.points, found.low, found.high) == (0, 0, 0)


def test_noise_alone_is_not_told_apart() -> None:
    """Both outputs are the labels with noise of one size, drawn anew."""
    task, labels, outputs = numbers()
    other = ((labels + np.random.default_rng(1).normal(0, 3, len(labels)) - task.mean) / task.std)[:, None]
    found = r2_difference(task, other, outputs, labels)
    assert found.low < 0 < found.high
    figures = Figures(0.9, 1.0, 1, 1, 1.0)
    told = Comparison(figures, figures, figures, found, 200, 0.0, metric="r2", judged=200)
    assert "does not tell the two networks apart" in told.what_the_data_can_tell()
    assert told.to_json()["full"]["test_r2"] == 0.9


@pytest.mark.parametrize("latency_ms", [2.0, math.inf])
def test_scores_that_are_no_number(latency_ms: float) -> None:
    """All labels are equal: R squared is nothing, in JSON, in words and in the table, and costs are as ever."""
    task, _, outputs = numbers()
    found = r2_difference(task, outputs, outputs + 1, np.full(len(outputs), 3.0))
    assert np.isnan([found.points, found.low, found.high]).all()
    figures = Figures(math.nan, latency_ms, 1, 1, 1.0)
    compared = Comparison(figures, figures, figures, found, 200, 0.0, metric="r2", judged=200)
    told = json.loads(json.dumps(compared.to_json(), allow_nan=False))
    assert told["chosen"]["test_r2"] is None and told["chosen"]["macs"] == 1
    assert told["r2_difference_points"] is None and told["r2_difference_interval"] == [None, None]
    assert (told["chosen"]["latency_ms"], told["speedup"]) == ((2.0, 1.0) if latency_ms == 2 else (None, None))
    assert "The 200 test rows do not tell the two networks apart" in compared.what_the_data_can_tell()
    out = io.StringIO()
    print_comparison({**told, "what_the_data_can_tell": compared.what_the_data_can_tell(), "export": "here"}, out)
    assert out.getvalue().count("no number") >= 2 and "nan" not in out.getvalue()


def test_few_labels_that_differ_leave_an_interval() -> None:
    """A draw of the bootstrap may have equal labels; it counts for nothing."""
    task, labels = Regression(mean=0.0, std=1.0), np.array([1.0, 1.0, 1.0, 2.0])
    found = r2_difference(task, labels[:, None], np.ones((4, 1)), labels)
    assert math.isfinite(found.low) and found.low <= found.points <= found.high
