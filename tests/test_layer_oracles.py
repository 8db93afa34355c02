"""Known layers as graphs against closed forms that are written out here, and against PyTorch's own layers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from search_spaces.graphs import PUBLISHED, GraphLayer, published

CHANNELS, GROUPS, EPS = 12, 4, 1e-5


class Oracle(nn.Module):
    """What the closed forms share: gamma, beta, v1, and the moving average of a variance over the batch."""

    running: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, CHANNELS, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, CHANNELS, 1, 1))
        self.v1 = nn.Parameter(torch.ones(1, CHANNELS, 1, 1))
        self.register_buffer("running", torch.ones(1, CHANNELS, 1, 1))

    def batch_std(self, x: Tensor) -> Tensor:
        if not self.training:
            return torch.sqrt(self.running + EPS)
        with torch.no_grad():
            self.running += 0.1 * (x.var(dim=(0, 2, 3), unbiased=True, keepdim=True) - self.running)
        return torch.sqrt(x.var(dim=(0, 2, 3), unbiased=False, keepdim=True) + EPS)

    def affine(self, x: Tensor) -> Tensor:
        return x * self.gamma + self.beta


def instance_std(x: Tensor) -> Tensor:
    return torch.sqrt(x.var(dim=(2, 3), unbiased=False, keepdim=True) + EPS)


def instance_rms(x: Tensor) -> Tensor:
    return torch.sqrt((x**2).mean(dim=(2, 3), keepdim=True) + EPS)


def of_groups(x: Tensor, moment: Callable[[Tensor], Tensor]) -> Tensor:
    """A moment (N, groups, elements) -> (N, groups, 1), repeated to the shape of x."""
    grouped = x.reshape(len(x), GROUPS, -1)
    return moment(grouped).expand_as(grouped).reshape(x.shape)


def group_std(x: Tensor) -> Tensor:
    return of_groups(x, lambda grouped: torch.sqrt(grouped.var(dim=2, unbiased=False, keepdim=True) + EPS))


def group_rms(x: Tensor) -> Tensor:
    return of_groups(x, lambda grouped: torch.sqrt((grouped**2).mean(dim=2, keepdim=True) + EPS))


class B0(Oracle):
    def forward(self, x: Tensor) -> Tensor:
        return self.affine(x / torch.max(self.batch_std(x), self.v1 * x + instance_std(x)))


class B1(Oracle):
    def forward(self, x: Tensor) -> Tensor:
        return self.affine(x / torch.max(self.batch_std(x), (x + 1) * instance_rms(x)))


class B2(Oracle):
    def forward(self, x: Tensor) -> Tensor:
        return self.affine(x / torch.max(self.batch_std(x), instance_rms(x) - x))


class S0(Oracle):
    def forward(self, x: Tensor) -> Tensor:
        return self.affine(x * torch.sigmoid(self.v1 * x) / group_std(x))


class S1(Oracle):
    def forward(self, x: Tensor) -> Tensor:
        return self.affine(x * torch.sigmoid(x) / group_std(x))


class S2(Oracle):
    def forward(self, x: Tensor) -> Tensor:
        return self.affine(x * torch.sigmoid(x) / group_rms(x))


class Normalized(Oracle):
    """Known normalizations, by PyTorch's own layers, with gamma and beta before the activation."""

    def __init__(self, norm: nn.Module, activation: Callable[[Tensor], Tensor], activation_first: bool = False) -> None:
        super().__init__()
        self.norm = norm
        self.activation = activation
        self.activation_first = activation_first

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.activation(x)) if self.activation_first else self.activation(self.norm(x))


ORACLES: dict[str, Callable[[], Oracle]] = {
    "B0": B0,
    "B1": B1,
    "B2": B2,
    "S0": S0,
    "S1": S1,
    "S2": S2,
    "BN-ReLU": lambda: Normalized(nn.BatchNorm2d(CHANNELS), torch.relu),
    "GN-ReLU": lambda: Normalized(nn.GroupNorm(GROUPS, CHANNELS), torch.relu),
    "GN-SiLU": lambda: Normalized(nn.GroupNorm(GROUPS, CHANNELS), nn.functional.silu),
    "SiLU-GN": lambda: Normalized(nn.GroupNorm(GROUPS, CHANNELS), nn.functional.silu, activation_first=True),
}
ACTIVATION_LAST = ("BN-ReLU", "GN-ReLU", "GN-SiLU")


def pairs(name: str, layer: GraphLayer, oracle: Oracle) -> list[tuple[nn.Parameter, nn.Parameter]]:
    """(parameter of the layer, parameter of the oracle) that mean the same."""
    if name in ACTIVATION_LAST:
        found = [(layer.v1, oracle.norm.weight), (layer.v0, oracle.norm.bias)]
    elif name == "SiLU-GN":
        found = [(layer.weight, oracle.norm.weight), (layer.bias, oracle.norm.bias)]
    else:
        found = [(layer.weight, oracle.gamma), (layer.bias, oracle.beta)]
        found += [(layer.v1, oracle.v1)] if name in ("B0", "S0") else []
    assert len(found) == len(list(layer.parameters()))
    return found


def compare(name: str, layer: GraphLayer, oracle: Oracle, x: Tensor, tolerance: float) -> None:
    """Outputs, and the gradients with respect to the input and to all parameters, are equal."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    output, expected = layer(ours), oracle(theirs)
    torch.testing.assert_close(output, expected, rtol=tolerance, atol=tolerance)
    output.backward(weights)
    expected.backward(weights)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=tolerance, atol=tolerance)
    for mine, other in pairs(name, layer, oracle):
        assert mine.grad is not None
        assert other.grad is not None
        # Sums over all places: their errors grow with the number of them.
        torch.testing.assert_close(mine.grad, other.grad.flatten(), rtol=tolerance, atol=10 * tolerance)
        mine.grad = other.grad = None


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("name", PUBLISHED)
def test_graphs_are_their_closed_forms(name: str, dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = GraphLayer(published(name), CHANNELS, GROUPS, affine=name not in ACTIVATION_LAST).to(dtype)
    oracle = ORACLES[name]().to(dtype)
    with torch.no_grad():
        for mine, other in pairs(name, layer, oracle):
            mine += 0.3 * torch.randn(mine.shape, generator=generator, dtype=dtype)
            other.copy_(mine.view(other.shape))
    for step in range(4):
        x = torch.randn(6, CHANNELS, 5, 3, generator=generator, dtype=dtype) * (1 + 0.3 * step) + 0.5
        compare(name, layer, oracle, x, tolerance)
    layer.eval()
    oracle.eval()
    compare(name, layer, oracle, x, tolerance)
    # One row is enough in evaluation mode.
    compare(name, layer, oracle, x[:1], tolerance)


@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
def test_moving_averages_are_those_of_batch_norm(momentum: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = GraphLayer(published("BN-ReLU"), CHANNELS, affine=False, momentum=momentum)
    norm = nn.BatchNorm2d(CHANNELS, momentum=momentum)
    for _ in range(3):
        x = torch.randn(4, CHANNELS, 3, 3, generator=generator) * 3 - 1
        layer(x)
        norm(x)
    kept = dict(layer.named_buffers())
    assert int(kept.pop("num_batches_tracked")) == 3
    mean, variance = kept.values()
    torch.testing.assert_close(mean, norm.running_mean)
    torch.testing.assert_close(variance, norm.running_var)
    layer.reset_running_stats()
    norm.reset_running_stats()
    assert torch.equal(mean, norm.running_mean)
    assert torch.equal(variance, norm.running_var)


def test_a_scale_and_a_shift_follow() -> None:
    x = torch.randn(3, CHANNELS, 4, generator=torch.Generator().manual_seed(0))
    for name in PUBLISHED:
        plain, layer = (GraphLayer(published(name), CHANNELS, GROUPS, affine=affine) for affine in (False, True))
        assert plain.weight is None and layer.weight is not None and layer.bias is not None
        torch.testing.assert_close(layer(x), plain(x))
        nn.init.constant_(layer.weight, 2.0)
        nn.init.constant_(layer.bias, -1.0)
        torch.testing.assert_close(layer(x), 2 * plain(x) - 1)
