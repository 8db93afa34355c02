"""What the runtimes do around policies: which files they take, what they remember, and which layers they find."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from hardware import Backend, ConversionError, OnnxRuntimeBackend, OpenVinoBackend, PyTorchBackend, Resizer
from hardware.backend import Runner
from hardware.onnx import convert
from hardware.onnx_layers import read_layers
from hardware.policy import Policy
from search_spaces.inputs import Inputs
from search_spaces.quantization import quantizable_layers
from tests.by_layer import Case, Text, case, case_of, error, everywhere, size
from tests.zoo import CASES, example_inputs, made

EXAMPLE = (torch.randint(0, 200, (4, 12), generator=torch.Generator().manual_seed(0)),)


@pytest.mark.parametrize("make", [OpenVinoBackend, OnnxRuntimeBackend])
def test_files_of_other_precisions_are_refused(make: type[Backend], tmp_path: Path) -> None:
    run_in, module = make(), nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    example = (torch.randn(4, 8),)
    path = run_in.convert(module, example, tmp_path, precision=Policy({"0": "int8-weights"}))
    for precision, name in ((torch.float32, "float32"), (torch.int8, "int8")):
        with pytest.raises(ValueError, match=f"must have the precision {name}, .* has by-layer; convert the module in"):
            run_in.load(path, precision=precision)
    path = run_in.convert(module, example, tmp_path)
    with pytest.raises(ValueError, match=r"must have the precision by-layer, .* has float32; convert the module in"):
        run_in.load(path, precision=Policy())
    path = run_in.convert(module, example, tmp_path, precision=torch.int8)
    with pytest.raises(ValueError, match=r"must have the precision by-layer, .* has int8; convert the module in"):
        run_in.load(path, precision=Policy())


def test_the_names_of_the_files(tmp_path: Path) -> None:
    module, example = nn.Linear(8, 3).eval(), (torch.randn(4, 8),)
    for policy in (Policy(), Policy({"": "int8"})):
        assert OnnxRuntimeBackend().convert(module, example, tmp_path, precision=policy).name == "model-by-layer.onnx"
        assert OpenVinoBackend().convert(module, example, tmp_path, precision=policy).name == "model.xml"
    assert {each.name for each in tmp_path.iterdir()} == {"model-by-layer.onnx", "model.xml", "model.bin"}


def test_the_rest_in_bfloat16(tmp_path: Path) -> None:
    known = case("text", "openvino")
    expected, policy = known.expected(), everywhere(known.products, "int8-weights")
    rounded = Policy(policy.layers, "bfloat16")
    assert error(known.outputs(policy, tmp_path), expected) < 0.005
    path = known.convert(rounded, tmp_path)
    with pytest.raises(ValueError, match="PyTorch alone has one precision for all layers; use openvino or onnxruntime"):
        PyTorchBackend().convert(known.module, known.example, tmp_path, precision=rounded)
    with pytest.raises(ValueError, match="must be in float32 in ONNX Runtime, got bfloat16"):
        OnnxRuntimeBackend().convert(known.module, known.example, tmp_path, precision=rounded)
    try:
        run = known.run_in.load(path, precision=rounded)
    except ValueError as refused:
        assert "does not compute in bfloat16" in str(refused)
    else:
        assert 0 < error(expected, run(*known.example)) < 0.01


def test_asymmetric_weights(tmp_path: Path) -> None:
    for network in ("text", "images"):
        known = case(network, "onnxruntime")
        some = frozenset(known.products[::2])
        policy = Policy(dict.fromkeys(known.products, "int8"), asymmetric=some)
        expected = known.expected()
        mixed = known.outputs(policy, tmp_path, known.rows)
        assert error(expected, mixed) < 0.02
        assert not torch.equal(mixed, known.outputs(everywhere(known.products, "int8"), tmp_path, known.rows))
        with pytest.raises(ValueError, match=r"zero point in float32, so \w+ must have symmetric ones; leave"):
            OpenVinoBackend().convert(known.module, known.example, tmp_path, precision=policy)


def test_the_last_network_is_remembered(tmp_path: Path) -> None:
    known = case("images", "openvino")
    policy = everywhere(known.products, "int8")
    before = known.outputs(policy, tmp_path, known.rows)
    assert torch.equal(known.outputs(policy, tmp_path, known.rows), before)
    assert len(known.written) == 1
    other_rows = known.outputs(policy, tmp_path, known.rows[:2])
    assert len(known.written) == 1 and not torch.equal(other_rows, before)
    with torch.no_grad():
        known.module.get_parameter("head.weight").mul_(2)
    changed = known.outputs(policy, tmp_path, known.rows)
    assert len(known.written) == 2 and not torch.equal(changed, before)
    other = case("images", "openvino")
    known.run_in.convert(other.module, known.example, tmp_path, precision=policy)
    assert len(known.written) == 3, "equal numbers in another object are another network"


@pytest.mark.parametrize("run_in", [OpenVinoBackend, OnnxRuntimeBackend])
@pytest.mark.parametrize("name", ["bert", "hf-resnet"])
def test_networks_that_are_written_from_a_template(name: str, run_in: type[Backend], tmp_path: Path) -> None:
    supernet, inputs = made(name)
    resizer = Resizer()
    space, whole = supernet.space, supernet.space.largest()
    # All blocks of the least sizes, since other blocks would be another structure.
    least = {choice.name: choice.options[0] for choice in space.choices}
    least |= {name: whole[name] for name in least if name.startswith("depth")}
    for candidate in (whole, space.candidate(least)):
        module = supernet.extract(candidate).eval()
        known = Case(module, inputs, run_in(write=resizer), [])  # type: ignore[call-arg]
        plain = size(known.convert(Policy(), tmp_path))
        small = size(known.convert(everywhere(known.products, "int8-weights"), tmp_path))
        assert error(known.expected(), known.outputs(everywhere(known.layers, "int8-weights"), tmp_path)) < 0.01
        assert small < plain
    assert resizer.exported == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["bert-eager", "deberta", "albert", "gpt2", "swin", "beit3-vqa", "clip", "efficientnet", "regnet"]
)
def test_every_layer_that_can_be_searched_is_found(name: str, tmp_path: Path) -> None:
    module = CASES[name].build().eval()
    known = case_of(module, example_inputs(module), "onnxruntime")
    layers = read_layers(known.convert(Policy(), tmp_path))
    called = {path for path, _ in quantizable_layers(module) if path in layers.called}
    assert called and called <= set(layers.weights.values())
    # Tables at fixed positions are constants of the graph, and stay as they are.
    assert error(known.expected(), known.outputs(everywhere(known.layers, "int8-weights"), tmp_path)) < 0.02
    assert error(known.expected(), known.outputs(everywhere(known.products, "int8"), tmp_path, known.rows)) < 0.05


def test_four_bits_need_new_operators_in_onnx_runtime(tmp_path: Path) -> None:
    def write(module: nn.Module, inputs: Inputs, path: Path, *, load: object, opsets: Sequence[int] = ()) -> Path:
        def loaded(file: Path) -> Runner:
            return OnnxRuntimeBackend().load(file)

        return convert(module, inputs, path, load=loaded, opsets=(18,))

    run_in = OnnxRuntimeBackend(write=write)
    module = Text().eval()
    assert run_in.convert(module, EXAMPLE, tmp_path, precision=Policy({"up": "int8-weights"})).is_file()
    with pytest.raises(ConversionError, match=r"4 bits need operators of ONNX 21 or later, .* use int8-weights"):
        run_in.convert(module, EXAMPLE, tmp_path, precision=Policy({"up": "int4-weights"}))
