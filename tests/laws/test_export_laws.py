"""Third part of the law shared == extracted == exported: the ONNX file of a sub-network gives its outputs.

`convert` itself compares at another batch and length; here that is done again, from outside.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardware import OnnxRuntimeBackend
from hardware.backend import OUTPUT_TOLERANCE, relative_difference
from nas import export
from search_spaces import Candidate, Supernet
from search_spaces.inputs import Inputs
from tests.zoo import CASES, first, made

MORE = 17
# Of one network of each family and of those unlike them one or two candidates; three of all with the exhaustive tests.
FAMILIES = ("bert", "vit", "beit3", "hf-resnet")
UNLIKE = ("deberta", "qwen2", "post-norm", "efficientnet")


def _more(*names: str) -> list[Any]:
    """Networks that the exhaustive tests alone take."""
    return [pytest.param(name, marks=pytest.mark.exhaustive) for name in names]


def _other(inputs: Inputs) -> dict[str, torch.Tensor]:
    """Three rows, other images, and texts of five tokens."""
    longer = {name: torch.cat([value, value[:1]]) for name, value in dict(inputs).items()}
    return {
        name: torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
        if value.is_floating_point()
        else value[:, :5]
        for name, value in longer.items()
    }


def _check(supernet: Supernet, inputs: Inputs, candidate: Candidate, folder: Path) -> None:
    module = supernet.extract(candidate).eval()
    run = OnnxRuntimeBackend().load(OnnxRuntimeBackend().convert(module, inputs, folder))
    for case in (dict(inputs), _other(inputs)):
        with torch.no_grad():
            shared = first(supernet(candidate, **case))
        assert relative_difference(shared, run(**case)) <= OUTPUT_TOLERANCE, candidate


@pytest.mark.parametrize("name", FAMILIES)
def test_onnx_of_the_smallest_candidate(name: str, tmp_path: Path) -> None:
    supernet, inputs = made(name)
    _check(supernet, inputs, supernet.space.smallest(), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", (*FAMILIES, *UNLIKE))
def test_onnx_of_a_random_candidate(name: str, tmp_path: Path) -> None:
    supernet, inputs = made(name)
    _check(supernet, inputs, supernet.space.sample(np.random.default_rng(8)), tmp_path)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CASES)
def test_onnx_of_the_smallest_the_largest_and_a_random_candidate(name: str, tmp_path: Path) -> None:
    supernet, inputs = made(name)
    random = supernet.space.sample(np.random.default_rng(7))
    for candidate in (supernet.space.smallest(), supernet.space.largest(), random):
        _check(supernet, inputs, candidate, tmp_path)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("name", (*FAMILIES, "bert-eager", "vit-eager"))
def test_onnx_of_more_random_candidates(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    supernet, inputs = made(name)
    for _ in range(MORE):
        _check(supernet, inputs, supernet.space.sample(rng), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ("bert-eager", "dinov2", "hf-resnet", *_more("roberta", "vit-eager", "swin")))
def test_whole_export_of_a_random_candidate(name: str, tmp_path: Path) -> None:
    supernet, inputs = made(name)
    candidate = supernet.space.sample(np.random.default_rng(1))
    assert (export(supernet.extract(candidate), tmp_path / "out", inputs) / "README.md").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", ("beit3", "mobilenet", *_more("cifar-resnet", "post-norm")))
def test_whole_export_of_a_class_of_ones_own_without_its_dropped_blocks(name: str, tmp_path: Path) -> None:
    supernet, inputs = made(name)
    small = supernet.extract(supernet.space.smallest())
    # Loading the folder, and that it gives the same outputs, is part of the export.
    folder = export(small, tmp_path / "out", inputs, factory=CASES[name].build)
    assert json.loads((folder / "config.json").read_text())["subnetwork"]["blocks"]
