"""Networks as they are published: grey images, adapters' heads, tokenizers that give more, texts without a token."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command
from PIL import Image
from safetensors.torch import load_file, save_file
from test_bad_input import refused
from test_cli_tasks import write_images
from test_models import CLASSES, decoder, folder_of

from nas.data.pixels import ImagePreprocessor, PlainImages
from nas.data.tokens import TextPreprocessor
from nas.errors import UserError
from nas.exporting.folder import export
from nas.networks.channels import configured_channels, probed_channels
from nas.networks.pretrained import example_inputs, load_preprocessor, load_pretrained
from nas.runs.folder import RunFolder
from nas.runs.loading import load_run
from tests import toy_task
from tests.tiny import write_model

_SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}


# Tokenizers ----------------------------------------------------------------------------------------------------------


def test_a_tokenizer_gives_the_inputs_of_the_network_alone(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    model = write_model(tmp_path / "model")
    assert "token_type_ids" in AutoTokenizer.from_pretrained(model)("good")
    load_pretrained(model, ("bad", "good"), "text")[1].save(tmp_path / "saved")
    assert set(AutoTokenizer.from_pretrained(tmp_path / "saved")("good")) == {"input_ids", "attention_mask"}


@pytest.mark.slow
def test_the_cards_examples_run_with_its_tokenizer_in_fresh_processes(tmp_path: Path) -> None:
    model, preprocessor = load_pretrained(write_model(tmp_path / "model"), ("bad", "good"), "text")
    inputs = example_inputs(model, "text", preprocessor, tokens=8)
    folder = export(model, tmp_path / "out", inputs, preprocessor=preprocessor)
    card = (folder / "README.md").read_text(encoding="utf-8")
    loader, torch_example, onnx_example = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert "AutoTokenizer" in torch_example and "AutoTokenizer" in onnx_example
    for code in (loader + torch_example, onnx_example):
        check = f"{code}\nimport sys\nassert tuple(logits.shape) == (2, 2)\nassert 'nas' not in sys.modules\n"
        done = subprocess.run([sys.executable, "-I", "-c", check], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


# Texts without a token -----------------------------------------------------------------------------------------------


def test_a_text_without_a_token_is_one_token(tmp_path: Path) -> None:
    folder = decoder(tmp_path / "llama")
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": None}))
    module, preprocessor = load_pretrained(folder, CLASSES, "text")
    inputs = preprocessor.prepare(["", "good film", "  "], 128)
    assert inputs.lengths.tolist() == [1, 2, 1]
    assert inputs.truncated == 0
    with torch.no_grad():
        together, alone = module(**inputs.batch([0, 1])).logits, module(**inputs.batch([0])).logits
    torch.testing.assert_close(together[:1], alone)
    words = preprocessor.prepare([("",), ("good", "film")], 128)
    assert words.lengths.tolist() == [1, 2]
    assert words.first_words([0, 1]).tolist() == [[-1, -1], [0, 1]]


@pytest.mark.slow
def test_a_decoder_is_fine_tuned_on_rows_of_which_some_are_empty(nas_command: Command, tmp_path: Path) -> None:
    folder = decoder(tmp_path / "llama")
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": None}))
    texts, labels = toy_task.sentences(60)
    lines = [f'"{text}",{label}' for text, label in zip(texts, labels, strict=True)]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", '" ",0', '"  ",1', *lines]), encoding="utf-8")
    given = ["--data", tmp_path / "rows.csv", "--out", tmp_path / "run", "--steps", 2, "--order", "none"]
    answer = nas_command("finetune", folder, *given)
    assert answer.status == 0, answer.err


# Grey images ---------------------------------------------------------------------------------------------------------


def _grey_vit(folder: Path, mean: list[float], channels: int = 1) -> Path:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    config = ViTConfig(**_SIZES, image_size=16, patch_size=8, num_channels=channels)
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}, image_mean=mean, image_std=mean).save_pretrained(folder)
    return folder


def _picture(mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    colours = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(colours).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("mean", [[0.5], [0.5, 0.5, 0.5], [0.4, 0.5, 0.6]])
def test_a_network_of_one_channel_reads_grey(tmp_path: Path, mean: list[float]) -> None:
    module, preprocessor = load_pretrained(_grey_vit(tmp_path / "vit", mean), ("a", "b"), "image")
    pixels = preprocessor.prepare([_picture()], 0).batch([0])["pixel_values"]
    grey = np.asarray(Image.open(io.BytesIO(_picture())).convert("L"), dtype=np.float32) / 255
    np.testing.assert_allclose(pixels[0, 0], (grey - 0.5) / 0.5, atol=1e-6)
    assert torch.equal(pixels, preprocessor.prepare([_picture("L")], 0).batch([0])["pixel_values"])
    assert module(**example_inputs(module, "image", preprocessor)).logits.shape == (2, 2)
    # What a run and an export keep reads grey without the network, and so does it with transformers alone.
    preprocessor.save(tmp_path / "saved")
    again = load_preprocessor(tmp_path / "saved", "image")
    assert torch.equal(again.prepare([_picture()], 0).batch([0])["pixel_values"], pixels)


def test_a_network_of_three_channels_with_one_mean_reads_colours(tmp_path: Path) -> None:
    module, preprocessor = load_pretrained(_grey_vit(tmp_path / "vit", [0.5], channels=3), ("a", "b"), "image")
    assert preprocessor.prepare([_picture("L")], 0).batch([0])["pixel_values"].shape == (1, 3, 16, 16)
    assert module(**example_inputs(module, "image", preprocessor)).logits.shape == (2, 2)


@pytest.mark.slow
def test_a_run_whose_processor_was_saved_with_one_mean_reads_colours(nas_command: Command, tmp_path: Path) -> None:
    data, run = write_images(tmp_path / "images"), tmp_path / "run"
    vit = _grey_vit(tmp_path / "vit", [0.5], channels=3)
    answer = nas_command("finetune", vit, "--data", data, "--out", run, "--steps", 1, "--order", "none")
    assert answer.status == 0, answer.err
    path = run / "supernet" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0.5], "image_std": [0.5]}))
    rows = load_run(RunFolder(run), "cpu").split("test")
    assert rows.batch([0])["pixel_values"].shape == (1, 3, 16, 16)


def test_a_network_of_other_channels_is_refused(tmp_path: Path) -> None:
    folder = _grey_vit(tmp_path / "vit", [0.5, 0.5, 0.5], channels=4)
    with pytest.raises(UserError, match=r"must read 3 channels, or 1 of grey, .*vit reads 4"):
        load_pretrained(folder, ("a", "b"), "image")
    assert configured_channels(torch.nn.Linear(2, 2), "own") == 3


def test_plain_images_of_grey_come_back(tmp_path: Path) -> None:
    plain = PlainImages("x", (4, 6), (0.5,), (0.25,))
    plain.save(tmp_path)
    assert load_preprocessor(tmp_path, "image") == plain
    assert plain.prepare([_picture()], 0).batch([0])["x"].shape == (1, 1, 4, 6)
    with pytest.raises(UserError, match="three numbers each, or one for grey images"):
        PlainImages("x", (4, 6), (0.5, 0.5), (0.5, 0.5))
    with pytest.raises(UserError, match="three numbers each, or one for grey images"):
        PlainImages("x", (4, 6), (0.5,))
    with pytest.raises(UserError, match="three means, or one of grey, it has 2"):
        ImagePreprocessor(type("Processor", (), {"image_mean": [0.5, 0.5]})()).prepare([], 0)


OWN_GREY = """
from torch import nn


class Grey(nn.Module):
    image_size = 8

    def __init__(self, classes):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, classes)

    def forward(self, images):
        return self.head(self.second(self.first(images).relu()).relu().mean((2, 3)))
"""


@pytest.mark.parametrize("flags", [(), ("--mean", "0.4", "--std", "0.2")])
def test_a_grey_network_of_ones_own(
    nas_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    name = f"own_grey_{len(flags)}"
    (tmp_path / f"{name}.py").write_text(OWN_GREY)
    monkeypatch.chdir(tmp_path)
    given = ["--data", write_images(tmp_path / "images"), "--out", tmp_path / "run", "--steps", 2, "--order", "none"]
    answer = nas_command("finetune", f"{name}:Grey", *given, *flags)
    assert answer.status == 0, answer.err
    saved = load_preprocessor(tmp_path / "run" / "supernet", "image")
    assert isinstance(saved, PlainImages)
    assert (saved.mean, saved.std) == (((0.4,), (0.2,)) if flags else ((0.5,), (0.5,)))


def test_colours_are_what_a_network_is_asked_first() -> None:
    assert probed_channels(torch.nn.Flatten(), "input", (2, 2)) == 3
    assert probed_channels(torch.nn.Linear(3, 3), "input", (2, 2)) == 3


# Adapters ------------------------------------------------------------------------------------------------------------


def _rename(folder: Path, names: dict[str, str]) -> Path:
    path = folder / "model.safetensors"
    weights = {names.get(name, name): tensor for name, tensor in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    return folder


def test_the_head_that_peft_trained_is_used(tmp_path: Path) -> None:
    module = toy_task.bert()
    kept = {f"classifier.{kind}": f"classifier.modules_to_save.default.{kind}" for kind in ("weight", "bias")}
    folder = _rename(folder_of(module, tmp_path / "peft"), kept)
    path = folder / "model.safetensors"
    before = {f"classifier.original_module.{kind}": torch.zeros(2, *shape) for kind, shape in (("weight", (16,)),)}
    save_file(load_file(path) | before, path, metadata={"format": "pt"})
    loaded, _ = load_pretrained(folder, ("no", "yes"), "text")
    assert toy_task.same(toy_task.weights(loaded), toy_task.weights(module))


def test_the_names_of_a_wrapped_network_are_those_inside(tmp_path: Path) -> None:
    module = toy_task.bert()
    names = {name: f"base_model.model.{name}" for name in module.state_dict()}
    folder = _rename(folder_of(module, tmp_path / "peft"), names)
    loaded, _ = load_pretrained(folder, ("no", "yes"), "text")
    assert toy_task.same(toy_task.weights(loaded), toy_task.weights(module))


def test_adapters_that_are_not_merged_are_refused(tmp_path: Path) -> None:
    folder = folder_of(toy_task.bert(), tmp_path / "peft")
    path, layer = folder / "model.safetensors", "bert.encoder.layer.0.attention.self.query"
    more = {f"{layer}.lora_A.default.weight": torch.zeros(2, 16)}
    save_file(load_file(path) | more, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"query\.lora_A\.default\.weight is that of an adapter: merge it first"):
        load_pretrained(folder, ("no", "yes"), "text")
    (folder / "adapter_config.json").write_text("{}")
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match="holds an adapter alone: merge it"):
        load_pretrained(folder, ("no", "yes"), "text")


def test_weights_of_other_heads_are_said(tmp_path: Path) -> None:
    from transformers import BertForMaskedLM

    said: list[str] = []
    folder = folder_of(BertForMaskedLM(toy_task.bert().config), tmp_path / "pretrained")
    load_pretrained(folder, CLASSES, "text", say=said.append)
    assert len(said) == 1
    assert re.search(r"The head of .* is made new: its weights cls\.predictions\..* are of other heads", said[0])


# What no file can be made of -----------------------------------------------------------------------------------------


def test_a_network_without_an_onnx_file_is_refused_before_the_training(
    nas_command: Command, inputs: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, FNetConfig, FNetForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(inputs / "model")
    config = FNetConfig(vocab_size=len(tokenizer), **{**_SIZES, "num_attention_heads": None}, pad_token_id=0)
    FNetForSequenceClassification(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    given = ["--data", inputs / "reviews.csv", "--out", tmp_path / "run", "--steps", 2, "--order", "none"]
    answer = nas_command("finetune", tmp_path / "model", *given)
    refused(answer, "could not be exported, so nothing is trained")
    assert "Next steps" not in answer.err and "\x1b" not in answer.err
    assert not (tmp_path / "run").exists()


def test_a_preprocessor_changes_a_tokenizer_once() -> None:
    tokenizer = toy_task.preprocessor().tokenizer
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    assert set(TextPreprocessor(tokenizer).tokenizer("good")) == {"input_ids", "attention_mask"}
