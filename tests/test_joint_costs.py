"""Costs and features of candidates whose layers have precisions: laws, extracted networks, and real OpenVINO files."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from hardware import cost
from hardware.openvino import OpenVinoBackend
from hardware.policy import Policy
from search_spaces import Candidate, Choice, Space, Supernet, exact_costs, kernels, quantization
from search_spaces import space as space_of
from search_spaces.inputs import Inputs, default_inputs
from search_spaces.quantization import architecture, is_precision, layer_precisions
from search_spaces.supernets.kernels import QUANTITIES
from tests.networks import randomised

NETWORKS = ("bert", "vit", "beit3", "resnet-bottleneck")
PRECISIONS = ("int4-weights", "int8", "int8-weights", "float32")
MIB = 2**20


def precisions_of(supernet: Supernet, asymmetric: bool = False) -> Space:
    return quantization.space(
        supernet, PRECISIONS, floating=("bfloat16",), embeddings=("int8-weights",), asymmetric=asymmetric
    )


def joined(supernet: Supernet, asymmetric: bool = False) -> Space:
    return supernet.space + precisions_of(supernet, asymmetric)


def candidates(space: Space, count: int) -> list[Candidate]:
    rng = np.random.default_rng(0)
    return [space.smallest(), space.full(), *(space.sample(rng) for _ in range(count))]


def bert(hidden: int, layers: int, heads: int, words: int) -> nn.Module:
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": 4 * hidden}
    return BertForSequenceClassification(BertConfig(**sizes, num_attention_heads=heads, vocab_size=words))


def made(model: nn.Module, **ranges: Any) -> tuple[Supernet, Inputs]:
    torch.manual_seed(0)
    model = randomised(model).eval()
    inputs = default_inputs(model)
    return Supernet(model, space_of(model, inputs, **ranges)), inputs


@pytest.fixture(scope="module")
def medium() -> tuple[Supernet, Inputs]:
    """Layers large enough for any precision to save something, and a large table."""
    return made(bert(128, 3, 4, 1000), depth=(1, 2), heads=(1, 2, 3), ffn=(0.25, 0.5))


def alone(supernet: Supernet, candidate: Candidate) -> tuple[Supernet, Space, Candidate]:
    """The extracted network of a candidate, with the candidate's precisions in the space of its own."""
    network = Supernet(supernet.extract(architecture(candidate)), Space(()))
    space = precisions_of(network, any(name.startswith("weights.") for name in candidate))
    names = quantization.choices_of(network.model)
    values = {names[path]: option for path, option in layer_precisions(supernet, candidate).items()}
    zeros = {f"weights.{path}": "asymmetric" for path in quantization.asymmetric_of(supernet, candidate)}
    rest = {choice.name: "symmetric" for choice in space.choices if choice.name.startswith("weights.")}
    return network, space, space.candidate({**rest, **values, **zeros, "floating": candidate["floating"]})


@pytest.mark.parametrize("name", NETWORKS)
def test_costs_are_those_of_the_extracted_network(name: str) -> None:
    supernet, inputs = zoo.made(name)
    space = joined(supernet, name in zoo.CONVOLUTIONAL)
    costs = exact_costs(supernet, inputs, space)
    for candidate in candidates(space, 3):
        found = {cost_name: function(space.encode([candidate]))[0] for cost_name, function in costs.items()}
        counted = cost(supernet.extract(candidate), inputs)
        assert found["macs"] == pytest.approx(counted.macs, rel=1e-12)
        assert found["parameters"] == counted.parameters
        network, own, policy = alone(supernet, candidate)
        size = exact_costs(network, inputs, own)["size_mib"](own.encode([policy]))[0]
        assert found["size_mib"] == pytest.approx(size, rel=1e-12)


def test_costs_are_those_of_the_extracted_network_where_precisions_save(medium: tuple[Supernet, Inputs]) -> None:
    supernet, inputs = medium
    space = joined(supernet)
    size_mib, sizes = exact_costs(supernet, inputs, space)["size_mib"], []
    for candidate in candidates(space, 6):
        network, own, policy = alone(supernet, candidate)
        size = exact_costs(network, inputs, own)["size_mib"](own.encode([policy]))[0]
        sizes.append(size_mib(space.encode([candidate]))[0])
        assert sizes[-1] == pytest.approx(size, rel=1e-12)
    assert len(set(sizes)) == len(sizes)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_space_without_precisions_has_the_figures_of_the_weights(name: str) -> None:
    supernet, inputs = zoo.made(name)
    rows = supernet.space.random(20, np.random.default_rng(0))
    plain, given = exact_costs(supernet, inputs), exact_costs(supernet, inputs, supernet.space)
    for cost_name, function in plain.items():
        assert np.array_equal(function(rows), given[cost_name](rows))
    assert plain["size_mib"](rows) == pytest.approx(4 * plain["parameters"](rows) / MIB)


def test_the_size_never_grows_when_the_precision_of_a_layer_falls(medium: tuple[Supernet, Inputs]) -> None:
    for supernet, inputs in (medium, *(zoo.made(name) for name in (*NETWORKS, "mobilenet"))):
        space = joined(supernet)
        size_mib = exact_costs(supernet, inputs, space)["size_mib"]
        rows = space.random(100, np.random.default_rng(0))
        before = size_mib(rows)
        for column, choice in enumerate(space.choices):
            if is_precision(choice.name):
                fallen = rows.copy()
                fallen[:, column] = np.maximum(fallen[:, column] - 1, 0)
                assert (size_mib(fallen) <= before).all(), choice.name


def test_in_float32_the_file_is_its_weights_and_a_graph_that_grows_with_the_blocks(
    medium: tuple[Supernet, Inputs],
) -> None:
    supernet, inputs = medium
    space = joined(supernet)
    whole, rows = space.encode([space.full()])[0], space.random(50, np.random.default_rng(0))
    precisions = [column for column, choice in enumerate(space.choices) if is_precision(choice.name)]
    rows[:, precisions] = whole[precisions]
    costs = exact_costs(supernet, inputs, space)
    graph = costs["size_mib"](rows) - 4 * costs["parameters"](rows) / MIB
    depth = rows[:, [choice.name for choice in space.choices].index("depth")]
    by_depth = [np.unique(graph[depth == option].round(9)) for option in range(3)]
    assert [len(values) for values in by_depth] == [1, 1, 1]
    assert 0.01 < by_depth[0][0] < by_depth[1][0] < by_depth[2][0] < 0.2


@pytest.mark.parametrize("name", NETWORKS)
def test_precisions_of_dropped_blocks_cost_nothing(name: str) -> None:
    supernet, inputs = zoo.made(name)
    space = joined(supernet)
    rows = np.random.default_rng(0).integers(0, space.option_counts, size=(50, len(space.choices)))
    canonical = space.canonical(rows)
    assert not np.array_equal(rows, canonical)
    for function in (*exact_costs(supernet, inputs, space).values(), kernels(supernet, inputs, space).of):
        assert np.array_equal(function(rows), function(canonical))


class Single(nn.Module):
    def __init__(self, layer: nn.Module, inputs: torch.Tensor) -> None:
        super().__init__()
        self.layer, self.inputs = layer, (inputs,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layer(x)
        return found


def saved(layer: nn.Module, inputs: torch.Tensor) -> dict[str, float]:
    """Bytes that each precision saves of a network of one layer."""
    network = Supernet(Single(layer, inputs), Space(()))
    space = precisions_of(network, isinstance(layer, nn.Conv2d))
    size_mib, full = exact_costs(network, (inputs,), space)["size_mib"], space.full()
    name = next(choice.name for choice in space.choices)
    more = {choice.name: "symmetric" for choice in space.choices if choice.name.startswith("weights.")}
    named = {option: {**full, **more, name: option} for option in space[name].options}
    if more:
        named["asymmetric"] = {**named["int8"], "weights.layer": "asymmetric"}
    values = [space.candidate(each) for each in named.values()]
    sizes = size_mib(space.encode(values)) * MIB
    return dict(zip(named, size_mib(space.encode([full]))[0] * MIB - sizes, strict=True))


def test_what_is_kept_of_a_layer_by_its_format() -> None:
    # A scale in 32 bits for each output channel of `int8`, or in 16 bits with a zero point: 3.5 bytes in the mean. The
    # factors that smooth the inputs of a linear layer: 2 bytes in the mean.
    linear = saved(nn.Linear(256, 300), torch.randn(2, 256))
    weights = 256 * 300
    assert linear["int8"] == pytest.approx(3 * weights - 3.5 * 300 - 2 * 256 - 2800)
    assert linear["int8-weights"] == linear["int8"] and linear["float32"] == 0
    assert linear["int4-weights"] == pytest.approx(3.5 * weights - 2 * weights / 64 - 2600)
    # Rows that are no multiple of 64 have one scale.
    odd = saved(nn.Linear(200, 300), torch.randn(2, 200))
    assert odd["int4-weights"] == pytest.approx(3.5 * 200 * 300 - 2 * 300 - 2600)
    convolution = saved(nn.Conv2d(32, 48, 3), torch.randn(2, 32, 8, 8))
    assert convolution["int8"] == pytest.approx(3 * 32 * 48 * 9 - 3.5 * 48 - 2900)
    assert convolution["asymmetric"] == pytest.approx(convolution["int8"] - 4 * 48 - 1000)
    assert convolution["int4-weights"] == pytest.approx(3.5 * 32 * 48 * 9 - 2 * 48 - 1800)
    across = saved(nn.ConvTranspose2d(32, 48, 3), torch.randn(2, 32, 8, 8))
    assert across["int8"] == pytest.approx(convolution["int8"])
    tiny = saved(nn.Linear(8, 4), torch.randn(2, 8))
    assert set(tiny.values()) == {0.0}, "the description takes more than the weights give"


def test_precisions_of_another_network_are_refused() -> None:
    supernet, inputs = zoo.made("bert")
    for name, options, message in (
        ("precision.nothing", ("int8", "float32"), "precisions of layers of the super-network, got precision.nothing"),
        (
            "precision.classifier",
            ("int7", "float32"),
            "precision.classifier must be some of int4-weights, .*, got 'int7'",
        ),
        ("floating", ("float16", "float32"), "floating must be some of bfloat16, float32, got 'float16'"),
        ("colour", ("red", "blue"), "choices of the super-network only, got colour"),
    ):
        wrong = supernet.space + Space((Choice(name, options),))
        for function in (exact_costs, kernels):
            with pytest.raises(ValueError, match=message):
                function(supernet, inputs, wrong)


@pytest.mark.parametrize("name", NETWORKS)
def test_sums_over_operators_are_those_of_the_extracted_network(name: str) -> None:
    supernet, inputs = zoo.made(name)
    space = joined(supernet)
    found = kernels(supernet, inputs, space)
    for candidate in candidates(space, 3):
        ours = dict(zip(found.names, found.of(space.encode([candidate]))[0], strict=True))
        network, own, policy = alone(supernet, candidate)
        features = kernels(network, inputs, own)
        theirs = dict(zip(features.names, features.of(own.encode([policy]))[0], strict=True))
        assert {key: value for key, value in ours.items() if value} == pytest.approx(
            {key: value for key, value in theirs.items() if value}
        )


@pytest.mark.parametrize("name", (*NETWORKS, "mobilenet"))
def test_sums_by_precision_add_up_and_count_the_layers_in_each(name: str) -> None:
    supernet, inputs = zoo.made(name)
    space, plain = joined(supernet), kernels(supernet, inputs)
    found = kernels(supernet, inputs, space)
    rows = space.random(20, np.random.default_rng(0))
    values = found.of(rows)
    totals: Counter[str] = Counter()
    for feature, column in zip(found.names, values.T, strict=True):
        totals[feature.rpartition(" ")[0]] = totals[feature.rpartition(" ")[0]] + column
    of_rows = plain.of(supernet.space.encode(space.decode(rows)))
    assert set(totals) == set(plain.names)
    for feature, column in zip(plain.names, of_rows.T, strict=True):
        assert totals[feature] == pytest.approx(column)
    for candidate, row in zip(space.decode(rows), values, strict=True):
        floating, network = candidate["floating"], supernet.extract(candidate)
        expected = Counter(
            floating if option == "float32" else option
            for path, option in layer_precisions(supernet, candidate).items()
            if not isinstance(network.get_submodule(path), nn.Embedding)
        )
        counted: Counter[object] = Counter()
        for feature, value in zip(found.names, row, strict=True):
            quantity, kind, precision = feature.split(" ")[0], feature.split(" ")[1], feature.split(" ")[-1]
            if quantity == "operators" and kind != "attention":
                counted[precision] += round(value)
            elif kind == "attention":
                assert value == 0 or precision == floating
        assert +counted == +expected


def test_features_are_named_by_what_can_occur() -> None:
    supernet, inputs = zoo.made("vit")
    assert kernels(supernet, inputs, supernet.space).names == kernels(supernet, inputs).names
    space = supernet.space + quantization.space(supernet)
    names = kernels(supernet, inputs, space).names
    assert {name.partition(" ")[2] for name in names if "linear" in name} == {"linear int8", "linear float32"}
    assert {name.partition(" ")[2] for name in names if "attention" in name} == {"attention float32"}
    assert len(names) % len(QUANTITIES) == 0 and len(set(names)) == len(names)
    kept = supernet.space + quantization.space(supernet, keep_float=["*.projection"], floating=["bfloat16"])
    convolutions = {name.rpartition(" ")[2] for name in kernels(supernet, inputs, kept).names if "convolution" in name}
    assert convolutions == {"bfloat16", "float32"}


def check_files(supernet: Supernet, inputs: Mapping[str, torch.Tensor], folder: Path, count: int) -> None:
    """Compare sizes of candidates with those of their files: all layers in one precision, and random ones."""
    space = joined(supernet)
    size_mib, full = exact_costs(supernet, inputs, space)["size_mib"], space.full()
    backend, rows = OpenVinoBackend(), [{name: value[:1] for name, value in inputs.items()}]
    chosen = [
        space.candidate({**full, **{c.name: p for c in space.choices if p in c.options and c.name != "floating"}})
        for p in PRECISIONS
    ]
    rng = np.random.default_rng(0)
    whole = supernet.extract(architecture(full))
    for candidate in [*chosen, *(space.sample(rng) for _ in range(count))]:
        layers: Any = layer_precisions(supernet, candidate)
        # The backend reads and calibrates a network once for all policies of it.
        module = whole if candidate in chosen else supernet.extract(candidate)
        backend.convert(module, inputs, folder, precision=Policy(layers), calibration=rows)
        written = sum((folder / name).stat().st_size for name in ("model.xml", "model.bin"))
        assert size_mib(space.encode([candidate]))[0] * MIB == pytest.approx(written, rel=0.02), candidate


def test_sizes_are_those_of_openvino_files(tmp_path: Path) -> None:
    supernet, inputs = made(bert(192, 2, 3, 1000), depth=(1,), heads=(1, 2), ffn=(0.25, 0.5))
    check_files(supernet, dict(inputs), tmp_path, 1)


_LARGE: dict[str, Callable[[], tuple[Supernet, Inputs]]] = {
    "minilm": lambda: made(bert(384, 6, 12, 30522), depth=(3, 5), heads=(4, 8), ffn=(0.25, 0.5)),
    "vit": lambda: made(
        ViTForImageClassification(
            ViTConfig(hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768)
        ),
        depth=(6, 9),
        heads=(2,),
        ffn=(0.5,),
    ),
    "resnet": lambda: made(
        ResNetForImageClassification(
            ResNetConfig(layer_type="basic", hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2])
        ),
        depth=(0.5,),
        channels=(0.5,),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", _LARGE)
def test_sizes_are_those_of_the_files_of_usual_networks(name: str, tmp_path: Path) -> None:
    supernet, inputs = _LARGE[name]()
    check_files(supernet, dict(inputs), tmp_path, 3)
