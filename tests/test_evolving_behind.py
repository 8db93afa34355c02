"""Layers whose training ends because older ones did far better."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_evonorm import CONFIG, NETWORKS, trials

from nas.errors import UserError
from nas.evolving.behind import REACHED, Behind, Standing, behind
from nas.evolving.config import EvoNormConfig
from nas.evolving.trials import LayerTrials
from nas.searching.measurement import Measurement
from search_spaces.graphs import LayerGraph, published

GRAPH = published("S0")


def trained(*accuracies: float) -> Measurement[LayerGraph]:
    """A layer that was trained in all networks."""
    return Measurement(
        GRAPH, {f"accuracy {n}": a for n, a in zip("ab", accuracies, strict=True)}, "measured", None, 1.0
    )


def stopped(accuracy: float) -> Measurement[LayerGraph]:
    """A layer that was stopped after the first network."""
    return Measurement(GRAPH, {}, "failed", "", 1.0, extras={"rejected_by": "behind", REACHED: {"a": accuracy}})


OTHER = Measurement(GRAPH, {}, "failed", "", 1.0, extras={"rejected_by": "usable", "reason": "constant"})


def test_a_bound_is_a_low_quantile_of_all_that_was_reached() -> None:
    seen = [trained(0.5, 0.9), OTHER, stopped(0.1), trained(0.7, 0.6), stopped(0.2), trained(0.4, 0.8)]
    found = Behind(("a", "b"), 0.25, 3, 100)(seen)
    assert found == {"a": Standing(0.2, 0.7), "b": Standing(0.6, 0.9)}
    assert Behind(("a", "b"), 0.25, 4, 100)(seen) == {"a": found["a"]}
    assert Behind(("a", "b"), 0.0, 1, 100)(seen) == Behind(("a", "b"), 0.25, 1, 100)([]) == {}
    # The latest three of each network.
    assert Behind(("a", "b"), 0.0001, 3, 3)(seen) == {"a": Standing(0.2, 0.7), "b": Standing(0.6, 0.9)}


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_bounds_do_not_rise_while_layers_stay_as_they_are(share: float) -> None:
    rng, rule = np.random.default_rng(0), Behind(("a", "b"), share, 20, 100)
    seen: list[Measurement[LayerGraph]] = []
    ends = []
    for first, second in rng.random((3000, 2)):
        told = rule(seen[-200:])
        ends.append(behind({"a": first}, told) is not None)
        seen.append(stopped(first) if ends[-1] else trained(first, second))
    early, late = np.mean(ends[:1500]), np.mean(ends[1500:])
    assert abs(late - share) < 0.04 and abs(late - early) < 0.05


def test_who_is_stopped() -> None:
    told = {"a": Standing(0.3, 0.8), "b": Standing(0.5, 0.9)}
    assert behind({"a": 0.3}, told) is None and behind({"a": 0.4, "b": 0.5}, told) is None
    assert behind({"a": 0.2}, told) == "20.0% of the rows are right in a, most layers before have 30.0% or more"
    assert "right in b" in str(behind({"a": 0.4, "b": 0.45}, told))
    # Nothing is known of the last network, or the layer is on the front already.
    assert behind({"a": 0.2}, {"b": told["b"]}) is None
    assert behind({"a": 0.8, "b": 0.1}, told) is None


def test_a_layer_that_is_behind_is_trained_in_no_further_network() -> None:
    run = trials(least_accuracy=0.0)
    (alone,) = run([GRAPH]).extras
    passed = run([GRAPH], {"wide": Standing(0.0, 1.0)})
    assert np.isfinite(np.asarray(passed.values)).all() and passed.extras == [alone]
    found = run([GRAPH], {"narrow": Standing(1.1, 1.2)})
    (said,) = found.extras
    assert np.isnan(np.asarray(found.values)).all() and said["rejected_by"] == "behind"
    assert list(said[REACHED]) == ["narrow"] and said["reason"].endswith("most layers before have 110.0% or more")
    assert said["steps"] == alone["steps"] - CONFIG.proxy.steps
    assert json.loads(json.dumps(said)) == said
    # In the dearer one: the accuracies of both are kept, those of the longer training.
    (said,) = run([GRAPH], {"wide": Standing(1.1, 1.2)}).extras
    reached = dict(zip(NETWORKS, np.asarray(run([GRAPH]).values)[0].tolist(), strict=True))
    assert said[REACHED] == reached and said["steps"] == alone["steps"]


def test_where_the_few_steps_score_layers_they_are_compared() -> None:
    run = trials(least_accuracy=0.0)
    once = LayerTrials(
        run.networks, run.train, run.validation, replace(run.config, proxy=run.config.rejection.training)
    )
    (said,) = once([GRAPH], {"narrow": Standing(1.1, 1.2)}).extras
    assert said["rejected_by"] == "behind" and said["steps"] == once.config.rejection.training.steps


def test_layers_are_compared_by_the_settings() -> None:
    rule = trials().behind
    assert (rule.networks, rule.share, rule.least, rule.window) == (("narrow", "wide"), 0.4, 2, 10)
    other = replace(CONFIG, stop_below=0.2)
    assert other.fingerprint() != CONFIG.fingerprint() == replace(CONFIG, reranked=1).fingerprint()


@pytest.mark.parametrize("settings", [{"stop_below": 1.0}, {"stop_below": -0.1}, {"stop_after": 0}])
def test_wrong_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"stop_below must be at least 0 and below 1|stop_after must be at least 1"):
        EvoNormConfig(**settings)
