"""Convolutional networks as people write them, small: residual, plain, inverted, squeezed and grouped ones."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGES = (torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)),)


def unit(inside: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution without a bias, and its norm."""
    convolution = nn.Conv2d(inside, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out))


class Basic(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inside, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = unit(inside, width, 1, stride) if stride > 1 or inside != width else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += shortcut
        return self.relu(y)


class Bottleneck(nn.Module):
    """A 3x3 convolution (grouped, in ResNeXt) between two 1x1 ones."""

    expansion = 2

    def __init__(self, inside: int, width: int, stride: int, groups: int = 1) -> None:
        super().__init__()
        out = self.expansion * width
        self.conv1, self.bn1 = nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = unit(inside, out, 1, stride) if stride > 1 or inside != out else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(y)))))
        return self.relu(y + shortcut)


class ResNet(nn.Module):
    """ImageNet style: a stem that pools, stages of residual blocks, a pooled head."""

    inputs = IMAGES

    def __init__(self, block: type[Basic] | type[Bottleneck]) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(block(8, 8, 1), *(block(8 * block.expansion, 8, 1) for _ in range(2)))
        self.layer2 = nn.Sequential(block(8 * block.expansion, 12, 2), block(12 * block.expansion, 12, 1))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(12 * block.expansion, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(self.avgpool(self.layer2(self.layer1(x))), 1))


class PaddedBlock(nn.Module):
    """The shortcut of option A: every second pixel, zero channels before and behind, no parameters."""

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inside, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.padding = (width - inside) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.padding:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding), "constant", 0)
        return F.relu(y + x)


class CifarResNet(nn.Module):
    """The ResNet of CIFAR: three stages of `blocks` blocks, with the usual names."""

    inputs = IMAGES

    def __init__(self, blocks: int = 3, widths: tuple[int, int, int] = (8, 16, 32)) -> None:
        super().__init__()
        first, second, third = widths
        self.conv1, self.bn1 = nn.Conv2d(3, first, 3, 1, 1, bias=False), nn.BatchNorm2d(first)
        self.layer1 = nn.Sequential(*(PaddedBlock(first, first, 1) for _ in range(blocks)))
        self.layer2 = self._stage(first, second, blocks)
        self.layer3 = self._stage(second, third, blocks)
        self.linear = nn.Linear(third, 10)

    @staticmethod
    def _stage(inside: int, width: int, blocks: int) -> nn.Sequential:
        return nn.Sequential(PaddedBlock(inside, width, 2), *(PaddedBlock(width, width, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(F.avg_pool2d(x, x.size()[3]).view(x.size(0), -1))


class Vgg(nn.Module):
    """A plain chain, its last map flattened into a linear layer."""

    inputs = IMAGES

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inside, out in ((3, 8), (8, 12), (12, 16)):
            layers += [
                nn.Conv2d(inside, out, 3, padding=1),
                nn.BatchNorm2d(out),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2, 2),
            ]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(16 * 4, 20), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(20, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class Excite(nn.Module):
    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.expand(F.silu(self.reduce(x.mean((2, 3), keepdim=True)))))


class Inverted(nn.Module):
    """Expansion, depthwise convolution, squeeze-excite or not, projection; a residual where the shapes allow it."""

    def __init__(self, inside: int, out: int, stride: int, excite: bool) -> None:
        super().__init__()
        inner = 3 * inside
        activation = nn.SiLU if excite else nn.ReLU6
        parts = [unit(inside, inner), activation(inplace=True), unit(inner, inner, 3, stride, groups=inner)]
        parts += [activation(inplace=True), Excite(inner, 4) if excite else nn.Identity(), unit(inner, out)]
        self.conv = nn.Sequential(*parts)
        self.residual = stride == 1 and inside == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class InvertedNetwork(nn.Module):
    """MobileNetV2, or EfficientNet where `excite`."""

    inputs = IMAGES

    def __init__(self, excite: bool) -> None:
        super().__init__()
        sizes = ((8, 8, 1), (8, 8, 1), (8, 12, 2), (12, 12, 1), (12, 12, 1))
        self.features = nn.Sequential(
            nn.Sequential(*unit(3, 8, 3, 2), nn.Hardswish()),
            *(Inverted(inside, out, stride, excite) for inside, out, stride in sizes),
            nn.Sequential(*unit(12, 20), nn.Hardswish()),
        )
        self.classifier = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


class RegNetBlock(nn.Module):
    """Groups of four channels between two 1x1 convolutions, with squeeze-excite."""

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.a, self.b = unit(inside, width), unit(width, width, 3, stride, groups=width // 4)
        self.se, self.c = Excite(width, 4), unit(width, width)
        self.proj = unit(inside, width, 1, stride) if stride > 1 or inside != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.proj(x) + self.c(self.se(F.relu(self.b(F.relu(self.a(x)))))))


class RegNet(nn.Module):
    inputs = IMAGES

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(unit(3, 8, 3, 2), nn.ReLU())
        self.trunk = nn.Sequential(
            nn.Sequential(RegNetBlock(8, 8, 1), RegNetBlock(8, 8, 1)),
            nn.Sequential(RegNetBlock(8, 16, 2), RegNetBlock(16, 16, 1), RegNetBlock(16, 16, 1)),
        )
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.trunk(self.stem(x)).mean((2, 3)))
