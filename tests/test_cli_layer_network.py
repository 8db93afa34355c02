"""`nas export RUN --model MODEL` of an evolved layer: the network with the layer as files, and wrong input."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import Command
from safetensors.torch import load_file, save_file
from test_bad_input import refused
from test_kill import finish
from torch import Tensor, nn
from toy_pyramid import FACTORY, pyramid, write_inputs
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

import nas
from nas.evolving.evonorm import RankedLayer, write_layer
from search_spaces.graphs import LayerGraph, Node, published

STEEP = LayerGraph((Node("log", (0,)), Node("neg", (4,))))
"""Its slope has no bound: what differs by rounding at its input differs by much at its output."""


class Plain(nn.Module):
    """No normalization."""

    image_size = 8

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


class Choosy(nn.Module):
    """Its way depends on the pixels, which no graph shows."""

    image_size = 8

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.head((x if x.sum() > 0 else -x).mean((2, 3)))


def plain(outputs: int) -> nn.Module:
    return Plain(outputs)


def choosy(outputs: int) -> nn.Module:
    return Choosy(outputs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pictures")
    write_inputs(made)
    return made


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evolution that is said to have found a known layer, since what it finds may be too steep to compare."""
    run = tmp_path_factory.mktemp("evolved") / "run"
    trainings = ["--quality-steps", "1", "--least-accuracy", "0", "--steps", "1", "--longer-steps", "1"]
    sizes = ["--population", "2", "--budget", "2", "--reranked", "1"]
    data = ["--data", str(folder / "pictures.parquet"), "--networks", "toy_layers:narrow", "--series", "batch"]
    finish(["evolve", *data, "--out", str(run), *trainings, *sizes])
    layers = run / "evolution" / "layers"
    shutil.rmtree(layers)
    layers.mkdir()
    write_layer(RankedLayer(published("B0"), {"narrow": 0.5}), layers / "1.json")
    write_layer(RankedLayer(STEEP, {"narrow": 0.4}), layers / "2.json")
    return run


def layer_of(folder: Path) -> LayerGraph:
    return LayerGraph.from_json(json.dumps(json.loads((folder / "layer.json").read_text())["layer"]))


def compare(network: nn.Module, out: Path, name: str, side: int) -> None:
    """The weights fit the network, which then computes what the ONNX file does, at any batch."""
    network.load_state_dict(load_file(out / "model.safetensors"))
    session = onnxruntime.InferenceSession(out / "model.onnx")
    for rows in (1, 5):
        x = torch.randn(rows, 3, side, side, generator=torch.Generator().manual_seed(rows))
        (found,) = session.run(None, {name: x.numpy()})
        with torch.no_grad():
            expected: Any = network.eval()(x)
        expected = getattr(expected, "logits", expected).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-4 * float(np.abs(expected).max()))


def test_a_network_of_the_users_own(nas_command: Command, folder: Path, run: Path, tmp_path: Path) -> None:
    out, weights = tmp_path / "network", folder / "pyramid.safetensors"
    answer = nas_command("export", run, "--model", FACTORY, "--weights", weights, "--out", out, "--json")
    assert answer.status == 0, answer.err
    told = json.loads(answer.out)
    assert told["layers_replaced"] == 5 and told["note"].startswith("The network must be trained")
    network = nas.replace(pyramid(), layer_of(out), (torch.zeros(2, 3, 12, 12),))
    compare(network, out, "pixels", 12)
    given, written = load_file(weights), load_file(out / "model.safetensors")
    assert torch.equal(written["head.weight"], given["head.weight"]), "what is not replaced stays as trained"
    # The same again, in place of the first.
    answer = nas_command("export", run, "--model", FACTORY, "--out", out)
    assert answer.status == 0 and "must be trained" in answer.out


def test_a_network_of_transformers(nas_command: Command, run: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
    model, out = ResNetForImageClassification(ResNetConfig(**sizes, num_labels=5)), tmp_path / "network"
    model.save_pretrained(tmp_path / "resnet")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "resnet")
    answer = nas_command("export", run, "--model", tmp_path / "resnet", "--out", out, "--json")
    assert answer.status == 0, answer.err
    assert json.loads(answer.out)["layers_replaced"] == 3
    assert {path.name for path in out.iterdir()} >= {"layer.json", "model.onnx", "model.safetensors"}
    network, _ = nas.load_pretrained(tmp_path / "resnet", ["bar", "disc", "stripe"], "image")
    network = nas.replace(network, layer_of(out), (torch.zeros(2, 3, 32, 32),))
    compare(network, out, "pixel_values", 32)


def test_what_is_refused_leaves_nothing(nas_command: Command, folder: Path, run: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "network", tmp_path / "other.safetensors"
    save_file({"first.weight": torch.zeros(3)}, other)
    here = "test_cli_layer_network"
    for flags, message in (
        (["--model", f"{here}:plain"], "Plain has none to replace"),
        (["--model", f"{here}:choosy"], "must be traceable by torch.export"),
        (["--model", FACTORY, "--weights", other], "the network has no first.weight"),
        (["--model", FACTORY, "--weights", tmp_path / "none.safetensors"], "cannot be read"),
        (["--model", tmp_path / "nowhere"], "nowhere"),
        (["--model", FACTORY, "--candidate", 2], "with the layer cannot be written as ONNX"),
        (["--weights", other], "name it with --model"),
        (["--model", FACTORY, "--candidate", 7], "--candidate must be the number of a layer"),
    ):
        refused(nas_command("export", run, *flags, "--out", out), message)
        assert [path.name for path in tmp_path.iterdir()] == ["other.safetensors"]
