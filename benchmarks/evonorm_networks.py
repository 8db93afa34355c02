"""A slim pre-activation ResNet-18 (arXiv 1603.05027) for CIFAR, as a user would write a network with any layer."""

from torch import Tensor, nn

from nas.evolving.layer_makers import LayerMaker


class _Block(nn.Module):
    def __init__(self, layer: LayerMaker, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.layer1, self.conv1 = layer(inside, True), nn.Conv2d(inside, out, 3, stride, 1, bias=False)
        self.layer2, self.conv2 = layer(out, True), nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.shortcut = None if inside == out else nn.Conv2d(inside, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.layer1(x)
        inner: Tensor = self.conv2(self.layer2(self.conv1(active)))
        return inner + (x if self.shortcut is None else self.shortcut(active))


def resnet18(layer: LayerMaker, outputs: int = 10, width: int = 16) -> nn.Module:
    """Images (N, 3, H, W) to logits (N, outputs); `width` is the channels of the first stage."""
    blocks, inside = [], width
    for stage in range(4):
        for number in range(2):
            out = width << stage
            blocks.append(_Block(layer, inside, out, 2 if stage and not number else 1))
            inside = out
    stem = nn.Conv2d(3, width, 3, 1, 1, bias=False)
    return nn.Sequential(
        stem, *blocks, layer(inside, True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, outputs)
    )
