"""Third part of the law shared == extracted == exported: the ONNX file of a sub-network gives its outputs.

`convert` itself compares at another batch and length; here that is done again, from outside.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardware import OnnxRuntimeBackend
from hardware.backend import relative_difference
from hardware.onnx import TOLERANCE
from nas.export import export
from search_spaces import Candidate, Supernet, space, spread
from search_spaces.inputs import default_inputs
from tests.families import NAMES, build

MORE = 17
_RANGES: dict[str, Any] = {"depth": (1, 2, 0.75, 1.0), "heads": (1, 2, 0.75), "ffn": (0.25, 7, 0.5)}


def _supernet(name: str, attention: str = "sdpa") -> Supernet:
    model = build(name, attention)
    return Supernet(model, space(model, drop_order=spread, **_RANGES))


def _check(supernet: Supernet, candidate: Candidate, folder: Path) -> None:
    module, inputs = supernet.extract(candidate).eval(), dict(default_inputs(supernet.model))
    run = OnnxRuntimeBackend().load(OnnxRuntimeBackend().convert(module, inputs, folder))
    for case in (inputs, {name: torch.cat([value, value[:1]])[:, :5] for name, value in inputs.items()}):
        if "pixel_values" in case:
            case = {"pixel_values": torch.randn(5, *inputs["pixel_values"].shape[1:])}
        with torch.no_grad():
            shared = supernet(candidate, **case).logits
        assert relative_difference(shared, run(**case)) <= TOLERANCE, candidate


@pytest.mark.parametrize("name", NAMES)
def test_onnx_of_the_smallest_the_largest_and_a_random_candidate(name: str, tmp_path: Path) -> None:
    supernet = _supernet(name)
    random = supernet.space.sample(np.random.default_rng(7))
    for candidate in (supernet.space.smallest(), supernet.space.largest(), random):
        _check(supernet, candidate, tmp_path)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("name", NAMES)
def test_onnx_of_more_random_candidates(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    supernets = [_supernet(name, attention) for attention in ("sdpa", "eager")]
    for number in range(MORE):
        supernet = supernets[number % 2]
        _check(supernet, supernet.space.sample(rng), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_whole_export_of_a_random_candidate(name: str, tmp_path: Path) -> None:
    supernet = _supernet(name, "eager")
    candidate = supernet.space.sample(np.random.default_rng(1))
    inputs = default_inputs(supernet.model)
    assert (export(supernet.extract(candidate), tmp_path / "out", inputs) / "README.md").is_file()
