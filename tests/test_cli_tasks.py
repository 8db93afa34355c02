"""The commands on other tasks than classification, and on networks of the user's own."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from conftest import Command
from PIL import Image
from safetensors.torch import save_file
from test_bad_input import refused
from tiny import WORDS

OWN = """
import torch
from torch import nn


class Small(nn.Module):
    image_size = 12

    def __init__(self, classes):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, classes)

    def forward(self, images):
        images = torch.relu(self.norm(self.first(images)))
        return self.head(torch.relu(self.second(images)).mean((2, 3)))


class Reader(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.words = nn.Embedding(64, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, classes)

    def forward(self, input_ids, attention_mask):
        hidden = self.encoder(self.words(input_ids), src_key_padding_mask=attention_mask == 0)
        kept = attention_mask[..., None].to(hidden.dtype)
        return self.head((hidden * kept).sum(1) / kept.sum(1))


def small(classes):
    return Small(classes)


def reader(classes):
    return Reader(classes)
"""


def write_ratings(path: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = ["text,rating"]
    for number in range(160):
        words = rng.choice(WORDS, size=int(rng.integers(3, 9)))
        lines.append(f"{' '.join(words)} {number},{sum(word in WORDS[:3] for word in words) / 2}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_tags(path: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(120):
        words = [*rng.choice(WORDS, size=int(rng.integers(3, 9))), str(number)]
        rows.append({"tokens": words, "tags": ["good" if word in WORDS[:3] else "other" for word in words]})
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def write_images(folder: Path, count: int = 40) -> Path:
    rng = np.random.default_rng(0)
    for label, name in enumerate(("dark", "light")):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 128, size=(12, 12, 3), dtype=np.uint8) + np.uint8(127 * label)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def exported(nas_command: Command, run: Path, objectives: str, *flags: object) -> dict[str, float]:
    """Search and export a run; the chosen network's figures as the card has them."""
    tokens = ["--tokens", 8]
    answer = nas_command("search", run, "--objectives", objectives, "--budget", 4, *tokens, *flags, "--json")
    assert answer.status == 0, answer.err
    answer = nas_command("export", run, "--out", run.parent / "subnet", *flags, "--json")
    assert answer.status == 0, answer.err
    chosen: dict[str, float] = json.loads(answer.out)["chosen"]
    return chosen


@pytest.mark.parametrize(
    ("task", "write", "name", "metric", "unit"),
    [
        ("regression", write_ratings, "ratings.csv", "r2", "rows"),
        pytest.param("token-classification", write_tags, "tags.jsonl", "accuracy", "words", marks=pytest.mark.slow),
    ],
)
def test_other_tasks(
    nas_command: Command,
    inputs: Path,
    tmp_path: Path,
    task: str,
    write: Callable[[Path], Path],
    name: str,
    metric: str,
    unit: str,
) -> None:
    run = tmp_path / "run"
    args = ["finetune", inputs / "model", "--data", write(tmp_path / name), "--out", run, "--task", task]
    answer = nas_command(*args, "--steps", 30, "--learning-rate", "3e-3", "--json")
    assert answer.status == 0, answer.err
    assert f"validation_{metric}" in json.loads(answer.out)
    chosen = exported(nas_command, run, f"{metric},macs")
    card = (tmp_path / "subnet" / "README.md").read_text(encoding="utf-8")
    row = next(line for line in card.splitlines() if line.startswith(f"| test_{metric} |"))
    # The last column is that of the exported network.
    assert row.split(" | ")[-1].startswith(f"{chosen[f'test_{metric}']:.6g}"), row
    assert f"test {unit}" in card


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module with networks of the user's own, in the current folder."""
    name = f"own_networks_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield name


def test_a_convolutional_network_of_ones_own(nas_command: Command, own: str, tmp_path: Path) -> None:
    """Its batch norms are re-calibrated for every candidate, and the card's loader takes the user's own function."""
    run, model = tmp_path / "run", f"{own}:small"
    data = ["--data", write_images(tmp_path / "images"), "--out", run, "--channels", "0.5,1.0"]
    answer = nas_command("finetune", model, *data, "--steps", 4, "--mean", "0.4,0.5,0.6", "--json")
    assert answer.status == 0, answer.err
    asked = json.loads((run / "run.json").read_text(encoding="utf-8"))["asked"]
    assert asked["mean"] == "0.4,0.5,0.6"
    refused(nas_command("search", run, "--budget", 2), "name it again, --model module:factory")
    exported(nas_command, run, "accuracy,macs", "--model", model)
    assert "def load(build" in (tmp_path / "subnet" / "README.md").read_text(encoding="utf-8")
    further = ["refine", run, "--candidate", "smallest", "--out", tmp_path / "further", "--steps", 2]
    answer = nas_command(*further, "--model", model, "--json")
    assert answer.status == 0, answer.err


@pytest.mark.slow
def test_attention_of_torch_is_turned(nas_command: Command, own: str, inputs: Path, tmp_path: Path) -> None:
    run, model = tmp_path / "run", f"{own}:reader"
    data = ["--data", inputs / "reviews.csv", "--out", run, "--tokenizer", inputs / "model"]
    answer = nas_command("finetune", model, *data, "--steps", 4)
    assert answer.status == 0, answer.err
    assert answer.err.count("is turned into an equal form") == 1
    choices = {choice["name"] for choice in json.loads((run / "supernet" / "space.json").read_text())["choices"]}
    assert "heads.0" in choices
    exported(nas_command, run, "accuracy,macs", "--model", model)
    assert "def load(" not in (tmp_path / "subnet" / "README.md").read_text(encoding="utf-8")


def test_weights_of_another_network(nas_command: Command, own: str, tmp_path: Path) -> None:
    save_file({"first.weight": torch.zeros(8, 3, 5, 5)}, tmp_path / "weights.safetensors")
    data = ["--data", write_images(tmp_path / "images", 8), "--out", tmp_path / "run"]
    weights = ["--weights", tmp_path / "weights.safetensors"]
    refused(nas_command("finetune", f"{own}:small", *data, *weights), "the weights in")
    refused(nas_command("finetune", f"{own}:nothing", *data), "cannot make a network")
    refused(nas_command("finetune", f"{own}:small", *data, "--mean", "1,2"), "--mean must be three numbers")
    refused(nas_command("finetune", f"{own}:small", *data, "--image-size", "big"), "--image-size must be a side")
    assert not (tmp_path / "run").exists()


def test_settings_of_ones_own_network_only(nas_command: Command, inputs: Path, tmp_path: Path) -> None:
    data = ["--data", inputs / "reviews.csv", "--out", tmp_path / "run"]
    answer = nas_command("finetune", inputs / "model", *data, "--tokenizer", inputs / "model")
    refused(answer, "are for a network of your own")
    refused(nas_command("finetune", inputs / "model", *data, "--model", "a:b"), "--model")


def test_long_texts_are_told_once(nas_command: Command, inputs: Path, tmp_path: Path) -> None:
    data = ["--data", inputs / "reviews.csv", "--out", tmp_path / "run", "--max-tokens", 6]
    answer = nas_command("finetune", inputs / "model", *data, "--steps", 1, "--order", "none")
    assert answer.status == 0, answer.err
    assert answer.err.count("Texts longer than 6 tokens") == 1


def test_a_damaged_image_is_told_once(nas_command: Command, own: str, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 60)
    (images / "dark" / "7.png").write_bytes(b"\x89PNG broken")
    answer = nas_command("finetune", f"{own}:small", "--data", images, "--out", tmp_path / "run", "--steps", 1)
    assert answer.status == 0, answer.err
    assert answer.err.count("Images that cannot be decoded, left out: 1\n") == 1
    rows = sum(len(pandas.read_parquet(part)) for part in (tmp_path / "run" / "data").glob("*.parquet"))
    assert rows == 119
