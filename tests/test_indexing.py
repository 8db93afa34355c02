"""Operators on indices: which cuts they lead to, and that each of them equals the masked network when run."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces import AxisCut
from search_spaces.families.oracle import Judge
from search_spaces.tracing.coupling import analyse
from tests.networks import randomised

IMAGES = (torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)),)
SOME = torch.tensor([4, 0, 2])


class Between(nn.Module):
    """Two convolutions, of 4 channels and 1, with something between them."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.between = between
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        with torch.no_grad():
            self.second = nn.Conv2d(between(self.first(IMAGES[0])).shape[1], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(F.relu(self.first(x)))).mean((2, 3))


def cuts(between: Callable[[Tensor], Tensor]) -> list[tuple[AxisCut, ...]]:
    """The cuts of every dimension that the first convolution has, each of which must pass the judge."""
    network = randomised(Between(between))
    dimensions = [d for d in analyse(network, IMAGES).dimensions if any(c.parameter == "first.weight" for c in d.cuts)]
    assert all(Judge(network, IMAGES).accept(dimensions))
    return [tuple(c for c in d.cuts if c.parameter == "second.weight") for d in dimensions]


@pytest.mark.parametrize(
    ("between", "start", "outer", "unit"),
    [
        (lambda x: F.pad(x, (0, 0, 0, 0, 2, 1)), 2, 1, 1),
        (lambda x: F.pad(x[:, :, ::2, ::2], (1, 0, 0, 1, 0, 3), value=0.5), 0, 1, 1),
        (lambda x: torch.cat([x.new_zeros(2, 3, 6, 6), x + torch.zeros_like(x)], 1), 3, 1, 1),
        (lambda x: x.roll(2, 3).flip(2), 0, 1, 1),
        (lambda x: x[:, :, SOME], 0, 1, 1),
        (lambda x: x.gather(3, torch.zeros(2, x.shape[1], 6, 2, dtype=torch.long)), 0, 1, 1),
        (lambda x: x.repeat(1, 3, 1, 2), 0, 3, 1),
        (lambda x: x.repeat_interleave(3, 1), 0, 1, 3),
        (lambda x: F.hardswish(x).masked_fill(x > 1, 0.0), 0, 1, 1),
    ],
)
def test_channels_pass_through(between: Callable[[Tensor], Tensor], start: int, outer: int, unit: int) -> None:
    assert cuts(between) == [(AxisCut("second.weight", 1, start, outer, 4, unit),)]


@pytest.mark.parametrize(
    "between",
    [
        lambda x: x.roll(1, 1),
        lambda x: x.flip(1),
        lambda x: x.roll(1),
        lambda x: x[:, SOME - 1],
        lambda x: x[:, ::2],
        lambda x: F.pad(x, (0, 0, 0, 0, -1, 2)),
        lambda x: x.gather(1, torch.ones_like(x, dtype=torch.long)),
        lambda x: x[SOME % 2, SOME % 4],
        lambda x: x.repeat_interleave(torch.tensor([1, 2, 1, 1]), 1, output_size=5),
        lambda x: F.group_norm(x, 2),
        lambda x: x.cumsum(1),
    ],
)
def test_channels_that_are_picked_or_mixed_keep_their_size(between: Callable[[Tensor], Tensor]) -> None:
    network = Between(between) if between(torch.zeros(2, 4, 6, 6)).dim() == 4 else Flat(between)
    assert not any(c.parameter == "first.weight" for d in analyse(network, IMAGES).dimensions for c in d.cuts)


class Flat(nn.Module):
    """One convolution, what is left of its output being the result."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.between, self.first = between, nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.between(self.first(x)).mean((-1, -2))
