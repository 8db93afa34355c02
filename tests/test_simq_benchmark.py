"""The benchmark of joint searches: what it concludes from points, and that it runs on a tiny network."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import simq_nas
import simq_problem
import torch
import toy_images
from harness import Harness
from simq_figures import Picks, pick_figures, picks, row_figures, spread_along, table, targets, truth_figures, volume_of
from simq_files import Files, Point, Verified, bits
from simq_problem import Model, Problem, Sizes, full_architecture, load_problem
from simq_rows import Validation
from simq_truth import half_policies, plainly_quantized

from hardware.policy import Policy, PrecisionChoices
from hardware.profile import BY_LAYER
from nas.networks.policies import policy_of

ROWS = 200
TINY = Sizes(
    steps=1,
    budget=6,
    searched_rows=16,
    verified_rows=None,
    calibration_rows=8,
    profiled=4,
    tolerance=100.0,
    points=1,
    budgets=1,
    joint=2,
    policies=2,
    timed=1,
    rounds=3,
)


def _verified(name: str, wrong: int, latency: float, size_mib: float) -> Verified:
    return Verified(name, np.arange(ROWS) >= wrong, latency, size_mib, 30.0)


def _points() -> dict[str, list[Verified]]:
    """The full network has 10 % wrong; in INT8 11 %, at 0.5 of its latency and 0.4 of its size of 80 MiB."""
    return {
        "joint": [
            _verified("joint-0", 22, 0.25, 20.0),
            _verified("joint-1", 21, 0.4, 8.0),
            _verified("joint-2", 25, 0.2, 4.0),
            _verified("joint-3", 40, 0.1, 2.0),
        ],
        "knapsack": [_verified("knapsack-0", 20, 0.6, 40.0)],
        "accuracy_control": [_verified("accuracy_control-1", 26, 0.5, 40.0)],
        "fp32": [_verified("fp32", 20, 1.0, 80.0)],
        "int8": [_verified("int8", 22, 0.5, 32.0)],
        "bf16": [_verified("bf16", 20, 0.6, 80.0)],
    }


def test_a_volume_is_a_product_for_one_point_and_no_sum_for_two() -> None:
    full = _points()["fp32"][0]
    # 1 point of accuracy below the full network's leaves 4 of 5.
    one, other = _verified("one", 22, 0.5, 20.0), _verified("other", 20, 0.75, 40.0)
    assert volume_of([one], full, 0.05) == pytest.approx(0.04 * 0.5 * 0.75)
    both = 0.04 * 0.5 * 0.75 + 0.01 * 0.25 * 0.5
    assert volume_of([one, other], full, 0.05) == pytest.approx(both)
    assert volume_of([full, _verified("bad", 31, 0.1, 1.0)], full, 0.05) == 0


def test_points_are_taken_by_what_they_add() -> None:
    # In a square of 10: volumes of 25, 16, 9, and one that is dominated.
    values = np.array([[9.0, 1.0], [5.0, 5.0], [2.0, 8.0], [6.0, 6.0]])
    assert spread_along(values, [10.0, 10.0], 2) == [1, 2]
    assert spread_along(values, [10.0, 10.0], 9) == [1, 2, 0]
    assert spread_along(values, [5.0, 10.0], 9) == [2]


def test_picks_go_by_verified_accuracy() -> None:
    points = _points()
    found = picks(points)
    assert found.fastest is points["joint"][0] and found.smallest is points["joint"][1]
    assert found.within is points["joint"][2]
    assert found.names == ["joint-0", "joint-1", "joint-2"]
    figures = row_figures(points, 0.05)
    assert figures["latency_over_int8"] == 2.0 and figures["size_over_int8"] == 4.0
    assert figures["latency_over_int8_within_1_5"] == 2.5
    assert figures["hypervolume_over_knapsack"] == pytest.approx(
        volume_of(points["joint"], points["fp32"][0], 0.05) / (0.05 * 0.4 * 0.5)
    )
    best = max(0.05 * 0.4 * 0.5, 0.02 * 0.5 * 0.5, 0.04 * 0.5 * 0.6)
    assert figures["hypervolume_over_best_other"] == pytest.approx(
        figures["hypervolume_over_knapsack"] * 0.05 * 0.4 * 0.5 / best
    )


def test_without_a_point_as_accurate_its_figures_are_absent() -> None:
    points = {**_points(), "joint": [_verified("joint-0", 23, 0.25, 20.0), _verified("joint-1", 60, 0.1, 1.0)]}
    found = picks(points)
    assert found.fastest is None and found.smallest is None and found.within is points["joint"][0]
    assert not {"latency_over_int8", "size_over_int8"} & set(row_figures(points, 0.05))
    assert pick_figures(found, {}) == {}


def test_picks_are_compared_on_the_same_test_rows() -> None:
    points = _points()
    right = {"int8": np.arange(100) >= 10, "joint-0": np.arange(100) >= 9, "joint-1": np.arange(100) < 88}
    figures = pick_figures(Picks(points["joint"][0], points["joint"][1], None), right)
    assert figures["latency_pick_minus_int8_points"] == 1.0 and figures["size_pick_minus_int8_points"] == -2.0
    assert figures["size_pick_minus_int8_points_low"] < -2.0 < figures["size_pick_minus_int8_points_high"]


def test_agreement_of_search_and_files() -> None:
    joint = {"search": [0.9, 0.8, 0.7, 0.6], "files": [0.9, 0.79, 0.71, 0.6], "fp32": [0.9, 0.6, 0.7, 0.8]}
    policy = {
        "search": [0.9, 0.9],
        "files": [0.9, 0.9],
        "search_error": [1.0, 2.0, 3.0],
        "files_error": [1.0, 2.0, 4.0],
        "plain_error": [3.0, 1.0, 2.0],
    }
    found = truth_figures(joint, policy, [1.5, 1.2, 1.1])
    assert found == pytest.approx(
        {
            "truth_tau_joint": 1.0,
            "truth_tau_joint_fp32": 0.0,
            "truth_tau_policy": 1.0,
            "truth_tau_policy_plain": -1 / 3,
            "truth_error_points": 100 * 0.02 / 6,
            "evaluation_cost_ratio": 1.2,
        }
    )


def test_the_table_holds_every_point_and_the_rows_side_by_side() -> None:
    points = _points()
    lines = table(points, {"joint-0": {"accuracy": 0.905}}, 0.05).splitlines()
    (own,) = [line for line in lines if line.startswith("  joint-0")]
    assert own.split() == ["joint-0", "89.00", "90.50", "7.50", "4.00", "20.00", "4.00"]
    (level,) = [line for line in lines if line.split()[:1] == ["-1.0"]]
    # The fastest and the smallest may be two points.
    assert level.split()[1:4] == ["4.00", "/", "10.00"]
    assert set(targets("minilm")) != set(targets("vit"))


def test_accuracy_control_asks_for_every_row() -> None:
    class Port:
        any_name = "x"

    class Network:
        inputs = (Port,)

        def __call__(self, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [arrays["x"]]

    rows = [({"x": torch.tensor([[0.1, 0.9]])}, label) for label in (1, 0, 1, 1)]
    check = Validation()
    assert check(Network(), rows) == (0.75, [1.0, 0.0, 1.0, 1.0]) and check.calls == 1


def test_bits_are_read_as_they_were_written() -> None:
    right = np.random.default_rng(0).random(19) < 0.5
    assert (Verified.from_json(Verified("a", right, 0.5, 3.0, 30.0).to_json()).right == right).all()
    assert bits("ff", 3).tolist() == [True] * 3


@pytest.fixture
def problem(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Problem:
    """A tiny BERT that was fine-tuned."""
    monkeypatch.setitem(simq_problem.MODELS, "toy", Model(lambda *_: pytest.fail("it is fine-tuned")))
    monkeypatch.setattr(simq_problem, "TOKENS", 12)
    monkeypatch.setattr(simq_problem, "precision_choices", lambda *_: PrecisionChoices())
    return load_problem("toy", finished, TINY)


def test_rows_of_searches_verify_nothing(problem: Problem) -> None:
    searched, verified = set(problem.searched.rows), set(problem.verified.rows)
    assert len(searched) == 16 and not searched & verified and not (searched | verified) & set(problem.test.rows)
    space = full_architecture(problem.space)
    candidates = space.decode(space.random(5, np.random.default_rng(0)))
    full = {name: option for name, option in problem.full.items() if not name.startswith("precision.")}
    assert all({name: each[name] for name in full} == full for each in candidates)
    assert all(problem.space.candidate(each) == each for each in candidates)


def test_policies_quantize_half_of_the_layers(problem: Problem) -> None:
    layers = sum(name.startswith("precision.") for name in problem.full)
    found = half_policies(problem)
    assert len(set(found)) == len(found) == 2
    for candidate in found:
        assert len(policy_of(problem.supernet, candidate).of("int8")) == layers // 2


def test_plain_rounding_changes_outputs_a_little(problem: Problem) -> None:
    module = problem.networks.extract(problem.full)
    row = problem.calibration[0]
    paths = [path for path, part in module.named_modules() if isinstance(part, torch.nn.Linear)]
    rounded = plainly_quantized(module, problem.calibration, Policy(dict.fromkeys(paths, "int8")))
    with torch.no_grad():
        whole, other = module(**row).logits, rounded(**row).logits
        assert 0 < float((whole - other).abs().max()) < 0.2 * float(whole.abs().max())
        assert torch.equal(plainly_quantized(module, problem.calibration, Policy())(**row).logits, whole)


@pytest.mark.slow
def test_it_runs_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, validation, test = (toy_images.split(count, seed) for seed, count in enumerate((60, 40, 40)))
    searched, verified = (validation.take(20, np.random.default_rng(seed)) for seed in range(2))
    example, precisions = train.batch([0, 1]), PrecisionChoices(floating=("bfloat16", "float32"))
    supernet = toy_images.supernet().eval()
    problem = Problem("toy", supernet, train, searched, verified, test, example, precisions, TINY, norm_rows=train)
    options = argparse.Namespace(out=tmp_path, json=True, full=False)
    figures = simq_nas.run_problem(simq_nas.Stages(Harness(options), "toy", TINY), problem, tmp_path)
    told = capsys.readouterr().err
    names = {"truth_tau_joint", "truth_tau_joint_fp32", "truth_tau_policy", "evaluation_cost_ratio"}
    assert names <= set(figures) and all(np.isfinite(value) for value in figures.values())
    assert all(f"{row}: hypervolume" in told for row in ("joint", "policy_only", "accuracy_control", "int8"))
    # A second time nothing is measured.
    again = simq_nas.Stages(Harness(options), "toy", TINY)
    assert simq_nas.run_problem(again, problem, tmp_path) == figures
    files = Files(problem, tmp_path / "files")
    files.write(Point("same", problem.full, BY_LAYER))
    assert (files.test("same") == files.test("fp32")).all()
    weights = files.folder / "same" / "openvino" / "model.bin"
    whole = weights.stat().st_size
    # Files of the same name for another point are written anew.
    files.write(Point("same", problem.space.smallest(), BY_LAYER))
    assert weights.stat().st_size < whole
    weights.unlink()
    with pytest.raises(RuntimeError, match="could not run same"):
        files.test("same")
