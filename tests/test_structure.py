"""Options, drop orders and refusals of the spaces of transformers."""

import json

import pytest
from torch import nn

from search_spaces import BlockCut, NotElastic, Space, Supernet, last_first, space, spread
from tests.families import build
from tests.networks import FusedBlock, PlainTransformer, randomised


def test_the_default_ranges_are_those_of_the_paper() -> None:
    text = space(build("minilm"))
    assert text["depth"].options == (3, 4, 5, 6)
    assert text["heads.0"].options == (4, 5, 7, 8)
    assert text["ffn.0"].options == (16, 32, 48)
    # 11 of 12 blocks are 4 of 4: nothing to choose.
    assert "depth" not in {choice.name for choice in space(build("vit")).choices}


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
