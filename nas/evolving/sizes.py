"""How networks for large images are made small: fewer channels, and fewer strides on few pixels."""

from collections.abc import Sequence

from torch import nn

SMALLEST = 12
"""The smallest side of an image: below it the last features would have one place, over which there are no moments."""
_LAST, _USUAL = 4, 32


def slim(channels: int, width: float) -> int:
    """The channels of a layer times a width: the nearest multiple of 4, at least 4."""
    return max(4, 4 * round(channels * width / 4))


def strides(image_size: int, wanted: Sequence[int]) -> list[int]:
    """The strides of a network for images of this side, where the first ones are 1 as far as pixels are short.

    The last features have 4 pixels of a side or more. With 224 pixels all strides remain, with 32 those of a total of
    8, as usual on CIFAR-10. Smaller images have these too: to leave out more would cost as much as larger images.

    Args:
        image_size: side of the images in pixels.
        wanted: the strides in order, each 1 or 2.

    Raises:
        ValueError: the images are below `SMALLEST`.
    """
    if image_size < SMALLEST:
        raise ValueError(f"image_size must be at least {SMALLEST} pixels, got {image_size}")
    total, side = 1, max(image_size, _USUAL)
    while -(-side // (2 * total)) >= _LAST:
        total *= 2
    kept: list[int] = []
    for stride in reversed(wanted):
        kept.append(stride if stride <= total else 1)
        total //= kept[-1]
    return kept[::-1]


def initialise(network: nn.Module) -> None:
    """Draw the weights of convolutions from a normal distribution of variance 2 / fan-in (arXiv 1502.01852)."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def convolution(inside: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution without a shift that keeps the size of the image but for its stride."""
    return nn.Conv2d(inside, out, kernel, stride, kernel // 2, groups=groups, bias=False)


def checked(outputs: int, width: float) -> None:
    """Raise ValueError for a network that cannot be."""
    if outputs < 1 or not 0 < width <= 16:
        raise ValueError(f"outputs must be at least 1 and width above 0 and at most 16, got {outputs} and {width}")
