"""Options, drop orders and refusals of the spaces of transformers."""

import json

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from search_spaces import BlockCut, NotElastic, Space, Supernet, last_first, space, spread
from search_spaces.families.oracle import difference
from tests.families import build
from tests.networks import FusedBlock, PlainTransformer, randomised


def test_the_default_ranges_are_those_of_the_paper() -> None:
    text = space(build("minilm"))
    assert text["depth"].options == (3, 4, 5, 6)
    assert text["heads.0"].options == (4, 5, 7, 8)
    assert text["ffn.0"].options == (16, 32, 48)
    # 11 of 12 blocks are 4 of 4: nothing to choose.
    assert "depth" not in {choice.name for choice in space(build("vit")).choices}


def test_shares_of_channels_are_near_multiples_of_8() -> None:
    class Block(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Conv2d(64, 100, 3, padding=1), nn.ReLU(), nn.Conv2d(100, 64, 3, padding=1))

        def forward(self, x: Tensor) -> Tensor:
            return x + super().forward(x)

    model = nn.Sequential(nn.Conv2d(3, 64, 3), Block(), Block(), nn.Flatten(), nn.Linear(64 * 36, 10))
    made = space(model, {"input": torch.randn(2, 3, 8, 8)}, channels=(0.1, 0.37, 0.66, 50), width=(0.65,))
    # 10 and 37 are not within 5 % of 8 and 40, 66 and 41.6 are of 64 and 40; numbers stay as they are.
    assert made["channels.1.0"].options == (10, 37, 50, 64, 100)
    assert made["width"].options == (40, 64)


def test_blocks_drop_in_the_order_of_the_space() -> None:
    model = build("minilm")
    assert last_first(4) == (3, 2, 1, 0)
    assert sorted(spread(6)) == list(range(6))
    assert set(spread(6)[-2:]) == {0, 5}
    made = space(model, drop_order=(5, 1, 3, 0, 2, 4), depth=(2, 6))
    cut = made["depth"].cuts[0]
    assert isinstance(cut, BlockCut)
    assert cut.dropped(2) == {0, 1, 3, 5}
    assert made["heads.0"].active_if == ("depth", (6,))
    assert made["heads.2"].active_if is None
    assert len(Supernet(model, made).extract(made.smallest()).bert.encoder.layer) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"drop_order": (0, 1)}, "drop_order of depth must name each of its blocks"),
        ({"heads": (9,)}, "options of heads.0 must be from 1 to 8, got 9"),
        ({"depth": (0,)}, "options of depth must be from 1 to 6, got 0"),
        ({"ffn": (1.5,)}, "a share of ffn.0 must be above 0 and at most 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        space(build("minilm"), **arguments)


def test_a_model_without_repeated_blocks_says_what_was_found() -> None:
    with pytest.raises(NotElastic, match="in Sequential \\(1 Linear\\) the graph shows 0 repeated blocks"):
        space(nn.Sequential(nn.Linear(2, 2)), (nn.Parameter(nn.Linear(2, 2).weight.data),))


def test_a_model_of_ones_own_needs_example_inputs() -> None:
    with pytest.raises(ValueError, match="example_inputs must be given for PlainTransformer"):
        space(PlainTransformer(FusedBlock))


def test_a_super_network_refuses_a_space_of_another_model() -> None:
    other = randomised(PlainTransformer(FusedBlock))
    foreign = space(other, other.inputs)
    with pytest.raises(ValueError, match="make the space from"):
        Supernet(build("minilm"), foreign)
    with pytest.raises(ValueError, match="make the space from"):
        Supernet(other, Space(space(build("vit")).choices))


def test_a_configuration_that_names_code_is_refused(tmp_path) -> None:
    model = build("minilm")
    Supernet(model, space(model)).save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "unheard-of", "auto_map": {"AutoConfig": "evil.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("raise SystemExit('this code ran')")
    with pytest.raises(ValueError, match="must be the configuration of a transformers model"):
        Supernet.load(tmp_path)


def test_a_damaged_folder_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"must hold model\.safetensors"):
        Supernet.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    (tmp_path / "space.json").write_text('{"version": 1, "choices": []}')
    with pytest.raises(ValueError, match="the weights in"):
        Supernet.load(tmp_path, nn.Linear(1, 1))


class Told(FusedBlock):
    """Computes its addition to the stream from the stream and a context that it is told."""

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return x + (super().forward(x + context) - (x + context))


class Alternating(PlainTransformer):
    """Tells every second block another context, by its place in the list, as masks that alternate are chosen."""

    def __init__(self) -> None:
        super().__init__(FusedBlock)
        self.blocks = nn.ModuleList(Told(24, 3) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        contexts = (torch.zeros_like(x), x.roll(1, 1))
        for number, block in enumerate(self.blocks):
            x = block(x, contexts[number % 2])
        return self.head(x)


def test_a_depth_at_which_blocks_would_change_places_is_not_offered() -> None:
    network = randomised(Alternating())
    last = space(network, network.inputs, depth=(1, 2, 3, 4), drop_order=last_first)
    assert last["depth"].options == (1, 2, 3, 4, 5)
    pairs = space(network, network.inputs, depth=(1, 2, 3, 4), drop_order=(1, 2, 0, 3, 4))
    # Those that stay keep the parity of their places at depths 3 (0, 3, 4) and 1 (4) alone.
    assert pairs["depth"].options == (1, 3, 5)
    supernet = Supernet(network, pairs)
    candidate = pairs.candidate({**pairs.largest(), "depth": 3})
    with torch.no_grad():
        # Blocks 0, 3 and 4, each with the context of its own place.
        contexts = (torch.zeros_like(network.inputs[0]), network.inputs[0].roll(1, 1))
        x = network.blocks[0](network.inputs[0], contexts[0])
        expected = network.head(network.blocks[4](network.blocks[3](x, contexts[1]), contexts[0]))
        assert difference(supernet(candidate, *network.inputs), expected) <= 1e-6


class LiteralHeads(nn.Module):
    """Three heads by a number in the code, so that half of the rows regroups them, before many layers that damp it."""

    inputs = (torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0)),)

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, 4)
        self.query, self.key, self.value, self.out = (nn.Linear(32, 32) for _ in range(4))
        layers = [[nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()] for _ in range(16)]
        self.body = nn.Sequential(*[layer for block in layers for layer in block])
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        rows, tokens, _ = x.shape
        query, key, value = (
            part(x).reshape(rows, tokens, 4, -1).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        attended = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2)
        x = x + self.out(attended.reshape(rows, tokens, -1))
        return self.head(self.body(x.transpose(1, 2).reshape(rows, 32, 3, 3)).mean((2, 3)))


def test_a_wrong_dimension_is_seen_through_layers_whose_statistics_damp_it() -> None:
    torch.manual_seed(0)
    network = LiteralHeads().eval()
    assert space(network, network.inputs, channels=(0.5,)).choices
    with pytest.raises(ValueError, match="sizes of heads must be given for something that the model can narrow"):
        space(network, network.inputs, heads=(0.5,), channels=(0.5,))


class MutedBlock(FusedBlock):
    """Multiplies its feed-forward layer by zero, so that nothing at the output tells how it was cut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.down.register_forward_hook(lambda module, inputs, output: 0 * output)


def test_what_leaves_the_output_as_it_is_is_not_offered() -> None:
    network = randomised(PlainTransformer(MutedBlock))
    names = [choice.name for choice in space(network, network.inputs, heads=(1,)).choices]
    assert names == ["depth", "heads.0", "heads.1", "heads.2"]
    with pytest.raises(ValueError, match="sizes of ffn must be given for something that the model can narrow"):
        space(network, network.inputs, heads=(1,), ffn=(0.5,))
