"""Networks that are pruned in sub-networks, as people write them, narrow: on images of 16 or 32 pixels."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
)

from benchmarks.cifar_networks import ResNet as CifarResNet
from search_spaces.inputs import Inputs
from search_spaces.pruning import Partition, partition
from tests.conv_networks import Basic, Bottleneck, InvertedNetwork, PaddedBlock, RegNet, unit
from tests.networks import Concatenation, randomised


def images(size: int, rows: int = 2) -> Tensor:
    return torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(rows))


class ImageNetResNet(nn.Module):
    """The stages of ResNet-18, ResNet-50 or, with groups, ResNeXt-50."""

    def __init__(self, block: Callable[..., nn.Module], counts: tuple[int, ...], groups: int = 1) -> None:
        super().__init__()
        more = {"groups": groups} if groups > 1 else {}
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 7, 2, 3, bias=False), nn.BatchNorm2d(6)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        inside, expansion = 6, block.expansion  # type: ignore[attr-defined]
        for number, count in enumerate(counts):
            width, blocks = (4, 6, 8, 12)[number] * (2 if groups > 1 else 1), []
            for index in range(count):
                blocks.append(block(inside, width, 2 if number and not index else 1, **more))
                inside = width * expansion
            setattr(self, f"layer{number + 1}", nn.Sequential(*blocks))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(inside, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class EmptyShortcuts(nn.Module):
    """A ResNet for CIFAR whose shortcuts are empty lists or convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        self.blocks = nn.ModuleList([PaddedBlock(8, 8, 1), PaddedBlock(8, 12, 2), PaddedBlock(12, 12, 1)])
        self.shortcuts = nn.ModuleList([nn.Sequential(), unit(8, 12, 1, 2), nn.Sequential()])
        self.linear = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for block, shortcut in zip(self.blocks, self.shortcuts, strict=True):
            x = F.relu(block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x))))) + shortcut(x))
        return self.linear(F.avg_pool2d(x, 8).view(x.size(0), -1))


class Vgg16(nn.Module):
    """All 13 convolutions with batch norms, five poolings, and a classifier with a hidden layer."""

    plan = (4, 4, "M", 6, 6, "M", 8, 8, 8, "M", 8, 8, 8, "M", 8, 8, 8, "M")

    def __init__(self, hidden: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inside = 3
        for width in self.plan:
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(inside, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                inside = width
        self.features = nn.Sequential(*layers)
        last = (
            [nn.Linear(8, hidden), nn.ReLU(True), nn.Dropout(), nn.Linear(hidden, 5)] if hidden else [nn.Linear(8, 5)]
        )
        self.classifier = nn.Sequential(*last)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


class InvertedResidual(nn.Module):
    def __init__(self, inside: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner, self.residual = inside * expansion, stride == 1 and inside == out
        layers = [*unit(inside, inner), nn.ReLU6(inplace=True)] if expansion > 1 else []
        layers += [*unit(inner, inner, 3, stride, inner), nn.ReLU6(inplace=True), *unit(inner, out)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Every stage of MobileNetV2 (arXiv 1801.04381, table 2), but with two blocks at most."""

    def __init__(self) -> None:
        super().__init__()
        blocks, inside = [nn.Sequential(*unit(3, 4, 3, 2), nn.ReLU6(inplace=True))], 4
        stages = ((1, 3, 1, 1), (2, 4, 2, 2), (2, 6, 2, 2), (2, 8, 2, 2), (2, 10, 2, 1), (2, 12, 2, 2), (2, 14, 1, 1))
        for expansion, out, count, stride in stages:
            for index in range(count):
                blocks.append(InvertedResidual(inside, out, 1 if index else stride, expansion))
                inside = out
        blocks.append(nn.Sequential(*unit(inside, 20), nn.ReLU6(inplace=True)))
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(20, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), (1, 1)).flatten(1))


class DenseLayer(nn.Module):
    def __init__(self, inside: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inside), nn.Conv2d(inside, 2 * growth, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(2 * growth), nn.Conv2d(2 * growth, growth, 3, 1, 1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.conv1(F.relu(self.norm1(torch.cat(features, 1))))
        return F.dropout(self.conv2(F.relu(self.norm2(x))), p=0.1, training=self.training)


class DenseBlock(nn.ModuleDict):
    def __init__(self, inside: int, growth: int, count: int) -> None:
        super().__init__({f"layer{n}": DenseLayer(inside + n * growth, growth) for n in range(count)})

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    """Two dense blocks with a transition (arXiv 1608.06993), with dropout as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(3, 8, 3, 1, 1, bias=False))
        self.features.add_module("block1", DenseBlock(8, 4, 3))
        pool = nn.AvgPool2d(2, 2)
        transition = nn.Sequential(nn.BatchNorm2d(20), nn.ReLU(inplace=True), nn.Conv2d(20, 10, 1, bias=False), pool)
        self.features.add_module("transition1", transition)
        self.features.add_module("block2", DenseBlock(10, 4, 3))
        self.features.add_module("norm5", nn.BatchNorm2d(22))
        self.classifier = nn.Linear(22, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.features(x), inplace=True)
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


class Plain(nn.Module):
    """What a user writes: functions between layers, one pooling layer for all places, the rows counted first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.conv3, self.conv4 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 10, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.scale = nn.Parameter(torch.ones(8, 1, 1))
        self.fc1, self.fc2 = nn.Linear(10 * 16, 12), nn.Linear(12, 5)
        self.register_buffer("shift", torch.full((1, 3, 1, 1), 0.1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.size(0)
        x = F.relu(self.conv2(F.relu(self.conv1(x - self.shift))))
        x = F.relu(self.conv4(F.relu(self.conv3(self.pool(x)) * self.scale)))
        x = F.dropout(self.pool(x + torch.ones(1)).view(rows, -1), 0.3, self.training)
        return self.fc2(F.relu(self.fc1(x)))


class DropPath(nn.Module):
    """Drops whole rows while training, and does nothing else."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * (torch.rand(len(x), 1, 1, 1) > 0.5)


class PreActivated(nn.Module):
    """Blocks that begin with an activation in place, so that a sub-network would write into the features before it."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.relu, self.conv1 = nn.ReLU(inplace=True), nn.Conv2d(inside, 2 * out, 3, stride, 1)
        self.bn, self.conv2, self.path = nn.BatchNorm2d(2 * out), nn.Conv2d(2 * out, out, 3, padding=1), DropPath()
        self.residual = stride == 1

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        y = self.path(self.conv2(self.relu(self.bn(self.conv1(x)))))
        return x + y if self.residual else y


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.one, self.two = nn.Sequential(*(PreActivated(6, 6, 1) for _ in range(2))), PreActivated(6, 8, 2)
        self.head = nn.Sequential(nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.two(self.one(self.stem(x)))
        return {"logits": self.head(features), "features": features}


def _hugging_face_resnet() -> nn.Module:
    sizes = {"embedding_size": 6, "hidden_sizes": [8, 12, 16, 24], "depths": [3, 4, 6, 3]}
    return ResNetForImageClassification(ResNetConfig(**sizes, num_labels=5))


def _hugging_face_mobilenet() -> nn.Module:
    config = MobileNetV2Config(depth_multiplier=0.125, depth_divisible_by=2, min_depth=2, num_labels=5, expand_ratio=2)
    return MobileNetV2ForImageClassification(config)


@dataclass(frozen=True)
class Case:
    """A network, the size of its images, and the number of choices in each of its sub-networks.

    Attributes:
        build: the network.
        size: pixels of a side.
        choices: for each sub-network.
        classified: the last sub-network ends with the logits.
        keyword: of its input, where it is not given by position.
    """

    build: Callable[[], nn.Module]
    size: int
    choices: tuple[int, ...]
    classified: bool = False
    keyword: str | None = None

    def inputs(self, rows: int = 2) -> Inputs:
        x = images(self.size, rows)
        return {self.keyword: x} if self.keyword else (x,)


CASES: Mapping[str, Case] = {
    "resnet20": Case(lambda: CifarResNet(3), 16, (3, 3, 3)),
    "resnet18": Case(lambda: ImageNetResNet(Basic, (2, 2, 2, 2)), 64, (3, 2, 2, 2)),
    "resnet50": Case(lambda: ImageNetResNet(Bottleneck, (3, 4, 6, 3)), 64, (7, 8, 12, 6)),
    "resnext": Case(lambda: ImageNetResNet(Bottleneck, (1, 1, 1, 1), 4), 64, (4, 3, 3, 3)),
    "hf-resnet50": Case(_hugging_face_resnet, 64, (7, 8, 12, 6), keyword="pixel_values"),
    "empty-shortcuts": Case(EmptyShortcuts, 16, (1, 2)),
    "vgg16": Case(lambda: Vgg16(), 32, (1, 1, 2, 2, 2, 1), classified=True),
    "vgg16-one-layer": Case(lambda: Vgg16(0), 32, (1, 1, 2, 2, 2)),
    "mobilenet": Case(MobileNetV2, 64, (1, 2, 2, 5, 5)),
    "hf-mobilenet": Case(_hugging_face_mobilenet, 64, (1, 2, 3, 8, 6), keyword="pixel_values"),
    "efficientnet": Case(lambda: InvertedNetwork(True), 16, (4, 7)),
    "regnet": Case(RegNet, 16, (8, 12)),
    "densenet": Case(DenseNet, 16, (7, 3)),
    "concatenation": Case(Concatenation, 8, (2, 1), classified=True),
    "plain": Case(Plain, 16, (1, 1, 1), classified=True),
    "in-place": Case(InPlace, 16, (2, 1)),
}


@cache
def made(name: str) -> Partition:
    """The partition of a case; not to be changed."""
    case = CASES[name]
    return partition(randomised(case.build()), case.inputs())
