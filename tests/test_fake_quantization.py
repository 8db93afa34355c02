"""Fake quantization beside nncf and OpenVINO, on small networks whose outputs change by a few per cent."""

import copy
import pickle
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hardware.inputs import call
from hardware.openvino import OpenVinoBackend
from hardware.policy import Policy
from hardware.rounding import eight_bits, four_bits, grouped
from nas.networks.fake_quantization import Arithmetic, Ranges, calibrate, quantize
from nas.networks.rounding import in_4_bits, in_8_bits
from search_spaces.inputs import Inputs
from search_spaces.quantization import PRECISIONS, quantizable_layers
from tests import zoo

every = pytest.mark.parametrize("name", ["bert", "deberta", "albert", "mobilenet", "swin"])


@cache
def _network(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return zoo.CASES[name].build().eval()


def _rows(module: nn.Module, count: int, seed: int) -> list[dict[str, Tensor]]:
    """Random inputs of one row each."""
    generator = torch.Generator().manual_seed(seed)

    def one(name: str, value: Tensor) -> Tensor:
        if value.is_floating_point():
            return torch.randn(1, *value.shape[1:], generator=generator)
        if name == "attention_mask":
            return torch.ones_like(value[:1])
        return torch.randint(1, int(value.max()) + 1, (1, *value.shape[1:]), generator=generator)

    return [{name: one(name, value) for name, value in _example(module).items()} for _ in range(count)]


def _example(module: nn.Module) -> dict[str, Tensor]:
    inputs = zoo.example_inputs(module)
    assert isinstance(inputs, dict)
    return inputs


def _layers(name: str) -> list[str]:
    ran = _ranges(name).of
    return [path for path, _ in quantizable_layers(_network(name)) if path in ran]


@torch.no_grad()
def _outputs(run: Callable[..., object], rows: Sequence[Inputs]) -> Tensor:
    return torch.cat([zoo.first(call(run, row)) for row in rows])


@cache
def _ranges(name: str) -> Ranges:
    return calibrate(_network(name), _rows(_network(name), 16, seed=1))


def _error(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm())


def _plain(module: nn.Module, ranges: Ranges, policy: Policy) -> nn.Module:
    """The usual fake quantization: weights and ranges of inputs, no smoothing, no bias correction."""
    twin = copy.deepcopy(module)
    for path in policy.layers:
        layer, read = twin.get_submodule(path), ranges.reads[ranges.of[path]]
        low, high = min(0.0, float(read.low.amin(1).mean())), max(0.0, float(read.high.amax(1).mean()))
        scale, weight = (high - low) / 255, layer.weight.detach()
        zero = round(-low / scale)
        scales, zeros = weight.flatten(1).abs().amax(1) / 127, torch.zeros(len(weight), dtype=torch.int32)
        layer.weight.data = torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -127, 127)

        def rounded(_: nn.Module, args: tuple[Tensor], scale: float = scale, zero: int = zero) -> tuple[Tensor]:
            return (torch.fake_quantize_per_tensor_affine(args[0], scale, zero, 0, 255),)

        layer.register_forward_pre_hook(rounded)
    return twin


@pytest.mark.parametrize(
    "name", ["bert", "resnet-basic", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vit", "mobilenet"))]
)
def test_it_computes_what_nncf_and_openvino_compute(name: str, tmp_path: Path) -> None:
    module, backend = _network(name), OpenVinoBackend()
    calibration, rows = _rows(module, 16, seed=1), _rows(module, 24, seed=2)
    exact, paths = _outputs(module, rows), _layers(name)
    for chosen in (paths, paths[1::2]):
        policy = Policy(dict.fromkeys(chosen, "int8"))
        file = backend.convert(module, _example(module), tmp_path, precision=policy, calibration=calibration)
        theirs = _outputs(backend.load(file, precision=policy), rows)
        ours = _outputs(quantize(module, _ranges(name), policy), rows)
        plain = _outputs(_plain(module, _ranges(name), policy), rows)
        # What remains is numbers half-way between two others, whose rounding changes that of all later layers.
        assert _error(ours, theirs) < 0.2 * _error(theirs, exact)
        assert _error(plain, theirs) > 3 * _error(ours, theirs)


def test_small_weights_are_those_of_nncf() -> None:
    from hardware.quantized import silent

    with silent():
        from nncf import CompressWeightsMode
        from nncf.quantization.algorithms.weight_compression.config import WeightCompressionConfig
        from nncf.quantization.algorithms.weight_compression.weight_lowering import integer_quantize_dequantize_weight
        from nncf.tensor import Tensor as NncfTensor

        module = nn.ModuleDict(
            {"whole": nn.Linear(48, 12), "groups": nn.Linear(128, 12), "image": nn.Conv2d(6, 8, 3)}
        ).eval()
        arithmetic = Arithmetic(module, Ranges())
        for path, layer in module.items():
            weight = layer.weight.detach()
            for precision, mode, group in (
                ("int8-weights", CompressWeightsMode.INT8_ASYM, -1),
                ("int4-weights", CompressWeightsMode.INT4_SYM, 64 if path == "groups" else -1),
            ):
                config = WeightCompressionConfig(mode=mode, group_size=group)
                flat = NncfTensor(weight.flatten(1).numpy())
                theirs = torch.from_numpy(integer_quantize_dequantize_weight(flat, config, 1).data)
                found = arithmetic.layer(path, precision).weight.flatten(1)
                # Files keep the scales in 16 bits.
                assert torch.allclose(found.reshape(theirs.shape), theirs, rtol=1e-3, atol=1e-7)


def test_rows_of_embeddings_are_rounded_where_they_are_read() -> None:
    module = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 3)).eval()
    tokens = torch.arange(50).reshape(5, 10)
    found = quantize(module, None, Policy({"0": "int8-weights"}))(tokens)
    table = nn.Linear(16, 50)
    table.weight.data = module[0].weight.data
    rounded = Arithmetic(nn.ModuleDict({"table": table}), Ranges()).layer("table", "int8-weights").weight
    assert torch.allclose(found, module[1](rounded[tokens]), atol=1e-6) and not torch.equal(found, module(tokens))


@every
def test_a_policy_of_floats_changes_no_bit_and_no_policy_changes_the_module(name: str) -> None:
    module, rows = _network(name), _rows(_network(name), 2, seed=3)
    before, state = _outputs(module, rows), copy.deepcopy(module.state_dict())
    hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()]
    paths = _layers(name)
    assert torch.equal(_outputs(quantize(module, None, Policy(dict.fromkeys(paths, "float32"))), rows), before)
    mixed = Policy({path: PRECISIONS[i % 4] for i, path in enumerate(paths)})
    assert not torch.equal(_outputs(quantize(module, calibrate(module, rows), mixed), rows), before)
    assert torch.equal(_outputs(module, rows), before)
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert hooks == [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()]


@every
def test_batches_give_the_ranges_of_their_rows_one_by_one(name: str) -> None:
    module = _network(name)
    rows = _rows(module, 6, seed=4)
    if "attention_mask" in rows[0]:
        rows = [{key: value[:, : 5 + i] for key, value in row.items()} for i, row in enumerate(rows)]
    single, together = calibrate(module, rows), calibrate(module, [_padded(rows[:3]), _padded(rows[3:])])
    assert single.of == together.of and single.attention == together.attention
    assert (single.norms, single.first, single.repeated) == (together.norms, together.first, together.repeated)
    for one, other in zip(single.reads, together.reads, strict=True):
        assert torch.allclose(one.low, other.low, atol=1e-4) and torch.allclose(one.high, other.high, atol=1e-4)
        assert torch.allclose(one.mean, other.mean, atol=1e-4)
    assert all(torch.allclose(single.outputs[path], together.outputs[path], atol=1e-4) for path in single.outputs)


def _padded(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The rows in one batch; texts are filled up with a token that would show in the ranges."""
    if "attention_mask" not in rows[0]:
        return {key: torch.cat([row[key] for row in rows]) for key in rows[0]}
    length = max(row["attention_mask"].shape[1] for row in rows)

    def filled(key: str, value: Tensor) -> Tensor:
        return nn.functional.pad(value, (0, length - value.shape[1]), value=0 if key == "attention_mask" else 7)

    return {key: torch.cat([filled(key, row[key]) for row in rows]) for key in rows[0]}


def test_what_is_told_of_a_network() -> None:
    bert, resnet = _ranges("bert"), _ranges("resnet-basic")
    query = next(path for path in bert.of if path.endswith("0.attention.self.query"))
    assert [path.rpartition(".")[2] for path in bert.readers(query)] == ["query", "key", "value"]
    assert bert.attention and not bert.norms and not bert.first
    assert not resnet.attention and resnet.first == {"conv1"} and resnet.norms["layer1.0.conv1"] == "layer1.0.bn1"
    assert resnet.of["layer2.0.conv1"] == resnet.of["layer2.0.downsample.0"] != resnet.of["layer2.0.conv2"]
    assert _ranges("albert").repeated


class _Twice(nn.Module):
    """A tensor that is changed in place between the two layers that read it."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.keyword = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 1
        return self.left(x) + self.right(x.relu_()) + self.keyword(input=x)


def test_layers_that_read_one_tensor_share_its_rounding_until_it_changes() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module, rows = _Twice().eval(), [(torch.randn(1, 6, 8),) for _ in range(12)]
    ranges = calibrate(module, rows)
    assert ranges.of["left"] != ranges.of["right"] == ranges.of["keyword"]
    network = quantize(module, ranges, Policy(dict.fromkeys(ranges.of, "int8")))
    assert _error(_outputs(network, rows), exact := _outputs(module, rows)) < 0.1 * float(exact.norm())


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ({"nothing": "int8-weights"}, "nothing is none of them"),
        ({"1": "int8-weights"}, "1 is none of them"),
        ({"0": "int8"}, "need the ranges of their inputs"),
        ({"2": "int4-weights"}, "embedding 2 must be in int8-weights"),
    ],
)
def test_what_cannot_be_quantized_is_refused(policy: dict[str, Any], told: str) -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Embedding(3, 4))
    with pytest.raises(ValueError, match=told):
        quantize(module, None, Policy(policy))


def test_no_ranges_of_nothing_and_of_what_is_not_finite() -> None:
    module = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="at least one row"):
        calibrate(module, [])
    with pytest.raises(ValueError, match="the layer 0 reads values that are not finite"):
        calibrate(module, [(torch.full((1, 4), torch.nan),)])


def test_ranges_are_small_and_can_be_sent() -> None:
    ranges = _ranges("bert")
    sent = pickle.loads(pickle.dumps(ranges))
    assert torch.equal(sent.reads[0].low, ranges.reads[0].low) and sent.of == ranges.of


@pytest.mark.slow
def test_it_costs_little_more_than_the_network() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = nn.Sequential(
            *(nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256)) for _ in range(4))
        )
    rows = [(torch.randn(16, 24, 256),) for _ in range(25)]

    def cost(run: Callable[[], object]) -> float:
        times = []
        for _ in range(3):
            start = time.process_time()
            run()
            times.append(time.process_time() - start)
        return min(times)

    def quantized() -> Tensor:
        ranges = calibrate(module, [(value[:8],) for (value,) in rows[:4]])
        return _outputs(quantize(module, ranges, Policy(dict.fromkeys(ranges.of, "int8"))), rows)

    assert cost(quantized) < 1.5 * cost(lambda: _outputs(module, rows))


@pytest.mark.parametrize("shape", [(7, 128), (5, 100), (6, 3, 3, 3)])
def test_kept_weights_are_those_that_files_hold(shape: tuple[int, ...]) -> None:
    """The search rounds in PyTorch, in place and on any device; files are written with NumPy: both to the same bits."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    inside = tuple(range(1, len(shape)))
    levels, scale, zero = eight_bits(weight.numpy(), inside)
    held = (levels.astype(np.float32) - zero) * scale.astype(np.float16).astype(np.float32)
    assert torch.equal(in_8_bits(weight, 0), torch.from_numpy(held))
    parts, within = grouped(weight.numpy(), 1) if len(shape) == 2 else (weight.numpy(), inside)
    levels, scale = four_bits(parts, within)
    held = (levels * scale.astype(np.float16).astype(np.float32)).reshape(shape)
    assert torch.equal(in_4_bits(weight, 0), torch.from_numpy(held))
