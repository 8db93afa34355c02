"""Networks written plainly in PyTorch, for what the exported graph must find without knowing any class."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, squeeze-excite, projection; a residual where the shapes allow it."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        inner = 2 * channels
        self.expand, self.norm1 = nn.Conv2d(channels, inner, 1), nn.BatchNorm2d(inner)
        self.depthwise, self.norm2 = nn.Conv2d(inner, inner, 3, padding=1, groups=inner), nn.BatchNorm2d(inner)
        self.gate = SqueezeExcite(inner)
        self.project, self.norm3 = nn.Conv2d(inner, out, 1), nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm2(self.depthwise(F.relu(self.norm1(self.expand(x))))))
        y = self.norm3(self.project(self.gate(y)))
        return x + y if x.shape == y.shape else y


class MobileLike(nn.Module):
    inputs = (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(InvertedResidual(8, 8), InvertedResidual(8, 12), InvertedResidual(12, 12))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1).flatten(1))


class Concatenation(nn.Module):
    """Two branches joined by a concatenation, a grouped convolution, and a flattened map into a linear layer."""

    inputs = MobileLike.inputs

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 10, 3, padding=1)
        self.mix, self.norm = nn.Conv2d(16, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.hidden, self.head = nn.Linear(8 * 4 * 4, 20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.left(x), F.relu(self.right(x))], 1)
        return self.head(F.relu(self.hidden(F.max_pool2d(self.norm(self.mix(joined)), 2).flatten(1))))


class FusedBlock(nn.Module):
    """Pre-norm attention with one query-key-value weight, and a gated feed-forward layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_size = width // heads
        self.norm = nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.gate, self.up, self.down = nn.Linear(width, 40), nn.Linear(width, 40), nn.Linear(40, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        fused = self.qkv(self.norm(x)).reshape(batch, length, 3, -1, self.head_size)
        query, key, value = fused.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, -1))
        return x + self.down(F.silu(self.gate(x)) * self.up(x))


class CountingBlock(FusedBlock):
    """The same with attention written out, query, key and value as chunks, and the number of heads an attribute."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        split = (batch, length, self.heads, self.head_size)
        query, key, value = (part.view(split).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1))
        scores = (query @ key.transpose(-2, -1)) / self.head_size**0.5
        x = x + self.out((scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, -1))
        return x + self.down(F.silu(self.gate(x)) * self.up(x))


class PlainTransformer(nn.Module):
    inputs = (torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0)),)

    def __init__(self, block: type[FusedBlock]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(block(24, 3) for _ in range(3))
        self.head = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def randomised(network: nn.Module) -> nn.Module:
    """The network in eval mode with random parameters and running statistics."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2.0)
    return network.eval()
