"""Laws of layer graphs: canonical forms, files, mutation, fingerprints, and the module against a plain interpreter."""

import copy
import itertools
import json
import pickle
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from hardware.onnx import export
from search_spaces.graphs import PUBLISHED, GraphLayer, LayerGraph, Node, fingerprint, mutate, published, random_graph
from search_spaces.graphs.operations import INDEX_SETS, MOMENTS, PRIMITIVES, Series

CHANNELS, GROUPS, EPS = 6, 2, 1e-12
X, ZERO, V0, V1 = range(4)


def graph(*nodes: str) -> LayerGraph:
    """A graph from lines such as "add 0 4" or "std.batch 0"; the first line is node 4."""
    parts = [line.split() for line in nodes]
    return LayerGraph(
        tuple(
            Node(op.partition(".")[0], tuple(map(int, inputs)), op.partition(".")[2] or None) for op, *inputs in parts
        )
    )


def graphs(count: int, series: Series = "batch") -> list[LayerGraph]:
    rng = np.random.default_rng(0)
    return [random_graph(rng, series) for _ in range(count)]


def plainly(layer: LayerGraph, x: Tensor, v0: Tensor, v1: Tensor) -> Tensor:
    """The graph node by node, dead ones included, each of the shape of x: the definition while training."""
    size = (1, CHANNELS, 1, 1)
    values = [x, torch.zeros_like(x), v0.view(size).expand_as(x), v1.view(size).expand_as(x)]
    for node in layer.nodes:
        a, b = values[node.inputs[0]], values[node.inputs[-1]]
        values.append(moment(a, node.op, str(node.over)) if node.op in MOMENTS else elementwise(node.op, a, b))
    return values[-1]


def elementwise(op: str, a: Tensor, b: Tensor) -> Tensor:
    small = EPS**2
    match op:
        case "add":
            return a + b
        case "mul":
            return a * b
        case "div":
            return a * (b / (b**2 + small))
        case "max":
            return torch.maximum(a, b)
        case "neg":
            return -a
        case "square":
            return a**2
        case "log":
            return torch.sign(a) * torch.log(a**2 + small) / 2
        case "sqrt":
            return a / torch.sqrt(torch.abs(a) + small)
        case _:
            result: Tensor = getattr(torch, op)(a)
            return result


def moment(a: Tensor, op: str, over: str) -> Tensor:
    shape = a.shape
    grouped = a.reshape(len(a), GROUPS, -1, *shape[2:])
    axes = {"batch": (0, 3, 4), "layer": (1, 2, 3, 4), "instance": (3, 4), "group": (2, 3, 4)}[over]
    mean = grouped.mean(axes, keepdim=True)
    if op != "mean":
        mean = torch.sqrt(((grouped - (mean if op == "std" else 0)) ** 2).mean(axes, keepdim=True) + EPS)
    return mean.expand_as(grouped).reshape(shape)


def inputs(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(4, CHANNELS, 3, 2, generator=generator, dtype=torch.float64) + 0.3
    v0, v1 = torch.randn(2, CHANNELS, generator=generator, dtype=torch.float64)
    return x, v0, v1


def module(layer: LayerGraph, v0: Tensor, v1: Tensor, **settings: int) -> GraphLayer:
    made = GraphLayer(layer, CHANNELS, GROUPS, affine=False, eps=EPS, **settings).double()
    with torch.no_grad():
        for own, value in ((made.v0, v0), (made.v1, v1)):
            if own is not None:
                own.copy_(value)
    return made


def with_gradient(function: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    output = function(x)
    weights = torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view(x.shape)
    gradient = torch.autograd.grad((output * weights).sum() + 0 * x.sum(), x)[0]
    return output.detach(), gradient


class Plain(nn.Module):
    def __init__(self, layer: LayerGraph, v0: Tensor, v1: Tensor) -> None:
        super().__init__()
        self.call = lambda x: plainly(layer, x, v0, v1)

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


def close(first: tuple[Tensor, ...], second: tuple[Tensor, ...], tolerance: float) -> bool:
    """Whether all elements are equal within a tolerance, relative or absolute; NaN is like NaN."""
    return all(
        torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True) for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("series", ["batch", "sample"])
def test_modules_compute_what_the_nodes_say(series: Series) -> None:
    """Output and gradient, over random graphs; left out are those that amplify a change of 1e-13 of the input."""
    generator = torch.Generator().manual_seed(0)
    x, v0, v1 = inputs(generator)
    kept = 0
    for layer in graphs(250, series):
        expected = with_gradient(Plain(layer, v0, v1), x)
        if close(with_gradient(Plain(layer, v0, v1), x * (1 + 1e-13)), expected, 1e-7):
            kept += 1
            assert close(with_gradient(module(layer, v0, v1), x), expected, 1e-6), layer.formula()
    assert kept > 200


@pytest.mark.parametrize("series", ["batch", "sample"])
def test_canonical_forms(series: Series) -> None:
    generator = torch.Generator().manual_seed(0)
    x, v0, v1 = inputs(generator)
    for layer in graphs(150, series):
        form = layer.canonical()
        assert form.canonical() == form
        assert form.key == layer.key
        assert form.formula() == layer.formula()
        assert len(form.nodes) <= len(layer.nodes)
        assert len({(node.op, node.over, node.inputs) for node in form.nodes}) == len(form.nodes)
        assert {index for node in form.nodes for index in node.inputs} >= set(range(4, 3 + len(form.nodes)))
        assert close((plainly(form, x, v0, v1),), (plainly(layer, x, v0, v1),), 1e-9) or not close(
            (plainly(layer, x * (1 + 1e-13), v0, v1),), (plainly(layer, x, v0, v1),), 1e-9
        )


def test_equal_layers_have_one_form_and_others_do_not() -> None:
    one = graph("mul 3 0", "std.batch 0", "add 4 5", "neg 2")
    other = graph("exp 1", "std.batch 0", "mul 0 3", "mul 3 0", "add 5 7", "neg 2")
    for first, second in itertools.combinations([one, other], 2):
        assert first != second
        assert first.key == second.key
        assert first.canonical() == second.canonical()
        assert hash(first.canonical()) == hash(second.canonical())
    ends = graph("mul 3 0", "std.batch 0", "add 4 5")
    swapped = graph("mul 0 3", "std.batch 0", "add 5 4")
    assert ends.key == swapped.key != one.key
    # Divisions are not commutative, and the index set counts.
    assert graph("div 0 3").key != graph("div 3 0").key
    assert len({graph(f"mean.{over} 0").key for over in INDEX_SETS}) == len(INDEX_SETS)
    assert len({layer.key for layer in graphs(500)}) == len({layer.canonical() for layer in graphs(500)})
    # Keys are kept in files: they must stay what they are.
    assert published("B0").key == "2eba4de4110bc8e2146354debf60d481"


def test_formulas() -> None:
    assert published("B0").formula() == "x / max(std_{b,w,h}(x), v1 * x + std_{w,h}(x))"
    assert published("S0").formula() == "x * sigmoid(v1 * x) / std_{w,h,c/g}(x)"
    assert published("BN-ReLU").formula() == "max(v0 + v1 * ((x - mean_{b,w,h}(x)) / std_{b,w,h}(x)), 0)"
    assert graph("add 0 3", "square 4", "div 5 4", "neg 6").formula() == "a = v1 + x; -a^2 / a"
    # A chain of nodes that are each used twice is no longer than the graph.
    assert len(graph("add 0 0", *(f"add {index} {index}" for index in range(4, 67))).formula()) < 1000


def test_json_comes_back() -> None:
    for layer in [*graphs(100), *map(published, PUBLISHED)]:
        again = LayerGraph.from_json(layer.to_json())
        assert again == layer
        assert hash(again) == hash(layer)
        assert pickle.loads(pickle.dumps(layer)) == layer


def nodes_json(*nodes: object) -> str:
    return json.dumps({"version": 1, "nodes": list(nodes)})


GOOD = {"op": "exp", "inputs": [0]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be JSON"),
        ("[" * 50_000, "must be JSON"),
        ("1" * 6000, "must be JSON"),
        ('{"version": 1, "version": 1, "nodes": []}', "distinct"),
        ("[]", "a layer graph must be an object with nodes, version, got list"),
        ('{"version": 1}', "the fields of a layer graph must be nodes, version, got no nodes"),
        ('{"version": 2, "nodes": []}', "version 1, got '2'"),
        ('{"version": true, "nodes": []}', "version 1, got 'True'"),
        ('{"version": 1, "nodes": {}}', "must be a list, got dict"),
        (nodes_json(), "1 to 64 nodes, got 0"),
        (nodes_json(*[GOOD] * 65), "1 to 64 nodes, got 65"),
        (nodes_json(*[GOOD] * 5000), "at most 65536 characters"),
        (nodes_json(5), "a node must be an object with inputs, op, got int"),
        (nodes_json({"op": "exp"}), "got no inputs"),
        (nodes_json({**GOOD, "code": "import os"}), "must be inputs, op, over, got 'code'"),
        (nodes_json({"op": "eval", "inputs": [0]}), "must be one of add, .*, got 'eval'"),
        (nodes_json({"op": ["exp"], "inputs": [0]}), "must be one of"),
        (nodes_json({"op": "__init__", "inputs": [0]}), "must be one of"),
        (nodes_json({"op": "exp", "inputs": [4]}), "inputs of node 4 must be nodes before it, 0 .. 3, got 4"),
        (nodes_json({"op": "exp", "inputs": [5]}, GOOD), "nodes before it, 0 .. 3, got 5"),
        (nodes_json({"op": "exp", "inputs": [-1]}), "nodes before it, 0 .. 3, got -1"),
        (nodes_json({"op": "exp", "inputs": [0, 0]}), "exp must have 1 input, got 2"),
        (nodes_json({"op": "add", "inputs": [0]}), "add must have 2 inputs, got 1"),
        (nodes_json({"op": "exp", "inputs": [True]}), "must be integers, got .True"),
        (nodes_json({"op": "exp", "inputs": [0.0]}), "must be integers"),
        (nodes_json({"op": "exp", "inputs": "0"}), "must be integers, got '0'"),
        (nodes_json({"op": "exp", "inputs": [10**30]}), "nodes before it"),
        (nodes_json({"op": "mean", "inputs": [0]}), "index sets batch, layer, instance, group, got None"),
        (nodes_json({"op": "mean", "inputs": [0], "over": "rows"}), "index sets .*, got 'rows'"),
        (nodes_json({"op": "exp", "inputs": [0], "over": "batch"}), "exp must have no index set, got 'batch'"),
    ],
)
def test_bad_files_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        LayerGraph.from_json(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_random_graphs_draw_all_that_there_is() -> None:
    layers = graphs(600)
    nodes = [node for layer in layers for node in layer.nodes]
    assert all(len(layer.nodes) == 10 for layer in layers)
    shares = {op: sum(node.op == op for node in nodes) / len(nodes) for op in PRIMITIVES}
    assert all(abs(share - 1 / 15) < 0.015 for share in shares.values())
    moments = [node.over for node in nodes if node.op in MOMENTS]
    assert all(abs(moments.count(over) / len(moments) - 1 / 4) < 0.05 for over in INDEX_SETS)
    # The inputs of the last node are uniform over the 13 nodes before it.
    last = [index for layer in layers for index in layer.nodes[-1].inputs]
    assert all(abs(last.count(index) / len(last) - 1 / 13) < 0.04 for index in range(13))
    assert {node.over for layer in graphs(200, "sample") for node in layer.nodes} == {*INDEX_SETS, None} - {"batch"}
    assert random_graph(np.random.default_rng(3)) == random_graph(np.random.default_rng(3))


def test_mutation_replaces_one_node() -> None:
    rng = np.random.default_rng(0)
    layer = random_graph(rng, "sample")
    places = []
    for _ in range(1000):
        child = mutate(layer, rng, "sample")
        changed = [index for index, (old, new) in enumerate(zip(layer.nodes, child.nodes, strict=True)) if old != new]
        assert len(changed) <= 1
        assert not child.crosses_rows
        assert LayerGraph.from_json(child.to_json()) == child
        places += changed
    assert set(places) == set(range(10))
    assert len(places) > 900
    with pytest.raises(ValueError, match="series must be one of batch, sample, got 'rows'"):
        mutate(layer, rng, "rows")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (graph("sigmoid 0"), graph("add 1 0", "sigmoid 4")),
        (graph("tanh 0"), graph("neg 0", "neg 4", "tanh 5")),
        (graph("add 0 2", "add 4 3"), graph("add 2 3", "add 0 4")),
        (graph("mul 0 3", "mul 4 4"), graph("square 0", "square 3", "mul 5 4")),
        (graph("rms.group 0"), graph("square 0", "mean.group 4", "sqrt 5")),
        (graph("std.layer 0"), graph("mean.layer 0", "neg 4", "add 0 5", "square 6", "mean.layer 7", "sqrt 8")),
        (graph("mean.batch 0", "neg 4"), graph("neg 0", "mean.batch 4")),
        (graph("std.batch 0", "add 4 4"), graph("add 0 0", "std.batch 4")),
        (graph("rms.batch 3", "mul 0 4"), graph("abs 3", "mul 0 4")),
        (graph("max 0 1"), graph("abs 0", "add 0 4", "exp 1", "add 6 6", "div 5 7")),
        (graph("div 1 1"), graph("log 1")),
    ],
    ids=lambda layer: layer.formula(),
)
def test_equal_functions_have_equal_fingerprints(first: LayerGraph, second: LayerGraph) -> None:
    assert first.key != second.key
    assert fingerprint(first) == fingerprint(second)


def test_different_functions_have_different_fingerprints() -> None:
    layers = [
        *map(published, PUBLISHED),
        *(graph(f"{op}.{over} 0") for op in MOMENTS for over in INDEX_SETS),
        *(graph(f"{op} 0") for op in ("neg", "sigmoid", "tanh", "exp", "log", "abs", "square", "sqrt")),
        # The trainable vectors are no constants, and no two index sets are one.
        *map(graph, ("mul 0 3", "add 0 2", "add 0 1", "add 0 3", "neg 2", "neg 3", "neg 1")),
        graph("std.batch 0", "div 0 4"),
        graph("mean.batch 0", "neg 4", "add 0 5", "square 6", "mean.batch 7", "sqrt 8", "div 0 9"),
    ]
    assert len({fingerprint(layer) for layer in layers}) == len(layers)


def test_fingerprints_of_what_is_no_number() -> None:
    # exp(exp(exp(exp(x)))) overflows, and the infinity has no difference from itself.
    infinite = graph("add 3 3", *(f"exp {index}" for index in range(4, 10)))
    nothing = LayerGraph((*infinite.nodes, Node("neg", (10,)), Node("add", (10, 11))))
    assert len({fingerprint(infinite), fingerprint(nothing), fingerprint(graph("neg 1"))}) == 3


@torch.no_grad()
def test_channels_may_be_the_last_axis() -> None:
    x, v0, v1 = inputs(torch.Generator().manual_seed(0))
    for layer in [*graphs(60), *map(published, PUBLISHED)]:
        first, last = module(layer, v0, v1), module(layer, v0, v1, channel_axis=-1)
        for _ in range(2):
            output = last(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)
            assert close((output,), (first(x),), 1e-6), layer.formula()
            first.eval()
            last.eval()


def test_any_shape_and_type() -> None:
    for name in PUBLISHED:
        layer = GraphLayer(published(name), 8)
        for shape in [(4, 8), (4, 8, 3), (4, 8, 1, 1), (4, 8, 2, 3, 2)]:
            x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
            assert layer(x).shape == shape
            assert layer(x).isfinite().all()
            half = layer(x.bfloat16())
            assert half.dtype == torch.bfloat16
            torch.testing.assert_close(half.float(), layer(x), rtol=0.1, atol=0.1)
        assert layer.groups == 8
    assert [GraphLayer(published("S0"), channels).groups for channels in (64, 48, 33, 7, 1)] == [32, 24, 11, 7, 1]


def test_outputs_can_be_changed_in_place() -> None:
    for layer in (graph("neg 0", "neg 4"), graph("exp 2"), graph("mean.batch 0")):
        x = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
        before = x.clone()
        output = GraphLayer(layer, 3, affine=False)(x)
        output.mul_(2).add_(1)
        assert torch.equal(x, before)


def test_second_derivatives_are_finite_where_all_is_zero() -> None:
    """A search looks for weights under which the gradient grows, along the gradient of its norm."""
    for layer in [*map(published, PUBLISHED), graph("log 0", "sqrt 0", "div 4 5", "abs 6", "std.group 7", "div 8 0")]:
        x = torch.zeros(3, 8, 2, 2, requires_grad=True)
        (gradient,) = torch.autograd.grad(GraphLayer(layer, 8)(x).square().sum() + x.sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), x)
        assert gradient.isfinite().all()
        assert second.isfinite().all()


def test_gradients_of_gradients() -> None:
    x = torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    for name in PUBLISHED:
        assert torch.autograd.gradgradcheck(GraphLayer(published(name), 2).double(), (x,))


def test_copies_pickles_and_states() -> None:
    x = torch.randn(4, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    for name in PUBLISHED:
        layer = GraphLayer(published(name), 8)
        layer(x)
        layer.eval()
        fresh = GraphLayer(published(name), 8).eval()
        fresh.load_state_dict(layer.state_dict())
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), fresh):
            assert torch.equal(other(x), layer(x))


@pytest.mark.parametrize("training", [False, True])
def test_exported_programs_are_the_module(training: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 8, 5, 6, generator=generator)
    layers = nn.Sequential(*(GraphLayer(published(name), 8, 4) for name in PUBLISHED))
    layers(x)
    layers.train(training)
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(copy.deepcopy(layers), (x,), dynamic_shapes=(free,)).module()
    for shape in [(4, 8, 5, 6), (3, 8, 7, 2)]:
        x = torch.randn(shape, generator=generator)
        torch.testing.assert_close(program(x), layers(x), rtol=1e-5, atol=1e-5)


def test_onnx_files_are_the_module(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 8, 5, 6, generator=generator)
    layers = nn.Sequential(*(GraphLayer(published(name), 8, 4) for name in PUBLISHED))
    layers(x)
    layers.eval()
    export(layers, (x,), tmp_path / "layers.onnx", 18)
    session = onnxruntime.InferenceSession(str(tmp_path / "layers.onnx"), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: x[:3].numpy()})
    np.testing.assert_allclose(output, layers(x[:3]).detach().numpy(), rtol=1e-4, atol=1e-4)


def test_what_a_layer_refuses() -> None:
    x = torch.ones(1, 8, 2, 2)
    for name in PUBLISHED:
        layer = GraphLayer(published(name), 8)
        if published(name).crosses_rows:
            with pytest.raises(ValueError, match="at least 2 rows a batch, got 1"):
                layer(x)
        else:
            layer(x)
        layer.eval()(x)
        with pytest.raises(ValueError, match=r"8 channels along axis 1 .*, got the shape \(2, 4\)"):
            layer(torch.ones(2, 4))
    with pytest.raises(ValueError, match="channels and groups must be positive, got 0 and 32"):
        GraphLayer(published("S0"), 0)
    with pytest.raises(ValueError, match="channel_axis must not be 0"):
        GraphLayer(published("S0"), 8, channel_axis=0)
    with pytest.raises(ValueError, match=r"momentum must be in 0..1 or None and eps at least 0, got 2 and 1e-05"):
        GraphLayer(published("S0"), 8, momentum=2)
    with pytest.raises(ValueError, match=r"must be one of B0, .*, got 'B9'"):
        published("B9")
    with pytest.raises(ValueError, match="must be of type Node, got int"):
        LayerGraph((3,))  # type: ignore[arg-type]
