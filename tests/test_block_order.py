"""Which blocks drop first: the greedy search against its definition, and blocks that are known to do nothing."""

import itertools
import math

import numpy as np
import torch

from nas.learning.block_order import block_order, greedy
from nas.learning.importance import ImportanceConfig
from search_spaces import Supernet, last_first, space
from tests import toy_task
from tests.toy_blocks import its_own_rows, one_list, two_stacks


def test_greedy_drops_what_hurts_least_at_every_round() -> None:
    rng = np.random.default_rng(0)
    table = {frozenset(d): rng.random() for n in range(1, 4) for d in itertools.combinations(range(5), n)}
    order = greedy(lambda dropped: table[frozenset(dropped)], (4, 3, 2, 1), 3)
    assert sorted(order) == [1, 2, 3, 4]
    for done in range(3):
        losses = {block: table[frozenset((*order[:done], block))] for block in set(order) - set(order[:done])}
        assert losses[order[done]] == min(losses.values())


def test_greedy_takes_the_later_of_equals_and_a_broken_network_last() -> None:
    assert greedy(lambda dropped: 1.0, (0, 1, 2), 2) == (2, 1, 0)
    assert greedy(lambda dropped: math.nan if dropped[-1] == 2 else 1.0, (0, 1, 2), 1) == (1, 0, 2)


CONFIG = ImportanceConfig(warmup_steps=0, batches=4, batch_size=16)


def test_a_block_that_is_an_identity_drops_first_in_every_stack() -> None:
    for norm in (False, True):
        supernet = two_stacks(norm)
        orders = block_order(supernet, its_own_rows(supernet.model), CONFIG)
        assert orders["depth.0"][0] == 2
        assert orders["depth.1"][0] == 0
        assert sorted(orders["depth.0"]) == [1, 2, 3]
        assert sorted(orders["depth.1"]) == [0, 1, 2]


def test_blocks_are_counted_within_their_stage_as_a_space_takes_them() -> None:
    model, inputs = one_list(), {"x": torch.randn(4, 4)}
    supernet = Supernet(model, space(model, inputs, depth=(1, 2, 3)))
    orders = block_order(supernet, its_own_rows(model), CONFIG)
    assert set(orders) == {"depth.0", "depth.1"}
    assert sorted(orders["depth.0"]) == [0, 1, 2]
    assert orders["depth.1"] == (1, 2)
    assert space(model, inputs, depth=(1, 2, 3), drop_order=orders)["depth.1"].cuts[0].drop_order == (4, 5)


def test_it_makes_a_space_and_leaves_the_network_alone() -> None:
    supernet, train = toy_task.supernet(), toy_task.split()
    before = toy_task.weights(supernet)
    config = ImportanceConfig(warmup_steps=3, batches=2, batch_size=8)
    orders = block_order(supernet, train, config)
    assert orders == block_order(supernet, train, config)
    assert toy_task.same(before, toy_task.weights(supernet))
    assert not supernet.model.training
    made = space(supernet.model, drop_order=orders["depth"], depth=(1, 2))
    assert made["depth"].cuts[0].drop_order == orders["depth"]
    assert sorted(orders["depth"]) == sorted(last_first(2))
