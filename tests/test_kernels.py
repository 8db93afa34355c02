"""Sums over the operators of candidates: their products add up to the exact costs, and dropped blocks cost none."""

import numpy as np
import pytest
import zoo

from search_spaces import exact_costs, kernels
from search_spaces.supernets.kernels import QUANTITIES


@pytest.mark.parametrize("name", ["bert", "vit-width", "counting", "resnet-bottleneck", "mobilenet", "hf-resnet"])
def test_products_add_up_to_the_exact_multiply_accumulates(name: str) -> None:
    supernet, inputs = zoo.made(name)
    found = kernels(supernet, inputs)
    encoded = supernet.space.random(20, np.random.default_rng(0))
    sums = dict(zip(found.names, found.of(encoded).T, strict=True))
    macs = sum(values for name, values in sums.items() if name.startswith("macs "))
    assert macs == pytest.approx(exact_costs(supernet, inputs)["macs"](encoded))
    assert len(found.names) % len(QUANTITIES) == 0 and len(set(found.names)) == len(found.names)
    for name, values in sums.items():
        if name.startswith("tiled_macs "):
            assert (values >= sums[name.removeprefix("tiled_")]).all()


def test_blocks_that_drop_run_nothing() -> None:
    supernet, inputs = zoo.made("bert")
    found = kernels(supernet, inputs)
    shallow = supernet.space.candidate({**supernet.space.largest(), "depth": supernet.space["depth"].options[0]})
    full, less = found.of(supernet.space.encode([supernet.space.largest(), shallow]))
    operators = found.names.index("operators linear")
    assert less[operators] < full[operators]
    assert (less <= full).all()


def test_convolutions_are_told_apart_by_their_window_and_groups() -> None:
    supernet, inputs = zoo.made("mobilenet")
    kinds = {name.partition(" ")[2] for name in kernels(supernet, inputs).names}
    assert {"convolution 1x1", "convolution 3x3 by channel", "linear"} <= kinds
