"""Probes: the scores of the sub-networks as they would be measured, kept over steps and in a checkpoint."""

import json
import math

import numpy as np
import pytest
import torch

from nas.data.accuracy import accuracy, predict
from nas.learning.early_stop import best_step
from nas.learning.instatune import InstaTuneConfig, InstaTuneHistory, instatune
from nas.learning.probes import Probe, Probes, probed_candidates
from nas.networks.recalibration import SubNetworks
from tests import toy_task
from tests.toy_blocks import its_own_rows, two_stacks


def test_probes_are_the_scores_of_the_sub_networks_after_their_step() -> None:
    supernet, validation = toy_task.supernet(), toy_task.split(40, seed=1)
    config = InstaTuneConfig(steps=7, batch_size=10, learning_rate=5e-3, evaluate_every=3)
    history = instatune(supernet, toy_task.split(40), config, validation=validation)
    assert isinstance(history, InstaTuneHistory)
    assert [probe.step for probe in history.probes] == [3, 6, 7]
    supernet.eval()
    last = history.probes[-1]
    for candidate, score in ((supernet.space.largest(), last.largest), (supernet.space.smallest(), last.smallest)):
        assert accuracy(predict(supernet.extract(candidate), validation), validation.labels) == score
    assert len(last.random) == 3
    expected = (last.largest + (last.smallest + sum(last.random)) / 4) / 2
    assert last.score == pytest.approx(expected)
    assert history.evaluations[-1] == (7, last.score)
    assert instatune(toy_task.supernet(), toy_task.split(40), config).probes == ()


def test_batch_norms_are_measured_anew_for_every_probe() -> None:
    supernet = two_stacks(norm=True)
    rows = its_own_rows(supernet.model)
    for number, part in enumerate(module for module in supernet.modules() if isinstance(module, torch.nn.BatchNorm1d)):
        part.running_mean += 3.0 * (-1) ** number
    before = toy_task.weights(supernet)
    probes = Probes(supernet.eval(), rows, rows, 0)
    probes(1)
    smallest = SubNetworks(supernet, rows, 0).extract(supernet.space.smallest())
    assert probes.found[0].smallest == accuracy(predict(smallest, rows), rows.labels)
    assert probes.found[0].largest > accuracy(predict(supernet.model, rows), rows.labels)
    assert toy_task.same(before, toy_task.weights(supernet))


def test_what_was_found_survives_as_json_even_where_it_is_no_number() -> None:
    supernet, rows = toy_task.supernet(), toy_task.split(8)
    probes = Probes(supernet, rows, rows, 0)
    probes(2)
    with torch.no_grad():
        supernet.model.classifier.bias += math.nan
    assert math.isnan(probes(4))
    again = Probes(supernet, rows, rows, 0)
    again.restore(json.loads(json.dumps(probes.state(), allow_nan=False)))
    assert again.found[0] == probes.found[0]
    assert again.found[1].step == 4
    assert np.isnan(again.found[1].scores).all()
    assert len(again.found) == 2


def test_the_score_gives_the_largest_half_of_the_say() -> None:
    assert Probe(1, 1.0, 0.2, (0.4, 0.6)).score == pytest.approx((1.0 + 0.4) / 2)


def test_the_probe_of_the_weights_that_are_kept() -> None:
    found = ((2, math.nan), (4, 0.7), (6, 0.9), (8, 0.9), (9, 0.8))
    probes = tuple(Probe(step, score, score, (score,) * 3) for step, score in found)
    assert InstaTuneHistory((), found, None, probes).final_probe.step == 9
    assert InstaTuneHistory((), found, best_step(found), probes).final_probe.step == 6, "the first of the best"
    assert InstaTuneHistory((), found[:1], best_step(found[:1]), probes[:1]).final_probe.step == 2


def test_the_final_probe_is_of_the_weights_that_the_training_ends_with() -> None:
    supernet, rows = toy_task.supernet(), toy_task.split(40, seed=1)
    config = InstaTuneConfig(steps=8, batch_size=10, learning_rate=0.05, evaluate_every=1, patience=2)
    history = instatune(supernet, toy_task.split(40), config, validation=rows)
    assert history.restored is not None and history.restored < history.steps[-1].step
    again = Probes(supernet.eval(), toy_task.split(40), rows, config.seed)
    again(history.restored)
    assert again.found == (history.final_probe,)


def test_the_sub_networks_of_the_scores_are_named_by_the_seed() -> None:
    supernet, rows = toy_task.supernet(), toy_task.split(40)
    probes = Probes(supernet, rows, rows, 5)
    probes(1)
    candidates = probed_candidates(supernet.space, 5)
    assert candidates == probed_candidates(supernet.space, 5) != probed_candidates(supernet.space, 6)
    scores = [accuracy(predict(supernet.extract(each).eval(), rows), rows.labels) for each in candidates]
    assert probes.found[0].scores == tuple(scores)
