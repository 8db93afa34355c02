"""Sizes that were asked for are never left out unsaid, and weights that are no numbers are named."""

import pytest
import torch

from search_spaces import space
from tests.families import build


def test_sizes_of_something_that_is_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sizes of channels .* 0\.5 gives nothing to choose here: .* ffn, heads"):
        space(build("vit"), channels=(0.5,))


def test_the_full_size_alone_and_the_defaults_ask_for_nothing() -> None:
    names = {choice.name.partition(".")[0] for choice in space(build("minilm"), depth=(6,), channels=(1.0,)).choices}
    assert names == {"heads", "ffn"}
    # 11 of 12 blocks, the default, are 4 of 4: nobody asked for it.
    assert "depth" not in {choice.name for choice in space(build("vit")).choices}
    with pytest.raises(ValueError, match="sizes of depth must be given"):
        space(build("vit"), depth=(11 / 12,))


def test_weights_that_are_no_numbers_are_named() -> None:
    model = build("minilm")
    with torch.no_grad():
        model.bert.encoder.layer[2].output.dense.bias[3] = torch.nan
    with pytest.raises(
        ValueError, match=r"must be finite numbers, bert\.encoder\.layer\.2\.output\.dense\.bias holds 1"
    ):
        space(model)
