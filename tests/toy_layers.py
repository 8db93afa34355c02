"""Two tiny networks with a pluggable layer, in which evolved layers are tried on the pictures of `toy_pyramid`."""

from torch import Tensor, nn

from nas.evolving.layer_makers import LayerMaker


class Tiny(nn.Module):
    def __init__(self, layer: LayerMaker, outputs: int, width: int, channels: int = 3) -> None:
        super().__init__()
        self.first, self.first_layer = nn.Conv2d(channels, width, 3, padding=1, bias=False), layer(width, True)
        self.second, self.second_layer = nn.Conv2d(width, width, 3, 2, 1, bias=False), layer(width, True)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first_layer(self.first(x))
        return self.head(self.second_layer(self.second(x)).mean((2, 3)))  # type: ignore[no-any-return]


def narrow(layer: LayerMaker, outputs: int = 3) -> nn.Module:
    return Tiny(layer, outputs, 6)


def wide(layer: LayerMaker, outputs: int = 3) -> nn.Module:
    return Tiny(layer, outputs, 8)


def grey(layer: LayerMaker, outputs: int = 3) -> nn.Module:
    return Tiny(layer, outputs, 6, channels=1)


def two_channels(layer: LayerMaker, outputs: int = 3) -> nn.Module:
    return Tiny(layer, outputs, 6, channels=2)


def of_four_classes(layer: LayerMaker) -> nn.Module:
    return Tiny(layer, 4, 6)


def loud(layer: LayerMaker, outputs: int = 3) -> nn.Module:
    """Its first logits are far from zero, whatever the layers are."""
    module = Tiny(layer, outputs, 8)
    nn.init.normal_(module.head.weight, std=1000)
    return module


def flat(layer: LayerMaker, outputs: int = 3) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8), nn.ReLU(), nn.Linear(8, outputs))
