"""EvoNorm on two tiny networks: the domain of layers, the tests of a layer, and an evolution that goes on."""

import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from toy_layers import narrow, wide
from toy_pyramid import split

from nas.errors import UserError
from nas.evolving.behind import REACHED, behind
from nas.evolving.config import EvoNormConfig
from nas.evolving.domain import LayerDomain, filled
from nas.evolving.evonorm import EvolvedLayers, best_layers, evonorm
from nas.evolving.quality import TRAINING
from nas.evolving.rejection import RejectionConfig
from nas.evolving.trials import LayerTrials
from nas.evolving.verdict import Test
from nas.searching.ageing import AgeingConfig
from nas.searching.measurement import Measurement
from nas.searching.study import load_study
from nas.settings import EvolveSettings
from nas.workers import Workers
from search_spaces.graphs import LayerGraph, Node, published

NETWORKS = {"narrow": narrow, "wide": wide}
CONFIG = EvoNormConfig(
    series="sample",
    ageing=AgeingConfig(population=10, tournament_share=0.3),
    # The toy networks are too shallow for a first step to tell much.
    rejection=RejectionConfig(4, replace(TRAINING, steps=8, device="cpu"), first_step=False),
    proxy=replace(TRAINING, steps=12, device="cpu"),
    stop_below=0.4,
    stop_after=2,
    reranked=2,
    longer=replace(TRAINING, steps=16, device="cpu"),
)
BUDGET = 70


@pytest.mark.parametrize("series", ["batch", "sample"])
def test_layers_are_canonical_and_come_back_from_json(series: Any) -> None:
    domain, rng = LayerDomain(series), np.random.default_rng(0)
    for _ in range(60):
        graph = domain.draw(rng)
        mutant = domain.mutant(graph, rng)
        for each in (graph, mutant):
            assert each == each.canonical() == domain.from_json(json.loads(json.dumps(domain.to_json(each))))
        assert domain.key(graph) == domain.key(domain.from_json(domain.to_json(graph)))
        assert filled(graph, 10, rng, series).canonical() == graph
        if series == "sample":
            assert not graph.crosses_rows and not mutant.crosses_rows
    assert LayerDomain.from_identity(json.loads(json.dumps(domain.identity()))) == domain


def test_a_mutation_can_change_any_part() -> None:
    rng, domain = np.random.default_rng(0), LayerDomain("sample")
    graph = published("S0").canonical()
    mutants = {domain.mutant(graph, rng) for _ in range(200)}
    assert graph not in mutants and len(mutants) > 60
    assert {len(mutant.nodes) for mutant in mutants} >= {3, 4, 5, 6}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LayerDomain("rows"), "series must be batch or sample"),  # type: ignore[arg-type]
        (lambda: LayerDomain("batch", 0), "nodes must be at least 1"),
        (lambda: LayerDomain("sample").canonical_form(published("B0")), "must have no moment over the batch"),
        (lambda: LayerDomain.from_identity({"layers": "batch"}), "must have a series and a number of nodes"),
    ],
)
def test_wrong_domains(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def trials(**changes: Any) -> LayerTrials:
    rejection = replace(CONFIG.rejection, **changes)
    return LayerTrials(NETWORKS, split(96), split(60, seed=3), replace(CONFIG, rejection=rejection))


def test_tests_reject_from_the_cheapest_on() -> None:
    constant = LayerGraph((Node("mul", (0, 1)),))
    found = trials(least_accuracy=0.99)([constant, published("S0")])
    assert np.isnan(np.asarray(found.values)).all()
    assert [each["rejected_by"] for each in found.extras] == ["usable", "quality"]
    assert found.extras[0]["steps"] == 0 and found.extras[1]["steps"] == 8
    good = trials(least_accuracy=0.0)([published("S0")])
    assert np.isfinite(np.asarray(good.values)).all() and "rejected_by" not in good.extras[0]


def test_what_the_first_test_rejects_is_known_at_once() -> None:
    constant = LayerGraph((Node("mul", (0, 1)),))
    run = trials()
    at_once, evaluated = run.at_once(constant), run([constant])
    assert at_once is not None and at_once.extras == evaluated.extras and np.isnan(np.asarray(at_once.values)).all()
    assert run.at_once(published("S0")) is None


def test_of_layers_that_compute_the_same_one_is_tried() -> None:
    domain, first = LayerDomain("sample"), published("S1").canonical()
    last = 3 + len(first.nodes)
    other = LayerGraph((*first.nodes, Node("add", (last, 1)))).canonical()
    negated = LayerGraph((*first.nodes, Node("neg", (last,)))).canonical()
    assert first != other and domain.key(first) == domain.key(other) != domain.key(negated)


def evolved(folder: Path, **more: Any) -> EvolvedLayers:
    return evonorm(NETWORKS, split(96), split(60, seed=3), folder, CONFIG, budget=BUDGET, **more)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> EvolvedLayers:
    return evolved(tmp_path_factory.mktemp("evolution"), lag=2)


def history(result: EvolvedLayers) -> list[Any]:
    kept = ("rejected_by", "reason", "formula", REACHED)
    return [
        (m.candidate, dict(m.values), {name: m.extras[name] for name in kept if name in m.extras})
        for m in result.study.measurements
    ]


def test_the_best_are_ranked_after_a_longer_training(found: EvolvedLayers) -> None:
    accepted = [m for m in found.study.measurements if m.state == "measured"]
    assert len(accepted) >= 2, "the evolution must accept some layers for this test to say anything"
    assert {each.graph for each in found.ranked} == set(best_layers(found.study, 2))
    means = [each.mean for each in found.ranked]
    assert means == sorted(means, reverse=True)
    best = max(statistics.mean(m.values.values()) for m in accepted)
    first = next(m for m in accepted if m.candidate == best_layers(found.study, 1)[0])
    assert statistics.mean(first.values.values()) == best


class Stop:
    def __init__(self, after: int) -> None:
        self.after = after

    def __call__(self, measurement: Measurement[LayerGraph], number: int) -> None:
        if number == self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [1, 40])
def test_an_interrupted_evolution_goes_on(found: EvolvedLayers, tmp_path: Path, after: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        evolved(tmp_path, lag=2, on_result=Stop(after))
    again = evolved(tmp_path)
    assert history(again) == history(found)
    assert again.ranked == found.ranked
    stored = load_study(tmp_path / "study.journal", LayerDomain.from_identity)
    assert [m.candidate for m in stored.measurements] == [m.candidate for m in found.study.measurements]


def test_layers_are_stopped_by_older_ones_alone(found: EvolvedLayers) -> None:
    """By the results that each proposal saw, all decisions follow anew."""
    measured, rule = found.study.measurements, trials().behind
    for number, each in enumerate(measured):
        standings = rule(measured[: max(0, number - 1)])
        if each.state == "measured":
            reached = {name: each.values[f"accuracy {name}"] for name in NETWORKS}
        else:
            reached = dict(each.extras.get(REACHED, {}))
        for last in range(1, len(reached) + 1):
            stopped = behind(dict(list(reached.items())[:last]), standings)
            assert (stopped is not None) == (each.state == "failed" and last == len(reached))
            assert stopped in (None, each.extras.get("reason"))
    assert any(each.extras.get("rejected_by") == "behind" for each in measured)


def test_another_bound_is_another_evolution(found: EvolvedLayers, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        evolved(tmp_path, on_result=Stop(1))
    other = replace(CONFIG, stop_below=0.3)
    with pytest.raises(UserError, match="belongs to a search with another objectives"):
        evonorm(NETWORKS, split(96), split(60, seed=3), tmp_path, other, budget=BUDGET)


@pytest.mark.slow
def test_three_workers_of_the_same_lag_give_the_same(found: EvolvedLayers, tmp_path: Path) -> None:
    result = evolved(tmp_path, workers=Workers(3), lag=2)
    assert history(result) == history(found) and result.ranked == found.ranked


@pytest.mark.slow
def test_trials_are_what_the_test_without_training_leaves(found: EvolvedLayers, tmp_path: Path) -> None:
    evonorm(NETWORKS, split(96), split(60, seed=3), tmp_path, CONFIG, budget=40, workers=Workers(1, ray=True), lag=2)
    rows = [json.loads(path.read_text()) for path in (tmp_path / "trials").glob("1/*/result.json")]
    shown = [row["formula"] for row in sorted(rows, key=lambda row: row.get("item", -1)) if "item" in row]
    tried = [m for m in found.study.measurements[:40] if m.extras.get("rejected_by") != "usable"]
    assert shown == [m.extras["formula"] for m in tried] and 0 < len(shown) < 20


def test_random_layers_are_sparse_and_rejections_are_said(found: EvolvedLayers) -> None:
    failed = [m for m in found.study.measurements if m.state == "failed"]
    assert len(failed) > BUDGET / 2
    assert all(m.extras["rejected_by"] in get_args(Test) and m.extras["reason"] for m in failed)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"series": "rows"}, "series must be batch or sample"),
        ({"rejection": RejectionConfig(least_accuracy=1.5)}, "least_accuracy must be in 0..1"),
        ({"rejection": RejectionConfig(groups=0)}, "groups must be at least 1"),
        ({"reranked": 0}, "reranked must be at least 1"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        EvoNormConfig(**settings)


def test_library_and_command_have_one_set_of_defaults() -> None:
    config, settings = EvoNormConfig(), EvolveSettings()
    assert (config.ageing.population, config.ageing.tournament_share) == (
        settings.population,
        settings.tournament_share,
    )
    trainings = (config.rejection.training.steps, config.proxy.steps, config.longer.steps)
    assert trainings == (settings.quality_steps, settings.steps, settings.longer_steps)
    assert (config.series, config.stop_below, config.reranked) == (
        settings.series,
        settings.stop_below,
        settings.reranked,
    )


def test_no_networks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one network"):
        evonorm({}, split(20), split(20), tmp_path, CONFIG, budget=2)


def test_a_mutation_of_a_whole_graph_is_one_of_the_papers() -> None:
    """With all ten nodes alive there is nothing to fill up: one node differs, as the paper has it."""
    rng = np.random.default_rng(1)
    whole = LayerGraph(tuple(Node("tanh" if place % 2 else "neg", (place + 3 if place else 0,)) for place in range(10)))
    assert whole.canonical() == whole and filled(whole, 10, rng) == whole
