"""Which blocks drop first: the greedy search against its definition, and blocks that are known to do nothing."""

import itertools
import math

import numpy as np
import torch
from torch import Tensor, nn

from nas.block_order import block_order, greedy
from nas.importance import ImportanceConfig
from nas.split import Split, make_split
from search_spaces import BlockCut, Choice, Space, Supernet, last_first, space
from tests import toy_task


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


class Residual(nn.Module):
    """Blocks that add to what comes in, two stacks of them; `norm`: with batch norms."""

    def __init__(self, norm: bool) -> None:
        super().__init__()

        def block() -> nn.Module:
            return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4) if norm else nn.Identity(), nn.Tanh())

        self.first = nn.ModuleList(block() for _ in range(4))
        self.second = nn.ModuleList(block() for _ in range(3))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        for block in [*self.first, *self.second]:
            x = x + block(x)
        return self.head(x)


class Vectors:
    """Texts of four numbers as the inputs of `Residual`."""

    kind = "text"

    def prepare(self, rows, max_tokens):
        self.values = torch.tensor([[float(part) for part in row.split()] for row in rows])
        self.lengths = np.ones(len(rows), dtype=np.int64)
        return self

    def batch(self, indices):
        return {"x": self.values[torch.as_tensor(np.asarray(indices))]}

    def save(self, folder): ...


class Step(nn.Module):
    """A block that adds to what comes in, or changes its width."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.up, self.down, self.adds = nn.Linear(width, 6), nn.Linear(6, out), width == out

    def forward(self, x: Tensor) -> Tensor:
        change = self.down(self.up(x).tanh())
        return x + change if self.adds else change


def one_list() -> nn.Module:
    """Two stages in one list: of widths 4 and 5, three blocks each; block 1 of the second does nothing."""
    torch.manual_seed(0)
    blocks = nn.Sequential(Step(4, 4), Step(4, 4), Step(4, 4), Step(4, 5), Step(5, 5), Step(5, 5))
    nn.init.zeros_(blocks[4].down.weight)
    nn.init.zeros_(blocks[4].down.bias)
    return Rows(blocks).eval()


class Rows(nn.Module):
    """Blocks and a head."""

    def __init__(self, blocks: nn.Module) -> None:
        super().__init__()
        self.blocks, self.head = blocks, nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x))


def two_stacks(norm: bool) -> Supernet:
    """Two blocks may drop of each stack, but not block 0 of the first; blocks 2 and 0 of them do nothing."""
    torch.manual_seed(0)
    model = Residual(norm).eval()
    for idle in (model.first[2], model.second[0]):
        for parameter in idle[0 if not norm else 1].parameters():
            nn.init.zeros_(parameter)
    choices = (
        Choice("depth.0", (2, 3, 4), cuts=(BlockCut("first", 4, (3, 2, 1)),)),
        Choice("depth.1", (1, 2, 3), cuts=(BlockCut("second", 3, (2, 1, 0)),)),
    )
    return Supernet(model, Space(choices))


@torch.no_grad()
def its_own_rows(model: nn.Module) -> Split:
    """Rows whose labels are the model's own, of which it is made sure: removing anything that matters must hurt."""
    values = np.random.default_rng(0).normal(size=(64, 4))
    rows = make_split([" ".join(map(str, row)) for row in values], np.zeros(64, dtype=np.int64), Vectors())
    rows.labels[:] = model(**rows.batch(range(64))).argmax(1).numpy()
    model.head.weight *= 20
    model.head.bias *= 20
    return rows


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
