"""Coupled axes of networks that nobody listed: each dimension found must equal the masked network when cut."""

import pytest
import torch
from torch import nn

from search_spaces import AttributeCut, AxisCut, Supernet, space
from search_spaces.families.oracle import Judge, difference, masked_forward
from search_spaces.tracing.coupling import Dimension, analyse
from tests.networks import Concatenation, CountingBlock, FusedBlock, MobileLike, PlainTransformer, randomised


def found(network: nn.Module) -> list[Dimension]:
    return list(analyse(network, network.inputs).dimensions)


def by_parameter(dimensions: list[Dimension], parameter: str, axis: int = 0) -> Dimension:
    return next(d for d in dimensions if any((c.parameter, c.axis) == (parameter, axis) for c in d.cuts))


def test_residuals_depthwise_convolutions_and_gates_shrink_together() -> None:
    network = randomised(MobileLike())
    dimensions = found(network)
    stream = {cut.parameter for cut in by_parameter(dimensions, "stem.weight").cuts}
    assert {"blocks.0.project.weight", "blocks.0.norm3.running_mean", "blocks.1.expand.weight"} <= stream
    inner = {cut.parameter for cut in by_parameter(dimensions, "blocks.0.expand.weight").cuts}
    assert {"blocks.0.depthwise.weight", "blocks.0.gate.up.weight", "blocks.0.project.weight"} <= inner
    accepted = Judge(network, network.inputs).accept(dimensions)
    assert all(accepted)
    groups = [cut for cuts in accepted for cut in cuts or () if isinstance(cut, AttributeCut)]
    assert {(cut.module, cut.attribute) for cut in groups} == {(f"blocks.{i}.depthwise", "groups") for i in range(3)}


def test_concatenation_gives_offsets_and_a_flattened_map_gives_units_of_pixels() -> None:
    network = randomised(Concatenation())
    dimensions = found(network)
    assert AxisCut("mix.weight", 1, 6, 1, 10, 1) in by_parameter(dimensions, "right.weight").cuts
    assert AxisCut("hidden.weight", 1, 0, 1, 8, 16) in by_parameter(dimensions, "mix.weight").cuts
    assert all(Judge(network, network.inputs).accept(dimensions))


@pytest.mark.parametrize("block", [FusedBlock, CountingBlock])
def test_a_plain_transformer_with_fused_attention_has_a_space(block: type[FusedBlock]) -> None:
    network = randomised(PlainTransformer(block))
    supernet = Supernet(network, space(network, network.inputs, depth=(2, 3), heads=(1, 2, 3), ffn=(0.5,)))
    assert len(supernet.space.choices) == 7
    with torch.no_grad():
        for candidate in (supernet.space.smallest(), supernet.space.largest()):
            shared = supernet(candidate, *network.inputs)
            assert torch.equal(shared, supernet.extract(candidate)(*network.inputs))
            assert difference(shared, masked_forward(supernet, candidate, network.inputs)) <= 1e-5


def test_a_network_is_left_in_its_modes() -> None:
    network = randomised(MobileLike()).train()
    network.blocks[0].norm3.eval()
    before = [part.training for part in network.modules()]
    analyse(network, network.inputs)
    assert [part.training for part in network.modules()] == before


class Regrouping(PlainTransformer):
    """Reads a fixed number of columns, so narrowing its feed-forward layer would be wrong."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)[:, :, :3] * self.blocks[0].gate.weight[39, 0]


def test_a_dimension_that_python_uses_elsewhere_is_not_offered() -> None:
    network = randomised(Regrouping(FusedBlock))
    names = {choice.name for choice in space(network, network.inputs).choices}
    assert "ffn.0" not in names
    assert {"ffn.1", "heads.0"} <= names


class Residual(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + super().forward(x)


class Upscaling(nn.Module):
    """Residual blocks, and a transposed convolution after them."""

    inputs = (torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)),)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.blocks = nn.ModuleList(Residual(nn.Conv2d(8, 8, 1), nn.ReLU()) for _ in range(3))
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2, groups=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.up(x)


def test_a_transposed_convolution_knows_its_sizes() -> None:
    network = randomised(Upscaling())
    supernet = Supernet(network, space(network, network.inputs, depth=(1, 2, 3)))
    extracted = supernet.extract(supernet.space.smallest())
    assert (extracted.up.in_channels, extracted.up.out_channels) == (8, 4)
    assert torch.equal(extracted(*network.inputs), supernet(supernet.space.smallest(), *network.inputs))
