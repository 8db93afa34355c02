"""MobileNetV2 (arXiv 1801.04381) and EfficientNet-B0 (arXiv 1905.11946), slim and for small images.

Both are inverted bottlenecks: a 1x1 convolution to more channels, a depthwise one, and a 1x1 one back to few, behind
which there is no activation, so that a searched layer keeps only its affine part there.

Differs: the channels before the head are multiplied by the width too where it is below 1, and there is neither
dropout nor stochastic depth, because trainings are short. The activation inside squeeze-and-excitation, which has no
normalization before it, remains SiLU.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import silu

from nas.evolving.layer_makers import LayerMaker
from nas.evolving.sizes import checked, convolution, initialise, slim, strides

_Stage = tuple[int, int, int, int, int]
# Expansion, channels, blocks, stride of the first of them, kernel.
_MOBILENET: Sequence[_Stage] = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 32, 3, 2, 3),
    (6, 64, 4, 2, 3),
    (6, 96, 3, 1, 3),
    (6, 160, 3, 2, 3),
    (6, 320, 1, 1, 3),
)
_EFFICIENTNET: Sequence[_Stage] = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


class _Excitation(nn.Module):
    """Squeeze-and-excitation (arXiv 1709.01507): a factor of each channel from the means of all."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape."""
        factors: Tensor = self.expand(silu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()
        return x * factors


class _InvertedBottleneck(nn.Module):
    def __init__(
        self, layer: LayerMaker, inside: int, out: int, stride: int, expansion: int, kernel: int, excited: bool
    ) -> None:
        super().__init__()
        inner, self.residual = inside * expansion, stride == 1 and inside == out
        parts = [convolution(inside, inner), layer(inner, True)] if expansion > 1 else []
        parts += [convolution(inner, inner, kernel, stride, inner), layer(inner, True)]
        parts += [_Excitation(inner, max(1, inside // 4))] if excited else []
        self.parts = nn.Sequential(*parts, convolution(inner, out), layer(out, False))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, D, H / stride, W / stride), rounded up."""
        result: Tensor = x + self.parts(x) if self.residual else self.parts(x)
        return result


class _Mobile(nn.Module):
    def __init__(
        self,
        layer: LayerMaker,
        stages: Sequence[_Stage],
        outputs: int,
        image_size: int,
        width: float,
        excited: bool,
    ) -> None:
        super().__init__()
        first, *others = strides(image_size, (2, *(stage[3] for stage in stages)))
        inside, last = slim(32, width), slim(1280, width)
        parts: list[nn.Module] = [convolution(3, inside, 3, first), layer(inside, True)]
        for (expansion, channels, count, _, kernel), stride in zip(stages, others, strict=True):
            out = slim(channels, width)
            for index in range(count):
                step = 1 if index else stride
                parts.append(_InvertedBottleneck(layer, inside, out, step, expansion, kernel, excited))
                inside = out
        self.parts = nn.Sequential(*parts, convolution(inside, last), layer(last, True))
        self.head = nn.Linear(last, outputs)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, outputs) of images (N, 3, H, W)."""
        logits: Tensor = self.head(self.parts(pixels).mean((2, 3)))
        return logits


def mobilenet_v2(layer: LayerMaker, *, outputs: int = 10, image_size: int = 32, width: float = 0.5) -> nn.Module:
    """MobileNetV2; arguments as of `anchors.Anchor`."""
    return _made(_Mobile, layer, _MOBILENET, outputs, image_size, width, False)


def efficientnet_b0(layer: LayerMaker, *, outputs: int = 10, image_size: int = 32, width: float = 0.5) -> nn.Module:
    """EfficientNet-B0; arguments as of `anchors.Anchor`."""
    return _made(_Mobile, layer, _EFFICIENTNET, outputs, image_size, width, True)


def _made(
    kind: type[_Mobile],
    layer: LayerMaker,
    stages: Sequence[_Stage],
    outputs: int,
    image_size: int,
    width: float,
    excited: bool,
) -> nn.Module:
    checked(outputs, width)
    network = kind(layer, stages, outputs, image_size, width, excited)
    initialise(network)
    return network
