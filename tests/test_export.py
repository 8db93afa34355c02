"""Exported folders: written whole, checked, and loadable with their own card only."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

from hardware.deployment import Deployment
from hardware.pytorch import runner
from nas.errors import UserError
from nas.exporting.card import Card
from nas.exporting.folder import export
from nas.exporting.network_files import ExportError, holds_network

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "initializer_range": 0.3,
}


def shake(module: nn.Module) -> nn.Module:
    """Always the same weights; norms and biases too are random, or slicing bugs hide."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def narrow(linear: nn.Linear, axis: int, size: int) -> None:
    kept = linear.weight.detach().narrow(axis, 0, size)
    linear.weight = nn.Parameter(kept.clone())
    linear.out_features, linear.in_features = kept.shape
    if axis == 0:
        linear.bias = nn.Parameter(linear.bias.detach()[:size].clone())


def uneven_bert(kind: type[Any] = BertForSequenceClassification) -> Any:
    """Heads 4 and 1, feed-forward 24 and 10, the middle block dropped."""
    config = BertConfig(vocab_size=30, num_labels=3, max_position_embeddings=32, **SIZES)
    model = shake(kind(config))
    encoder: Any = model.get_submodule("bert.encoder")
    encoder.layer = nn.ModuleList([encoder.layer[0], encoder.layer[2]])
    last = encoder.layer[1]
    for linear in (last.attention.self.query, last.attention.self.key, last.attention.self.value):
        narrow(linear, 0, 4)
    narrow(last.attention.output.dense, 1, 4)
    narrow(last.intermediate.dense, 0, 10)
    narrow(last.output.dense, 1, 10)
    last.attention.self.num_attention_heads = 1
    return model


def uneven_vit() -> Any:
    model = shake(ViTForImageClassification(ViTConfig(image_size=16, patch_size=4, num_labels=3, **SIZES)))
    blocks: Any = next(part for part in model.modules() if isinstance(part, nn.ModuleList))
    del blocks[1]
    attention = blocks[0].get_submodule("attention")
    for name in ("q_proj", "k_proj", "v_proj"):
        narrow(attention.get_submodule(name), 0, 8)
    narrow(attention.get_submodule("o_proj"), 1, 8)
    return model


class Convolutions(nn.Module):
    """A class that transformers does not have: channels, groups and norms of their own size."""

    def __init__(self, width: int = 8, blocks: int = 2) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, groups=width) for _ in range(blocks))
        self.norm = nn.BatchNorm2d(width)
        self.layer_norm = nn.LayerNorm(width)
        self.last = nn.Linear(width, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.first(image)
        for block in self.blocks:
            x = torch.relu(block(x))
        out: torch.Tensor = self.last(self.layer_norm(self.norm(x).mean((2, 3))))
        return out


def text(rows: int = 2, tokens: int = 8) -> dict[str, torch.Tensor]:
    mask = torch.ones(rows, tokens, dtype=torch.long)
    mask[-1, tokens // 2 :] = 0
    return {"input_ids": torch.randint(0, 30, (rows, tokens)), "attention_mask": mask}


def python_blocks(folder: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)


class Notes:
    def save(self, folder: Path) -> None:
        (folder / "notes.txt").write_text("a file of the preprocessor", encoding="utf-8")


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    card = Card(
        title="Tiny",
        base_model="/somewhere/on/this/machine/tiny-bert",
        classes=("no", "maybe", "yes"),
        figures={
            "full": {"test_accuracy": 0.85, "macs": 123456},
            "chosen": {"test_accuracy": 0.84375, "latency_ms": 1.25, "size_mib": 1.5},
        },
        conditions={"runtime": "pytorch", "threads": 1, "batch": 1, "tokens": 128},
        chosen_by={"accuracy": 0.8512, "latency_ms": 1.5},
        notes=("One point is about one standard error.",),
        judged=1600,
    )
    return export(uneven_bert(), tmp_path_factory.mktemp("x") / "bert", text(), card=card, preprocessor=Notes())


def test_a_heterogeneous_bert_loads_with_the_cards_own_lines(bert_folder: Path) -> None:
    lines: dict[str, Any] = {}
    exec(python_blocks(bert_folder)[0], lines)
    model = lines["load"](str(bert_folder))
    inputs = text(3, 11)
    assert isinstance(model, BertForSequenceClassification)
    assert torch.equal(model(**inputs).logits, uneven_bert()(**inputs).logits)
    assert model.bert.encoder.layer[1].attention.self.num_attention_heads == 1
    assert model.bert.encoder.layer[1].output.dense.in_features == 10
    model(**inputs).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.classifier.parameters())


def test_the_folder_is_complete_and_says_what_it_is(bert_folder: Path) -> None:
    assert {each.name for each in bert_folder.iterdir()} == {
        "README.md",
        "config.json",
        "model.onnx",
        "model.safetensors",
        "notes.txt",
    }
    config = json.loads((bert_folder / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"] and config["num_hidden_layers"] == 2
    assert config["subnetwork"]["blocks"] == {}
    assert config["subnetwork"]["sizes"]["bert.encoder.layer.1.intermediate.dense"] == {"out_features": 10}
    assert "bert.encoder.layer.0.intermediate.dense" not in config["subnetwork"]["sizes"]
    card = (bert_folder / "README.md").read_text()
    for part in (
        "0.84375 (1,350 of 1,600)",
        "1.5 MiB (1,572,864 bytes)",
        "accuracy 0.8512; latency_ms 1.5 ms",
        "1.25 ms",
        "threads 1",
        "tokens 128",
        "`maybe`",
        "| macs |",
        "123,456",
        "`tiny-bert`",
        "one standard",
    ):
        assert part in card
    assert "/somewhere" not in card and "/somewhere" not in json.dumps(config)
    assert [each.name for each in bert_folder.parent.iterdir()] == ["bert"]


@pytest.mark.slow
def test_the_cards_blocks_run_in_a_fresh_process_without_this_project(bert_folder: Path) -> None:
    for code in ["\n".join(python_blocks(bert_folder)[:2]), python_blocks(bert_folder)[2]]:
        check = code + "\nimport sys\nassert tuple(logits.shape) == (2, 3)\nassert 'nas' not in sys.modules\n"
        subprocess.run([sys.executable, "-I", "-c", check], cwd=bert_folder, check=True, capture_output=True)


def test_a_heterogeneous_vit(tmp_path: Path) -> None:
    folder = export(uneven_vit(), tmp_path / "vit", {"pixel_values": torch.randn(1, 3, 16, 16)})
    lines: dict[str, Any] = {}
    exec(python_blocks(folder)[0], lines)
    image = torch.randn(3, 3, 16, 16)
    assert torch.equal(lines["load"](str(folder))(image).logits, uneven_vit()(image).logits)


def test_tied_weights_are_saved_once_and_tied_again(tmp_path: Path) -> None:
    model = uneven_bert(BertForMaskedLM)
    folder = export(model, tmp_path / "tied", text())
    ties = json.loads((folder / "config.json").read_text())["subnetwork"]["ties"]
    assert ties["cls.predictions.decoder.weight"] == "bert.embeddings.word_embeddings.weight"
    assert "cls.predictions.decoder.weight" not in load_file(folder / "model.safetensors")
    lines: dict[str, Any] = {}
    exec(python_blocks(folder)[0], lines)
    loaded = lines["load"](str(folder))
    assert loaded.cls.predictions.decoder.weight is loaded.bert.embeddings.word_embeddings.weight


def test_a_class_of_the_users_own_needs_its_factory(tmp_path: Path) -> None:
    small = shake(Convolutions(width=5, blocks=1))
    folder = export(small, tmp_path / "own", (torch.randn(2, 3, 8, 8),), factory=Convolutions)
    record = json.loads((folder / "config.json").read_text())["subnetwork"]
    assert record["blocks"] == {"blocks": {"0": "0"}}
    assert record["sizes"]["blocks.0"] == {"in_channels": 5, "out_channels": 5, "groups": 5}
    assert record["sizes"]["layer_norm"] == {"normalized_shape": [5]}
    lines: dict[str, Any] = {}
    exec(python_blocks(folder)[0], lines)
    image = torch.randn(4, 3, 8, 8)
    assert torch.equal(lines["load"](Convolutions, str(folder))(image), small(image))
    without = export(small, tmp_path / "without", (torch.randn(2, 3, 8, 8),))
    assert len(python_blocks(without)) == 1 and "needs its own code" in (without / "README.md").read_text()


def test_a_class_of_the_users_own_runs_as_it_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, image = shake(Convolutions(width=5, blocks=1)), torch.randn(2, 3, 8, 8)
    deployment = Deployment(precision="bfloat16", threads=torch.get_num_threads())
    folder = export(small, tmp_path / "own", {"image": image}, factory=Convolutions, deployment=deployment)
    monkeypatch.chdir(folder)
    lines: dict[str, Any] = {"build": Convolutions}
    exec("\n".join(python_blocks(folder)[:2]), lines)
    expected = runner(small, threads=deployment.threads, precision=torch.bfloat16)(image=image)
    assert torch.equal(torch.from_numpy(lines["run"]({"image": image.numpy()})), expected)


def test_the_network_itself_is_left_as_it_is(tmp_path: Path) -> None:
    model = uneven_bert().train()
    before = copy.deepcopy(model.state_dict())
    export(model, tmp_path / "x", text())
    assert model.training and model.config.num_hidden_layers == 3
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_earlier_export_is_replaced_and_anything_else_is_refused(tmp_path: Path) -> None:
    small, image = shake(Convolutions(width=2)), (torch.randn(2, 3, 4, 4),)
    target = tmp_path / "out"
    target.mkdir()
    assert holds_network(export(small, target, image))
    (target / "left over").write_text("from before")
    export(small, target, image)
    assert not (target / "left over").exists()
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"precious is something else; name another folder"):
        export(small, precious, image)
    with pytest.raises(UserError, match="something else"):
        export(small, precious / "thesis.txt", image)
    assert (precious / "thesis.txt").read_text() == "years of work"


class Moody(nn.Module):
    """Another scale in the export than in use: what the check is for."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)
        return out * 2 if torch.compiler.is_exporting() else out


def test_a_wrong_export_leaves_the_old_one(tmp_path: Path) -> None:
    export(nn.Linear(4, 2), tmp_path / "x", (torch.randn(2, 4),))
    before = (tmp_path / "x" / "model.safetensors").read_bytes()
    with pytest.raises(ExportError, match="ONNX file's outputs must equal"):
        export(Moody(), tmp_path / "x", (torch.randn(2, 4),))
    assert (tmp_path / "x" / "model.safetensors").read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["x"]


def test_a_class_that_makes_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="must have the modules that its class makes"):
        export(nn.Sequential(nn.Linear(4, 2)), tmp_path / "x", (torch.randn(2, 4),), factory=Moody)

    class Doubled(nn.Linear):
        factor: float

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) * self.factor

    def make(factor: float) -> nn.Module:
        module = Doubled(4, 2)
        module.factor = factor
        return module

    with pytest.raises(ExportError, match="they differ by"):
        export(make(1.0), tmp_path / "x", (torch.randn(2, 4),), factory=lambda: make(2.0))
    assert list(tmp_path.iterdir()) == []
