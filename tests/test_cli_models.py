"""`nas finetune` on decoders and on the image half of CLIP; rows that a network cannot read, refused at once."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Command
from test_bad_input import refused
from test_cli_tasks import write_images
from test_models import decoder
from tiny import WORDS

_SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
_QUICK = ("--steps", 2, "--batch-size", 8, "--order", "none")
OWN = """
import torch
from torch import nn


class Reader(nn.Module):
    def __init__(self, classes, words, places):
        super().__init__()
        self.words, self.places = nn.Embedding(words, 16), nn.Embedding(places, 16)
        self.first, self.second, self.head = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, classes)

    def forward(self, input_ids, attention_mask):
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        hidden = self.words(input_ids) + self.places(places)
        hidden = self.second(torch.relu(self.first(hidden)))
        return self.head((hidden * attention_mask[..., None]).mean(1))


def short(classes):
    return Reader(classes, 64, 16)


def few_words(classes):
    return Reader(classes, 12, 64)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with networks of the user's own, in the current folder."""
    name = f"own_readers_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return name


def test_a_decoder_as_it_is_published(nas_command: Command, inputs: Path, tmp_path: Path) -> None:
    data = ["--data", inputs / "reviews.csv", "--out", tmp_path / "run"]
    answer = nas_command("finetune", decoder(tmp_path / "llama"), *data, *_QUICK, "--json")
    assert answer.status == 0, answer.err
    config = json.loads((tmp_path / "run" / "supernet" / "config.json").read_text(encoding="utf-8"))
    assert (config["pad_token_id"], config["use_cache"]) == (3, False)


@pytest.mark.parametrize("name", ["CLIP", "Siglip"])
def test_the_image_half_of_a_network_for_images_and_texts(nas_command: Command, tmp_path: Path, name: str) -> None:
    import transformers

    config = getattr(transformers, f"{name}Config")(
        vision_config={**_SIZES, "image_size": 16, "patch_size": 8}, text_config={**_SIZES, "vocab_size": 50}
    )
    getattr(transformers, f"{name}Model")(config).save_pretrained(tmp_path / "model")
    _square(16, tmp_path / "model")
    data = ["--data", write_images(tmp_path / "images"), "--out", tmp_path / "run"]
    answer = nas_command("finetune", tmp_path / "model", *data, *_QUICK, "--json")
    assert answer.status == 0, answer.err
    space = json.loads((tmp_path / "run" / "supernet" / "space.json").read_text(encoding="utf-8"))
    assert {"heads.0", "ffn.0"} <= {choice["name"] for choice in space["choices"]}


def _square(side: int, folder: Path) -> None:
    from transformers import ViTImageProcessorPil

    ViTImageProcessorPil(size={"height": side, "width": side}).save_pretrained(folder)


def test_images_of_another_size_than_the_network_has(nas_command: Command, tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTModel

    ViTModel(ViTConfig(**_SIZES, image_size=16, patch_size=8)).save_pretrained(tmp_path / "model")
    _square(32, tmp_path / "model")
    data = ["--data", write_images(tmp_path / "images"), "--out", tmp_path / "run"]
    answer = nas_command("finetune", tmp_path / "model", *data)
    refused(answer, "must take pixel_values (2, 3, 32, 32)")
    assert "must make images of the network's size" in answer.err
    assert not (tmp_path / "run").exists()


def test_texts_longer_than_a_network_of_ones_own_reads(
    nas_command: Command, own: str, inputs: Path, tmp_path: Path
) -> None:
    rows = [f"{' '.join(WORDS * 2)} {number},{number % 2}" for number in range(40)]
    (tmp_path / "long.csv").write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    data = ["--data", tmp_path / "long.csv", "--out", tmp_path / "run", "--tokenizer", inputs / "model"]
    refused(nas_command("finetune", f"{own}:short", *data), "a lower --max-tokens cuts texts off")
    assert not (tmp_path / "run").exists()
    refused(nas_command("finetune", f"{own}:few_words", *data), "it must know every token of --tokenizer")
    assert not (tmp_path / "run").exists()
