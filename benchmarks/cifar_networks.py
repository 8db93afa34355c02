"""CIFAR-10 networks of two public repositories, rebuilt from the names of their tensors; nothing but torch is needed.

`ResNet` is `akamaster/pytorch_resnet_cifar10` and `VisionTransformer` is `smmk47/CIFAR10-Classification`.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


NORMALISED = {
    "vit": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "resnet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


class Normalise(nn.Module):
    """Normalises pixels from 0 to 1 with the mean and standard deviation that a network was trained with.

    It is part of the network, so that augmentation fills the edges of shifted images with black before normalising, as
    in the original training. The running statistics of the ResNet depend on it: with other edges it loses 3 points.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: str) -> None:
        super().__init__()
        for name, values in zip(("mean", "std"), NORMALISED[model], strict=True):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels - self.mean) / self.std


class Shortcut(nn.Module):
    """Shortcut without parameters: subsamples pixels and pads channels with zeros (arXiv 1512.03385, option A)."""

    def __init__(self, added: int) -> None:
        super().__init__()
        self.added = added

    def forward(self, x: Tensor) -> Tensor:
        return pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added // 2, self.added // 2))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if stride == 1 else Shortcut(outputs - inputs)

    def forward(self, x: Tensor) -> Tensor:
        inner = relu(self.bn1(self.conv1(x)))
        return relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet for CIFAR with three stages of `blocks` blocks and 16, 32 and 64 channels (He et al., section 4.2)."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.normalise = Normalise("resnet")
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, 1)
        self.layer2 = _stage(16, 32, blocks, 2)
        self.layer3 = _stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, len(CLASSES))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (rows, 10) of pixels from 0 to 1, (rows, 3, 32, 32)."""
        x = relu(self.bn1(self.conv1(self.normalise(pixels))))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = Block(inputs, outputs, stride)
    return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))


def resnet20() -> ResNet:
    return ResNet(3)


def resnet56() -> ResNet:
    return ResNet(9)


class PatchEmbed(nn.Module):
    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return tokens


class VisionTransformer(nn.Module):
    """Vision transformer with 6 post-norm blocks over 64 patches and a class token."""

    def __init__(self, width: int = 128, depth: int = 6, heads: int = 8, inner: int = 256) -> None:
        super().__init__()
        self.normalise = Normalise("vit")
        self.patch_embed = PatchEmbed(width, 4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 65, width))
        block = nn.TransformerEncoderLayer(width, heads, inner, dropout=0.1, batch_first=True)
        self.transformer = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)
        self.mlp_head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(CLASSES)))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (rows, 10) of pixels from 0 to 1, (rows, 3, 32, 32)."""
        patches = self.patch_embed(self.normalise(pixels))
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1) + self.pos_embed
        logits: Tensor = self.mlp_head(self.transformer(tokens)[:, 0])
        return logits


def vit() -> VisionTransformer:
    return VisionTransformer()
