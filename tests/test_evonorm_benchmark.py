"""The benchmark of EvoNorm: what it concludes from tried layers and trained networks, and its modules by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evonorm_cost import cost_ratios
from evonorm_figures import cost_figures, gains, ordinary_table, small_batch_table
from evonorm_kept import Kept
from evonorm_modules import BY_HAND
from evonorm_networks import resnet18
from evonorm_problem import Images, Layer
from evonorm_rejection import Tried, as_json, figures, from_json, interval, lost, merged, table
from evonorm_trainings import Outcome, Run
from evonorm_workers import worker_efficiency

from search_spaces.graphs import GraphLayer, LayerGraph, Node, published

ROWS = 200


def _graph(number: int) -> LayerGraph:
    """Different graphs, whose formulas do not matter here."""
    return LayerGraph((Node("exp", (0,)), *(Node("tanh", (4 + index,)) for index in range(number))))


def _tried(
    number: int, function: str, *, first: bool = True, usable: bool = True, through: bool = True, by: str | None = None
) -> Tried:
    return Tried(_graph(number), function, usable, first, through, 3 if usable and first else 0, by, 50 if by else 400)


def _streams() -> dict[str, list[Tried]]:
    return {
        "random": [
            _tried(0, "a", by="mobilenet-v2"),
            _tried(1, "b", usable=False, by="mobilenet-v2"),
            _tried(2, "c", usable=False, by="mobilenet-v2"),
            _tried(3, "a", first=False, by="mobilenet-v2"),
        ],
        "mutants": [
            _tried(4, "d"),
            _tried(5, "e", usable=False),
            _tried(6, "f", by="stability"),
            _tried(7, "f", first=False),
            _tried(4, "d", first=False),
            _tried(8, "g", through=False, by="mobilenet-v2"),
            _tried(9, "h", through=False),
        ],
    }


def test_steps_are_saved_by_filters_and_by_the_fingerprint() -> None:
    found = figures(_streams())
    assert found["training_saved"] == 200 / 53
    assert found["training_saved_mutants"] == (5 * 400 + 2 * 50) / (400 + 50 + 4 * 3)


def test_a_layer_is_lost_by_a_filter_or_by_being_taken_for_a_bad_one() -> None:
    streams = _streams()
    # Graph 4 is counted once; 5 and 9 are lost by the filters, 7 because 6 was rejected.
    assert lost(streams) == (3, 4) and merged(streams) == (1, 2)
    found = figures(streams)
    assert found["false_rejects"] == pytest.approx(3 / 4) and found["false_rejects_of"] == 4
    assert found["false_rejects_low"] < 3 / 4 < found["false_rejects_high"]
    assert "3 of 4" in table(streams) and "first step 28.6" in table(streams)


def test_streams_come_back_from_json() -> None:
    streams = _streams()
    assert from_json(json.loads(json.dumps(as_json(streams)))) == streams


def test_the_interval_is_exact() -> None:
    # The rule of three: none of n is up to about 3.7 / n with both sides of an interval.
    assert interval(0, 60) == (0.0, pytest.approx(1 - 0.025 ** (1 / 60)))
    assert interval(60, 60) == (pytest.approx(0.025 ** (1 / 60)), 1.0)
    low, high = interval(5, 50)
    assert low == pytest.approx(0.0333, abs=1e-4) and high == pytest.approx(0.2181, abs=1e-4)


def _outcome(wrong: int) -> dict[str, Any]:
    right = np.arange(ROWS) >= wrong
    return {
        "validation": 0.5,
        "right": np.packbits(right).tobytes().hex(),
        "rows": ROWS,
        "failed": False,
    }


def _layer(*wrong: int) -> dict[str, Any]:
    return {"rate": 0.01, "rates": [[0.01, 0.5], [0.03, 0.4]], "seeds": [_outcome(count) for count in wrong]}


def test_gains_are_means_over_seeds() -> None:
    found = {"BN-ReLU": _layer(100, 110), "GN-ReLU": _layer(80, 81), "found": _layer(90, 96)}
    made = gains(found)
    assert made["gain_batch4_points"] == pytest.approx((5 + 7) / 2)
    assert made["gain_batch4_over_gn_points"] == pytest.approx(-(5 + 7.5) / 2)
    assert made["gain_batch4_points_low"] < 6 < made["gain_batch4_points_high"]
    assert len(small_batch_table(found).splitlines()) == 4
    assert "50.0" in small_batch_table(found).splitlines()[1]


def test_an_outcome_comes_back_from_json() -> None:
    outcome = Outcome.from_json(_outcome(50))
    assert outcome.test == 0.75 and len(outcome.right) == ROWS


def test_the_table_names_the_unseen_network() -> None:
    lines = ordinary_table({"S0": {"a": _outcome(100), "b": _outcome(50)}}, "b").splitlines()
    assert "b, unseen" in lines[0] and lines[1].split() == ["S0", "50.0", "75.0"]


def test_the_worst_ratio_counts() -> None:
    found = cost_figures({"S0": {"graph_ms": 2.0, "module_ms": 1.0}, "B0": {"graph_ms": 1.0, "module_ms": 1.0}})
    assert found == {"graph_cost_ratio": 2.0, "graph_cost_ratio_S0": 2.0, "graph_cost_ratio_B0": 1.0}


def test_all_six_are_timed() -> None:
    assert all(each["graph_ms"] > 0 and each["module_ms"] > 0 for each in cost_ratios(1).values())


@pytest.mark.parametrize("name", BY_HAND)
def test_modules_by_hand_compute_what_graphs_do(name: str) -> None:
    rng = torch.Generator().manual_seed(0)
    graph, module = GraphLayer(published(name), 64), BY_HAND[name](64)
    parameters = dict(module.named_parameters())
    assert set(parameters) == {key for key, value in graph.named_parameters() if value is not None}
    with torch.no_grad():
        for key, parameter in graph.named_parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=rng)
            parameters[key].copy_(parameter)
    for training in (True, True, False):
        x = torch.randn(4, 64, 5, 3, generator=rng) + 0.5
        ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        both = graph.train(training)(ours), module.train(training)(theirs)
        torch.testing.assert_close(*both, rtol=1e-4, atol=1e-4)
        for output in both:
            output.square().sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3)


def test_results_are_kept_one_by_one(tmp_path: Path) -> None:
    path, done = tmp_path / "kept.jsonl", list[int]()

    def square(number: int) -> dict[str, int]:
        if number > 2:
            raise KeyboardInterrupt
        done.append(number)
        return {"square": number**2}

    work = {str(number): number for number in range(4)}
    with pytest.raises(KeyboardInterrupt):
        Kept(path, "settings", map)("Squares", square, work)
    # A program that is killed may leave half a line.
    path.write_text(path.read_text() + '["3", {"squ')
    found = Kept(path, "settings", map)("Squares", square, dict(list(work.items())[:3]))
    assert found == {str(number): {"square": number**2} for number in range(3)} and done == [0, 1, 2]
    assert Kept(path, "others", map).known == {}


def test_images_are_means_of_squares_of_pixels() -> None:
    sums = torch.full((3, 3, 16, 16), 4 * 255, dtype=torch.int16)
    sums[1] = 0
    images = Images(sums, torch.arange(3))
    pixels = images.batch([0, 1])["pixels"]
    assert (pixels[0] == 1).all() and (pixels[1] == -1).all()
    batches = images.batches(2, np.random.default_rng(0))
    assert sorted(np.concatenate(batches).tolist()) == [0, 1, 2] and images.targets([2]).tolist() == [2]
    assert len(images.take(2)) == 2 and images.fingerprint() != images.take(2).fingerprint()


@pytest.mark.parametrize("name", ["BN-ReLU", "GN-ReLU", "S0"])
def test_the_unseen_network_takes_any_layer(name: str) -> None:
    network = resnet18(Layer(name).maker(4), outputs=7, width=8)
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 7)


def test_runs_have_names_of_their_own() -> None:
    layers = [Layer("S0"), Layer("found", published("S0")), Layer("found", published("B0"))]
    names = {
        Run(layer, "resnet50", 4, 10, rate, seed).name for layer in layers for rate in (0.1, 0.2) for seed in (0, 1)
    }
    assert len(names) == 12


@pytest.mark.slow
def test_any_number_of_workers_tries_the_same_layers() -> None:
    assert set(worker_efficiency(evaluations=6, seconds=0.01)) == {f"worker_efficiency_{n}" for n in (1, 2, 4)}
