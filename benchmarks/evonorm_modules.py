"""The six published layers as modules by hand, as one writes them who knows what is slow on a CPU.

Variances are means of squares of distances, which take a tenth of the time of `torch.var` there, and all factors of a
channel are multiplied before they meet the large tensor.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

EPS, MOMENTUM = 1e-5, 0.1


class _Affine(nn.Module):
    """Scale and shift of each channel, and v1.

    Args:
        channels: of the input (N, C, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.shape = (1, channels, 1, 1)

    def affine(self, x: Tensor, factor: Tensor) -> Tensor:
        """x (N, C, H, W) times a factor (N or 1, C, 1, 1) and the scale, plus the shift."""
        return torch.addcmul(self.bias.view(self.shape), x, factor * self.weight.view(self.shape))


class _Batch(_Affine):
    """x / max(deviation over the batch, `other`), and the moving average of the variance."""

    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("running_var", torch.ones(channels))

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and variance of each channel of a row (N, C, 1, 1), and the deviation over the batch (1, C, 1, 1)."""
        mean = x.mean((2, 3), keepdim=True)
        variance = (x - mean).square().mean((2, 3), keepdim=True)
        if not self.training:
            return mean, variance, (self.running_var + EPS).sqrt().view(self.shape)
        whole = variance.mean(0, keepdim=True) + (mean - mean.mean(0, keepdim=True)).square().mean(0, keepdim=True)
        count = x.numel() // x.shape[1]
        with torch.no_grad():
            self.running_var.lerp_(whole.view(-1) * (count / (count - 1)), MOMENTUM)
        return mean, variance, (whole + EPS).sqrt()

    def divided(self, x: Tensor, deviation: Tensor, other: Tensor) -> Tensor:
        """(x / max(deviation, other)) * weight + bias."""
        # The maximum of the two. On a CPU torch.maximum takes five times as long with its gradient.
        most = deviation + (other - deviation).relu()
        return torch.addcmul(self.bias.view(self.shape), x / most, self.weight.view(self.shape))


class B0(_Batch):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.v1 = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        _, variance, deviation = self.moments(x)
        return self.divided(x, deviation, torch.addcmul((variance + EPS).sqrt(), x, self.v1.view(self.shape)))


class B1(_Batch):
    def forward(self, x: Tensor) -> Tensor:
        mean, variance, deviation = self.moments(x)
        size = (variance + mean.square() + EPS).sqrt()
        return self.divided(x, deviation, torch.addcmul(size, x, size))


class B2(_Batch):
    def forward(self, x: Tensor) -> Tensor:
        mean, variance, deviation = self.moments(x)
        return self.divided(x, deviation, (variance + mean.square() + EPS).sqrt() - x)


class _Groups(_Affine):
    """Layers that divide by a moment of groups of channels.

    Args:
        channels: of the input (N, C, H, W).
        groups: divides their number.
    """

    def __init__(self, channels: int, groups: int = 32) -> None:
        super().__init__(channels)
        self.groups = groups

    def inverse_std(self, x: Tensor) -> Tensor:
        """1 / deviation of the group of each channel (N, C, 1, 1)."""
        grouped = x.reshape(len(x), self.groups, -1)
        variance = (grouped - grouped.mean(2, keepdim=True)).square().mean(2)
        return self._of_channels((variance + EPS).rsqrt())

    def inverse_rms(self, x: Tensor) -> Tensor:
        """1 / root of the mean square of the group of each channel (N, C, 1, 1)."""
        return self._of_channels((x.reshape(len(x), self.groups, -1).square().mean(2) + EPS).rsqrt())

    def _of_channels(self, of_groups: Tensor) -> Tensor:
        return of_groups.repeat_interleave(self.shape[1] // self.groups, 1)[..., None, None]


class S0(_Groups):
    def __init__(self, channels: int, groups: int = 32) -> None:
        super().__init__(channels, groups)
        self.v1 = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.affine(x * (self.v1.view(self.shape) * x).sigmoid(), self.inverse_std(x))


class S1(_Groups):
    def forward(self, x: Tensor) -> Tensor:
        return self.affine(silu(x), self.inverse_std(x))


class S2(_Groups):
    def forward(self, x: Tensor) -> Tensor:
        return self.affine(silu(x), self.inverse_rms(x))


BY_HAND = {"B0": B0, "B1": B1, "B2": B2, "S0": S0, "S1": S1, "S2": S2}
