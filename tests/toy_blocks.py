"""Small networks of residual blocks, with and without batch norms, on rows of four numbers."""

import numpy as np
import torch
from torch import Tensor, nn

from nas.data.split import Split, make_split
from search_spaces import BlockCut, Choice, Space, Supernet


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
