"""Loading networks: the same bits from the same seed, safetensors only, and one sentence for what cannot be loaded."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from nas.accuracy import logits_of
from nas.errors import UserError
from nas.models import example_inputs, load_preprocessor, load_pretrained, most_tokens, save_preprocessor
from nas.preprocessing import PlainImages
from tests import toy_task
from tests.families import build

CLASSES = ("bad", "good", "odd")


def folder_of(module: nn.Module, folder: Path) -> Path:
    module.save_pretrained(folder)
    save_preprocessor(toy_task.preprocessor(), folder)
    return folder


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A folder like those of sentence-transformers: the bare encoder."""
    return folder_of(toy_task.bert().bert, tmp_path / "bert")


def vit(tmp_path: Path) -> Path:
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=16, patch_size=8
    )
    ViTModel(config).save_pretrained(tmp_path / "vit")
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def test_a_bare_encoder_gets_a_head_from_the_seed(bert: Path, capfd: pytest.CaptureFixture[str]) -> None:
    state = torch.get_rng_state()
    first, preprocessor = load_pretrained(bert, CLASSES, "text", seed=3)
    again, _ = load_pretrained(str(bert), CLASSES, "text", seed=3)
    other, _ = load_pretrained(bert, CLASSES, "text", seed=4)
    assert capfd.readouterr() == ("", "")
    assert torch.equal(torch.get_rng_state(), state)
    assert toy_task.same(toy_task.weights(first), toy_task.weights(again))
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert type(first).__name__ == "BertForSequenceClassification"
    assert first.config.id2label == dict(enumerate(CLASSES))
    saved = toy_task.bert().bert.state_dict()
    assert all(torch.equal(first.bert.state_dict()[name], tensor) for name, tensor in saved.items())
    assert not first.training
    batch = preprocessor.prepare(["good film", "bad"], 128).batch([0, 1])
    assert first(**batch).logits.shape == (2, 3)


def test_a_trained_head_of_the_same_size_is_kept_and_another_replaced(tmp_path: Path) -> None:
    module = toy_task.bert()
    folder = folder_of(module, tmp_path / "tuned")
    kept, _ = load_pretrained(folder, ("no", "yes"), "text")
    assert toy_task.same(toy_task.weights(kept), toy_task.weights(module))
    replaced, _ = load_pretrained(folder, CLASSES, "text")
    assert replaced.classifier.weight.shape == (3, 16)


def test_weights_are_float32_whatever_the_file_holds(bert: Path) -> None:
    path = bert / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    module, _ = load_pretrained(bert, CLASSES, "text")
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


def test_images(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = vit(tmp_path)
    capfd.readouterr()
    module, preprocessor = load_pretrained(folder, CLASSES, "image")
    assert capfd.readouterr() == ("", "")
    assert type(preprocessor.processor).__name__ == "ViTImageProcessorPil"
    inputs = example_inputs(module, "image", preprocessor, batch=3)
    assert inputs["pixel_values"].shape == (3, 3, 16, 16)
    assert module(**inputs).logits.shape == (3, 3)
    save_preprocessor(preprocessor, tmp_path)
    again = load_preprocessor(tmp_path, "image")
    buffer = io.BytesIO()
    Image.new("L", (20, 9), 77).save(buffer, "PNG")
    rows = [buffer.getvalue()]
    assert torch.equal(
        preprocessor.prepare(rows, 0).batch([0])["pixel_values"], again.prepare(rows, 0).batch([0])["pixel_values"]
    )


def test_example_inputs_fit_and_stay_the_same(bert: Path) -> None:
    module, preprocessor = load_pretrained(bert, CLASSES, "text")
    first, again = (example_inputs(module, "text", preprocessor, tokens=20) for _ in range(2))
    assert first["input_ids"].shape == (2, 20)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert example_inputs(module, "text", preprocessor, tokens=99)["input_ids"].shape == (2, 32)
    assert logits_of(module(**first)).shape == (2, 3)


# Bad input -----------------------------------------------------------------------------------------------------------


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def damaged_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def damaged_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"no weights")


def unknown_architecture(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "mystery"}))


def own_code(folder: Path) -> None:
    auto = dict.fromkeys(("AutoConfig", "AutoModelForSequenceClassification"), "evil.Evil")
    (folder / "config.json").write_text(json.dumps({"model_type": "mystery", "auto_map": auto}))
    (folder / "evil.py").write_text("raise SystemExit('code of the folder ran')")


def other_width(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))


def more_layers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("*token*"):
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_config, "must hold a config.json"),
        (no_weights, "must hold its weights as safetensors, it holds no weights"),
        (pickle_only, "must hold its weights as safetensors, it holds pytorch_model.bin, which may run code"),
        (damaged_config, "cannot be loaded"),
        (damaged_weights, "damaged|cannot be loaded"),
        (unknown_architecture, "cannot be loaded .*mystery"),
        (own_code, "cannot be loaded"),
        (
            other_width,
            r"layer\.0\.intermediate\.dense\.weight must have the shape \(48, 16\), the file has \(24, 16\) \(6",
        ),
        (more_layers, r"layer\.2\.attention\.self\.query\.weight is missing \(16 are"),
        (no_tokenizer, "must hold the files of a tokenizer"),
    ],
)
def test_a_folder_that_is_no_model_gets_one_sentence(bert: Path, spoil, message: str) -> None:
    spoil(bert)
    with pytest.raises(UserError, match=message) as caught:
        load_pretrained(bert, CLASSES, "text")
    assert "\n" not in str(caught.value)


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        load_pretrained(tmp_path / "none", CLASSES, "text")
    with pytest.raises(UserError, match="there is no folder"):
        load_pretrained("./none", CLASSES, "text")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        load_pretrained(tmp_path / "file", CLASSES, "text")


def test_a_text_model_for_images(bert: Path) -> None:
    with pytest.raises(UserError, match="cannot be loaded"):
        load_pretrained(bert, CLASSES, "image")


def test_plain_images_come_back(tmp_path: Path) -> None:
    save_preprocessor(PlainImages("x", (5, 7)), tmp_path)
    assert load_preprocessor(tmp_path, "image") == PlainImages("x", (5, 7))
    buffer = io.BytesIO()
    Image.fromarray(np.full((5, 7, 3), 255, dtype=np.uint8)).save(buffer, "PNG")
    pixels = PlainImages("x", (5, 7)).prepare([buffer.getvalue()], 0).batch([0])["x"]
    assert torch.equal(pixels, torch.ones(1, 3, 5, 7))


def test_the_most_tokens_leave_out_positions_below_the_padding_index() -> None:
    assert most_tokens(build("bert")) == 64
    assert most_tokens(build("roberta")) == 62
    assert most_tokens(build("vit")) is None
