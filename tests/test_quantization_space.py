"""The space of precisions: which layers have one, when it is active, and where it is found in the extracted network."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import zoo
from torch import Tensor, nn

from search_spaces import BlockCut, Candidate, Choice, Space, Supernet, quantization
from search_spaces.quantization import (
    architecture,
    asymmetric_of,
    floating_of,
    is_precision,
    layer_precisions,
    quantizable_layers,
)
from search_spaces.supernets.blocks import Blocks, Droppable
from search_spaces.translation import translation

NETWORKS = ("bert", "vit", "beit3", "resnet-bottleneck", "cifar-resnet", "swin")
LAYERS = (nn.Linear, nn.Conv2d)


def joined(name: str) -> tuple[Supernet, Space]:
    supernet, _ = zoo.made(name)
    more = quantization.space(
        supernet, ("float32", "int8", "int8-weights"), floating=("bfloat16",), asymmetric=name in zoo.CONVOLUTIONAL
    )
    return supernet, supernet.space + more


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_has_a_choice_in_the_order_of_the_network(name: str) -> None:
    supernet, space = joined(name)
    paths = [path for path, part in supernet.model.named_modules() if isinstance(part, LAYERS)]
    choices = [choice for choice in space.choices if choice.name.startswith("precision.")]
    assert [choice.name for choice in choices] == [f"precision.{path}" for path in paths]
    assert {choice.options for choice in choices} == {("int8", "int8-weights", "float32")}
    assert all(choice.ordered and not choice.cuts for choice in choices)
    assert space["floating"].options == ("bfloat16", "float32") and space["floating"].active_if is None
    convolutions = [path for path in paths if isinstance(supernet.model.get_submodule(path), nn.Conv2d)]
    symmetries = [f"weights.{path}" for path in convolutions] if name in zoo.CONVOLUTIONAL else []
    assert [choice.name for choice in space.choices if choice.name.startswith("weights.")] == symmetries
    for path in convolutions:
        if symmetries:
            assert space[f"weights.{path}"].active_if == (f"precision.{path}", ("int8",))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_full_candidate_is_the_network_as_it_is(name: str) -> None:
    supernet, space = joined(name)
    full = space.full()
    assert set(layer_precisions(supernet, full).values()) == {"float32"} and floating_of(full) == "float32"
    assert asymmetric_of(supernet, full) == frozenset()
    assert architecture(full) == supernet.space.full() and architecture(space) == supernet.space
    assert Space.from_json(space.to_json()) == space
    assert [choice.name for choice in space.choices if not is_precision(choice.name)] == [
        choice.name for choice in supernet.space.choices
    ]


def depths_of(supernet: Supernet) -> list[Choice]:
    return [choice for choice in supernet.space.choices if any(isinstance(cut, BlockCut) for cut in choice.cuts)]


@pytest.mark.parametrize("name", ("bert", "vit", "beit3", "cifar-resnet"))
def test_candidates_are_counted_by_the_layers_of_each_depth(name: str) -> None:
    supernet, _ = zoo.made(name)
    space = supernet.space + quantization.space(supernet)
    depths, full, total = depths_of(supernet), supernet.space.full(), 0
    for index in np.ndindex(*(len(choice.options) for choice in depths)):
        options = {choice.name: choice.options[at] for choice, at in zip(depths, index, strict=True)}
        whole = {choice.name: choice.options[-1] for choice in supernet.space.choices}
        candidate = supernet.space.candidate({**whole, **options})
        layers = sum(isinstance(part, LAYERS) for part in supernet.extract(candidate).modules())
        widths = [len(supernet.space[name].options) for name in full if name not in options and candidate[name]]
        total += math.prod(widths) * 2**layers
    assert space.size() == total


@pytest.mark.parametrize("name", NETWORKS)
def test_precisions_are_found_by_their_paths_in_the_extracted_network(name: str) -> None:
    original, space = joined(name)
    supernet = Supernet(copy.deepcopy(original.model), original.space)
    paths = [path for path, _ in quantizable_layers(supernet.model)]
    # Every layer is marked by its number, so that it is recognised wherever it comes to stand.
    with torch.no_grad():
        for number, path in enumerate(paths):
            supernet.model.get_submodule(path).get_parameter("weight").fill_(number)
    rng = np.random.default_rng(0)
    for candidate in [space.smallest(), *(space.sample(rng) for _ in range(5))]:
        found, zeros = layer_precisions(supernet, candidate), asymmetric_of(supernet, candidate)
        layers = dict(quantizable_layers(supernet.extract(candidate)))
        assert list(found) == list(layers)
        for path, layer in layers.items():
            old = paths[int(layer.get_parameter("weight").flatten()[0])]
            assert found[path] == candidate[f"precision.{old}"]
            assert (path in zeros) == (candidate.get(f"weights.{old}") == "asymmetric")
        assert floating_of(candidate) == candidate["floating"]
        kept = sum(candidate[f"precision.{path}"] is not None for path in paths)
        assert kept == len(layers), "layers of dropped blocks have no precision"


@pytest.mark.parametrize("name", NETWORKS)
def test_precisions_of_dropped_blocks_do_not_matter(name: str) -> None:
    _, space = joined(name)
    rng = np.random.default_rng(0)
    rows = rng.integers(0, space.option_counts, size=(50, len(space.choices)))
    precisions = [column for column, choice in enumerate(space.choices) if is_precision(choice.name)]
    others = rows.copy()
    others[:, precisions] = rng.integers(0, space.option_counts[precisions], size=(50, len(precisions)))
    # Where a choice is active it keeps its option; parents stand before their children.
    for column in precisions:
        active = space.active(others)[:, column]
        others[active, column] = rows[active, column]
    assert not np.array_equal(rows, others), "some choice is inactive"
    assert np.array_equal(space.canonical(rows), space.canonical(others))
    assert np.array_equal(space.features(rows), space.features(others))
    assert space.decode(rows) == space.decode(others)


class Tables(nn.Module):
    """Tables of embeddings, of which one is small and one is tied, and layers, of which two share their weight."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.types, self.tied = nn.Embedding(1024, 64), nn.Embedding(10, 64), nn.Embedding(2000, 64)
        self.first, self.same, self.second = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64)
        self.same.weight = self.first.weight
        self.out = nn.Linear(64, 2000)
        self.out.weight = self.tied.weight
        self.recurrent = nn.MultiheadAttention(64, 2)

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.out(self.second(self.same(self.first(self.words(ids) + self.tied(ids)))))
        return found


def test_large_tables_share_a_choice_and_tied_weights_have_none() -> None:
    supernet = Supernet(Tables(), Space(()))
    space = quantization.space(supernet, embeddings=("float32", "int8-weights"))
    assert [choice.name for choice in space.choices] == ["precision.second", "precision.embeddings"]
    assert space["precision.embeddings"].options == ("int8-weights", "float32")
    chosen = {"precision.second": "int8", "precision.embeddings": "int8-weights"}
    assert layer_precisions(supernet, space.candidate(chosen)) == {"words": "int8-weights", "second": "int8"}
    only = quantization.space(supernet, ("float32",), embeddings=("int8-weights",))
    assert [choice.name for choice in only.choices] == ["precision.embeddings"]


def test_layers_that_stay_in_float32() -> None:
    supernet, _ = zoo.made("bert")
    space = quantization.space(supernet, keep_float=("classifier", "*.attention.*"))
    names = {choice.name for choice in space.choices}
    assert "precision.classifier" not in names and not any(".attention." in name for name in names)
    assert "precision.bert.encoder.layer.0.output.dense" in names
    full = (supernet.space + space).full()
    assert "classifier" not in layer_precisions(supernet, full)


def test_what_cannot_be_is_refused() -> None:
    supernet, _ = zoo.made("bert")
    for wrong, message in {
        "int7": "precisions must be some of int4-weights, int8, int8-weights, float32, got 'int7'",
        "int8": "precisions must be several of .*, got one word 'int8'",
    }.items():
        with pytest.raises(ValueError, match=message):
            quantization.space(supernet, wrong if wrong == "int8" else (wrong,))
    with pytest.raises(ValueError, match="floating must be some of bfloat16, float32, got 'float16'"):
        quantization.space(supernet, floating=("float16",))
    with pytest.raises(ValueError, match="embeddings must be some of int8-weights, float32, got 'int8'"):
        quantization.space(supernet, embeddings=("int8",))
    with pytest.raises(ValueError, match=r"keep_float must match .* such as bert.encoder.*, got 'head'"):
        quantization.space(supernet, keep_float=["head"])
    with pytest.raises(ValueError, match="must leave something to choose"):
        quantization.space(supernet, ("float32",))
    with pytest.raises(ValueError, match="only weights in int8 can be asymmetric"):
        quantization.space(supernet, ("int8-weights",), asymmetric=True)
    with pytest.raises(ValueError, match="Sequential has none whose precision could be chosen"):
        quantization.space(Supernet(nn.Sequential(nn.LayerNorm(4)), Space(())))


def test_a_space_of_precisions_alone_needs_that_of_the_network() -> None:
    supernet, _ = zoo.made("cifar-resnet")
    with pytest.raises(ValueError, match="join the space that has it with"):
        quantization.space(supernet).size()


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.outer = nn.ModuleList(nn.ModuleList(nn.Linear(4, 4) for _ in range(2)) for _ in range(3))


def test_the_innermost_of_nested_lists_decides_first() -> None:
    cuts = {"depth.0": BlockCut("outer", 3, (2, 1)), "depth.1": BlockCut("outer.1", 2, (1,))}
    space = Space(
        (Choice("depth.0", (1, 2, 3), cuts=(cuts["depth.0"],)), Choice("depth.1", (1, 2), cuts=(cuts["depth.1"],)))
    )
    blocks = Blocks(Nested(), space)
    assert blocks.around("outer.0.1") == () == blocks.around("other")
    assert blocks.around("outer.1.0") == (Droppable("depth.0", (2, 3)),)
    assert blocks.around("outer.1.1.weight") == (Droppable("depth.1", (2,)), Droppable("depth.0", (2, 3)))
    found = quantization.space(Supernet(Nested(), space))
    assert found["precision.outer.1.1"].active_if == ("depth.1", (2,))
    assert found["precision.outer.2.1"].active_if == ("depth.0", (3,))
    assert found["precision.outer.0.1"].active_if is None


def test_nothing_of_a_candidate_is_left_out_in_silence() -> None:
    supernet, space = joined("vit")
    rows = space.random(20, np.random.default_rng(0))
    translated = translation(space, supernet.space, without=is_precision)(rows)
    assert supernet.space.decode(translated) == [architecture(candidate) for candidate in space.decode(rows)]
    with pytest.raises(ValueError, match=r"choices of the super-network only, got precision\.vit"):
        translation(space, supernet.space)
    with pytest.raises(ValueError, match="got colour"):
        translation(space + Space((Choice("colour", ("red", "blue")),)), supernet.space, without=is_precision)
    fewer = Space(tuple(replace(c, options=c.options[1:]) if c.name == "ffn.0" else c for c in space.choices))
    rows = fewer.random(20, np.random.default_rng(0))
    assert space.decode(translation(fewer, space)(rows)) == fewer.decode(rows)


def test_candidates_without_precisions_have_none() -> None:
    supernet, _ = zoo.made("bert")
    assert layer_precisions(supernet, supernet.space.full()) == {} and floating_of(Candidate({})) == "float32"
