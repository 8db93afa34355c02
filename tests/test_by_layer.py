"""Networks in the precision of each layer: what the files compute, how large they are, and what they are made of."""

import itertools
from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import onnx
import openvino
import pytest
import torch

from hardware import OpenVinoBackend
from hardware.onnx_layers import read_layers
from hardware.openvino_layers import Graph
from hardware.openvino_operators import shapes
from hardware.policy import Policy
from hardware.quantized import quantized, silent
from search_spaces.quantization import PRECISIONS
from tests.by_layer import Case, case, error, everywhere, size

NETWORKS = ("text", "images")
RUNTIMES = ("openvino", "onnxruntime")


@pytest.fixture(scope="module", params=itertools.product(NETWORKS, RUNTIMES), ids="-".join)
def known(request: pytest.FixtureRequest) -> Iterator[Case]:
    """Each network in each runtime: exported once, quantized once."""
    yield case(*request.param)


@pytest.fixture(scope="module", params=NETWORKS)
def in_openvino(request: pytest.FixtureRequest) -> Iterator[Case]:
    yield case(request.param, "openvino")


def test_float32_everywhere_is_the_float32_file(known: Case, tmp_path: Path) -> None:
    run = known.run_in.load(known.run_in.convert(known.module, known.example, tmp_path))
    expected = run(*known.example)
    assert torch.equal(known.outputs(Policy(), tmp_path), expected)
    known.outputs(everywhere(known.products, "int8"), tmp_path, known.rows)
    grafted_back = everywhere(known.layers, "float32")
    assert torch.equal(known.outputs(grafted_back, tmp_path, known.rows), expected)


def test_int8_is_close_and_every_layer_counts(known: Case, tmp_path: Path) -> None:
    expected = known.expected()
    errors = [
        error(expected, known.outputs(everywhere(known.products[:count], "int8"), tmp_path, known.rows))
        for count in range(len(known.products) + 1)
    ]
    assert errors[0] < 1e-9
    assert all(0 < each < 0.02 for each in errors[1:])
    assert len(set(errors)) == len(errors) - ("unused" in known.layers)


def test_weights_alone(known: Case, tmp_path: Path) -> None:
    expected = known.expected()
    eight, four = (
        error(expected, known.outputs(everywhere(known.layers, precision), tmp_path))
        for precision in ("int8-weights", "int4-weights")
    )
    assert 0 < eight < 0.005
    assert eight < four < 0.3


def test_precisions_side_by_side(known: Case, tmp_path: Path) -> None:
    layers = dict(zip(known.products, itertools.cycle(PRECISIONS), strict=False))
    assert error(known.expected(), known.outputs(Policy(layers), tmp_path, known.rows)) < 0.1


def test_a_file_never_grows_when_the_precision_of_a_layer_falls(known: Case, tmp_path: Path) -> None:
    large = [path for path in known.layers if known.module.get_submodule(path).weight.numel() >= 1024]
    for path in large:
        options = [each for each in PRECISIONS if each != "int8" or path in known.products]
        sizes = {each: size(known.convert(Policy({path: each}), tmp_path)) for each in options}
        if path == "unused":
            assert len(set(sizes.values())) == 1
        else:
            assert sizes["int4-weights"] < sizes["int8-weights"] < sizes["float32"], path
            assert sizes.get("int8", 0) < sizes["float32"], path


def test_without_rows_the_graph_is_that_of_a_calibrated_one(known: Case, tmp_path: Path) -> None:
    layers = dict(zip(known.products, itertools.cycle(("int8", "int8", "int8-weights")), strict=False))
    made = []
    for rows in (known.rows, None):
        path = known.convert(Policy(layers), tmp_path, rows)
        made.append((_contents(path), size(path)))
    assert made[0][0] == made[1][0]
    assert abs(made[0][1] - made[1][1]) < 0.01 * made[0][1]


def _contents(path: Path) -> Counter[object]:
    """Operators by kind, and constants by their types and sizes."""
    if path.suffix == ".xml":
        found: Counter[object] = Counter()
        for each in openvino.Core().read_model(path).get_ops():
            of = [each.get_type_name()]
            if of == ["Constant"]:
                of += [str(each.get_element_type()), str(prod(each.get_output_shape(0)))]
            found[tuple(of)] += 1
        return found
    graph = onnx.load(path).graph
    constants = [(each.data_type, prod(each.dims)) for each in graph.initializer]
    return Counter([*(node.op_type for node in graph.node), *constants])


def test_nncf_for_each_policy_finds_about_the_same(in_openvino: Case, tmp_path: Path) -> None:
    graph = _graph(in_openvino, tmp_path)
    half = in_openvino.products[: len(in_openvino.products) // 2]
    names = {name for path in half for name in graph.operators[path]}
    left_out = [each.get_friendly_name() for each in graph.model.get_ops() if each.get_friendly_name() not in names]
    alone = quantized(graph.model, shapes(graph.model), in_openvino.rows, left_out=left_out)
    expected = in_openvino.expected()
    grafted = error(expected, in_openvino.outputs(everywhere(half, "int8"), tmp_path, in_openvino.rows))
    assert grafted == pytest.approx(error(expected, _computed(alone, in_openvino)), rel=0.1)


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_alone_are_those_of_nncf(bits: int, tmp_path: Path) -> None:
    known = case("text", "openvino")
    graph = _graph(known, tmp_path)
    with silent():
        import nncf

        modes = nncf.CompressWeightsMode
        if bits == 8:
            compressed = nncf.compress_weights(graph.model.clone(), mode=modes.INT8_ASYM)
        else:
            compressed = nncf.compress_weights(
                graph.model.clone(), mode=modes.INT4_SYM, group_size=64, ratio=1.0, all_layers=True
            )
    policy = everywhere(known.layers, "int8-weights" if bits == 8 else "int4-weights")
    assert torch.equal(known.outputs(policy, tmp_path), _computed(compressed, known))


def _graph(known: Case, folder: Path) -> Graph:
    path = OpenVinoBackend().convert(known.module, known.example, folder)
    return Graph(openvino.Core().read_model(path), read_layers(path))


def _computed(model: Any, known: Case) -> torch.Tensor:
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    return torch.from_numpy(compiled([each.numpy() for each in known.example])[0])
