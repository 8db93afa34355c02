"""What the benchmark of the latency predictors concludes from latencies, and that it runs on a tiny network."""

import argparse
from pathlib import Path

import latency_figures
import latency_predictors
import numpy as np
import profiles
import pytest
from harness import Harness
from latency_figures import Measured, TableSums, alone, near_tau, twice
from latency_predictors import MeasurementCounts, Model


def test_near_pairs_alone_are_ranked() -> None:
    truth = np.array([1.0, 1.05, 2.0, 2.1])
    assert near_tau(truth, np.array([1.0, 1.1, 0.1, 0.2])) == 1.0
    assert near_tau(truth, np.array([1.1, 1.0, 0.1, 0.2])) == 0.0
    assert near_tau(np.array([1.0, 2.0]), np.array([1.0, 2.0])) is None


def test_two_measurements_are_averaged_and_compared() -> None:
    rows = np.arange(3)[:, None]
    mean, found = twice(Measured(rows, np.array([1.0, 2.0, 4.0])), Measured(rows, np.array([1.0, 6.0, 4.4])))
    assert mean.ratios == pytest.approx([1.0, 4.0, 4.2]) and (mean.rows == rows).all()
    assert found == pytest.approx({"noise": 100 * 0.4 / 4.2, "tau_repeat": 1 / 3})


def test_sums_of_parts_are_exact_where_parts_add_up() -> None:
    subject = profiles.subject()
    space = subject.supernet.space
    parts = alone(space)
    assert space.largest() in parts and len(set(parts)) == len(parts)

    def ratio(candidate: object) -> float:
        heads = [value for name, value in candidate.items() if name.startswith("heads")]  # type: ignore[attr-defined]
        return 0.2 + sum(0.05 * (value or 0) for value in heads)

    full_depth = [
        space.candidate({**each, "depth": 4})
        for each in space.decode(space.random(20, np.random.default_rng(0)))
        if each["depth"] == 4
    ]
    sums = TableSums(space, Measured(space.encode(parts), np.array([ratio(each) for each in parts])))
    assert sums(space.encode(full_depth))[0] == pytest.approx([ratio(each) for each in full_depth])


@pytest.mark.slow
def test_it_runs_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = Model(lambda: profiles.subject().supernet.model, {"depth": (2, 3, 4), "heads": (1, 2, 4)}, (8, 12, 14))
    monkeypatch.setitem(latency_predictors.MODELS, "minilm", tiny)
    monkeypatch.setattr(latency_predictors, "TOKENS", 8)
    monkeypatch.setattr(latency_figures, "published_chooser", latency_figures.Additive)
    sizes = MeasurementCounts(tiny.counts, main=12, held=6, tolerance=100.0, front=4, searched=30)
    harness = Harness(argparse.Namespace(out=tmp_path, json=True, full=False))
    found = latency_predictors.run_model(harness, "minilm", ["pytorch"], sizes)
    names = (
        "mape",
        "tau",
        "tau_near",
        "noise",
        "tau_repeat",
        "macs_mape",
        "sums_tau",
        "dynas_tau",
        "mape_8",
        "mape_14",
        "front_mape",
    )
    assert {f"{name}_minilm_pytorch" for name in names} <= set(found)
    assert found["profile_seconds"] > 0 and all(np.isfinite(value) for value in found.values())
    again = Harness(argparse.Namespace(out=tmp_path, json=True, full=False))
    assert latency_predictors.run_model(again, "minilm", ["pytorch"], sizes) == found
