"""Files written from a template: the outputs of the network, and a full export only where the blocks are new."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hardware.backend import relative_difference
from hardware.onnxruntime import OnnxRuntimeBackend
from hardware.openvino import OpenVinoBackend
from hardware.resizing import Resizer
from hardware.template import _fitting
from search_spaces import Candidate, Space
from tests.zoo import first, made


def _other_sizes(space: Space, count: int) -> list[Candidate]:
    """Random candidates with all their blocks."""
    rng, whole = np.random.default_rng(3), space.largest()
    drawn: list[Mapping[str, object]] = []
    for _ in range(count):
        # A draw at the full depth: what a shallower one leaves open would have no value.
        sizes = {choice.name: choice.options[rng.integers(len(choice.options))] for choice in space.choices}
        drawn.append({**sizes, **{name: whole[name] for name in sizes if name.startswith("depth")}})
    return [space.candidate(each) for each in drawn]


@pytest.mark.parametrize("name", ["bert", "vit", "hf-resnet"])
def test_sub_networks_that_differ_in_sizes_need_one_export(name: str, tmp_path: Path) -> None:
    supernet, inputs = made(name)
    resizer = Resizer()
    runtimes = [OnnxRuntimeBackend(write=resizer), OpenVinoBackend(write=resizer)]
    for candidate in _other_sizes(supernet.space, 4):
        module = supernet.extract(candidate).eval()
        with torch.no_grad():
            expected = first(module(**dict(inputs)))
        for runtime in runtimes:
            run = runtime.load(runtime.convert(module, inputs, tmp_path))
            assert relative_difference(expected, run(**dict(inputs))) < 1e-4
    assert resizer.exported == 1
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]


class Tiled(nn.Module):
    """A size that no weight tells: how often the input is repeated."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.layer, self.times = nn.Linear(4 * times, 3), times

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x.repeat(1, self.times))
        return out


class Scaled(nn.Module):
    """A number in the graph that depends on the size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, size), nn.Linear(size, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.second(self.first(x) / self.first.out_features)
        return out


@pytest.mark.parametrize("make", [Tiled, Scaled])
def test_what_a_template_gets_wrong_is_exported(make: type[nn.Module], tmp_path: Path) -> None:
    resizer, x = Resizer(), torch.randn(2, 4)
    runtime = OnnxRuntimeBackend(write=resizer)
    for size in (2, 3):
        module = make(size).eval()
        run = runtime.load(runtime.convert(module, (x,), tmp_path))
        assert relative_difference(module(x).detach(), run(x)) < 1e-4
    # The template, and the second network for itself.
    assert resizer.exported == 2


@pytest.mark.parametrize(
    ("asked", "before", "now", "after", "fitting"),
    [
        ([-1, 512], (None, 512, 1, 1), (None, 333, 1, 1), (None, 512), [-1, 333]),
        ([0, 0, 384], (None, None, 12, 32), (None, None, 8, 32), (None, None, 384), [0, 0, 256]),
        ([-1, 16, 12, 32], (None, 16, 384), (None, 16, 192), (None, 16, 12, 32), [-1, 16, 6, 32]),
        ([2, 16, -1, 32], (2, 16, 384), (2, 16, 320), (2, 16, 12, 32), [2, 16, -1, 32]),
        ([-1, 512], (None, 512), (None, 512), (None, 512), [-1, 512]),
        ([4, 4], None, (16,), (4, 4), [4, 4]),
    ],
)
def test_constants_of_reshapes(
    asked: list[int],
    before: tuple[int | None, ...],
    now: tuple[int | None, ...],
    after: tuple[int | None, ...],
    fitting: list[int],
) -> None:
    assert _fitting(asked, before, now, after) == fitting
