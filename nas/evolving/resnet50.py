"""ResNet-50 with pre-activation (arXiv 1603.05027), slim and for small images, with any normalization-activation."""

from torch import Tensor, nn

from nas.evolving.layer_makers import LayerMaker
from nas.evolving.sizes import checked, convolution, initialise, slim, strides

_COUNTS = (3, 4, 6, 3)
_CHANNELS = (64, 128, 256, 512)
_EXPANSION = 4


class _Bottleneck(nn.Module):
    """Layer, 1x1, layer, 3x3, layer, 1x1; a shortcut that changes shape begins behind the first layer."""

    def __init__(self, layer: LayerMaker, inside: int, inner: int, out: int, stride: int) -> None:
        super().__init__()
        self.layer1, self.conv1 = layer(inside, True), convolution(inside, inner)
        self.layer2, self.conv2 = layer(inner, True), convolution(inner, inner, 3, stride)
        self.layer3, self.conv3 = layer(inner, True), convolution(inner, out)
        same = stride == 1 and inside == out
        self.shortcut = None if same else convolution(inside, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, D, H / stride, W / stride), rounded up."""
        active = self.layer1(x)
        inner = self.conv3(self.layer3(self.conv2(self.layer2(self.conv1(active)))))
        result: Tensor = inner + (x if self.shortcut is None else self.shortcut(active))
        return result


class _ResNet(nn.Module):
    def __init__(self, layer: LayerMaker, outputs: int, image_size: int, width: float) -> None:
        super().__init__()
        stem, pooling, *stages = strides(image_size, (2, 2, 1, 2, 2, 2))
        inside = slim(64, width)
        # Seven pixels are half of a small image: as on CIFAR-10, a stem without a stride has three.
        self.stem = convolution(3, inside, 7 if stem == 2 else 3, stem)
        self.pooling = nn.MaxPool2d(3, 2, 1) if pooling == 2 else nn.Identity()
        blocks: list[nn.Module] = []
        for count, channels, stride in zip(_COUNTS, _CHANNELS, stages, strict=True):
            inner, out = slim(channels, width), slim(_EXPANSION * channels, width)
            for index in range(count):
                blocks.append(_Bottleneck(layer, inside, inner, out, 1 if index else stride))
                inside = out
        self.blocks = nn.Sequential(*blocks)
        self.layer = layer(inside, True)
        self.head = nn.Linear(inside, outputs)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, outputs) of images (N, 3, H, W)."""
        logits: Tensor = self.head(self.layer(self.blocks(self.pooling(self.stem(pixels)))).mean((2, 3)))
        return logits


def resnet50(layer: LayerMaker, *, outputs: int = 10, image_size: int = 32, width: float = 0.25) -> nn.Module:
    """ResNet-50 with pre-activation; arguments as of `anchors.Anchor`.

    It has no normalization without an activation, so all 50 layers are the one that is made.
    """
    checked(outputs, width)
    network = _ResNet(layer, outputs, image_size, width)
    initialise(network)
    return network
