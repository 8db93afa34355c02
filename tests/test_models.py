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

from nas.data.accuracy import logits_of
from nas.data.pixels import PlainImages
from nas.data.tasks import Regression, TokenClassification
from nas.errors import UserError
from nas.networks.pretrained import (
    example_inputs,
    load_preprocessor,
    load_pretrained,
    most_tokens,
    same_labels,
    save_preprocessor,
)
from search_spaces import space
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


def test_heads_of_other_tasks_are_left_out(tmp_path: Path) -> None:
    from transformers import BertForPreTraining

    folder = folder_of(BertForPreTraining(toy_task.bert().config), tmp_path / "pretrained")
    assert load_pretrained(folder, CLASSES, "text")[0].classifier.out_features == 3
    # The pooler belongs to no word.
    load_pretrained(folder, CLASSES, "text", task=TokenClassification())


def test_a_bias_without_a_place_is_refused(tmp_path: Path) -> None:
    folder = decoder(tmp_path / "llama")
    path = folder / "model.safetensors"
    name = "model.layers.0.self_attn.q_proj.bias"
    save_file(load_file(path) | {name: torch.zeros(16)}, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"the file has {name}, for which the network has no place"):
        load_pretrained(folder, CLASSES, "text")


def decoder(folder: Path) -> Path:
    """As decoders are published: their tokenizer has an end of texts and no padding, and they return caches."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 24}
    words = len(toy_task.WORDS)
    LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=words, max_position_embeddings=32)).save_pretrained(folder)
    tokenizer = toy_task.preprocessor().tokenizer
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    tokenizer.save_pretrained(folder)
    return folder


def test_a_decoder_without_padding_reads_rows_of_all_lengths(tmp_path: Path) -> None:
    module, preprocessor = load_pretrained(decoder(tmp_path / "llama"), CLASSES, "text")
    inputs = preprocessor.prepare(["good film", "bad"], 128)
    with torch.no_grad():
        both, alone = module(**inputs.batch([0, 1])), module(**inputs.batch([1]))
    assert set(both) == {"logits"}, "no cache"
    torch.testing.assert_close(both.logits[1:], alone.logits)
    save_preprocessor(preprocessor, tmp_path / "saved")
    assert load_preprocessor(tmp_path / "saved", "text").tokenizer.pad_token == "[SEP]"
    assert space(module)["depth"].options == (1, 2)


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


# Tasks ---------------------------------------------------------------------------------------------------------------


def test_every_task_gets_its_head(bert: Path) -> None:
    number, preprocessor = load_pretrained(bert, ("score",), "text", task=Regression())
    batch = preprocessor.prepare(["good film", "bad"], 128).batch([0, 1])
    assert logits_of(number(**batch)).shape == (2, 1)
    assert number.config.problem_type == "regression"
    tags, preprocessor = load_pretrained(bert, CLASSES, "text", task=TokenClassification())
    batch = preprocessor.prepare([("good", "film"), ("bad",)], 128).batch([0, 1])
    assert logits_of(tags(**batch)).shape == (2, 4, 3)
    with pytest.raises(UserError, match="needs rows of words, got image rows"):
        load_pretrained(bert, CLASSES, "image", task=TokenClassification())


def test_words_of_a_tokenizer_that_marks_them_by_spaces_are_words(tmp_path: Path) -> None:
    from transformers import RobertaTokenizer

    letters = ["<s>", "<pad>", "</s>", "<unk>", "a", "b", "Ġ", "Ġa"]
    tokenizer = RobertaTokenizer(vocab={letter: i for i, letter in enumerate(letters)}, merges=[("Ġ", "a")])
    tokenizer.save_pretrained(tmp_path)
    words = load_preprocessor(tmp_path, "text", TokenClassification())
    inputs = words.prepare([("a", "ab")], 128)
    assert inputs.batch([0])["input_ids"].tolist() == [[0, 7, 7, 5, 2]]
    assert inputs.first_words([0]).tolist() == [[-1, 0, 1, -1, -1]]
    save_preprocessor(words, tmp_path / "saved")
    again = load_preprocessor(tmp_path / "saved", "text").prepare([("a", "ab")], 128)
    assert again.batch([0])["input_ids"].tolist() == [[0, 7, 7, 5, 2]]


def test_texts_end_where_the_model_ends(bert: Path, tmp_path: Path) -> None:
    path = bert / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": 10**30}))
    module, preprocessor = load_pretrained(bert, CLASSES, "text")
    inputs = preprocessor.prepare(["it " * 100, "it " * 30, "it " * 31], 512)
    assert inputs.lengths.tolist() == [32, 32, 32]
    assert inputs.truncated == 2
    assert logits_of(module(**inputs.batch([0]))).shape == (1, 3)
    save_preprocessor(preprocessor, tmp_path / "saved")
    assert load_preprocessor(tmp_path / "saved", "text").prepare(["it " * 100], 512).lengths.tolist() == [32]


def test_a_replaced_head_is_said(bert: Path, tmp_path: Path) -> None:
    folder, said = folder_of(toy_task.bert(), tmp_path / "tuned"), []
    load_pretrained(folder, ("no", "yes"), "text", say=said.append)
    load_pretrained(bert, CLASSES, "text", say=said.append)
    assert said == []
    load_pretrained(folder, CLASSES, "text", say=said.append)
    assert said == [f"{folder} was trained for 2 outputs: its head is made new for 3"]


def test_a_head_of_another_width_is_refused(tmp_path: Path) -> None:
    folder = folder_of(toy_task.bert(), tmp_path / "tuned")
    path = folder / "model.safetensors"
    save_file(load_file(path) | {"classifier.weight": torch.zeros(2, 9)}, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"classifier\.weight must have the shape \(2, 16\), the file has \(2, 9\)"):
        load_pretrained(folder, ("no", "yes"), "text")


def test_a_teacher_must_have_the_labels_of_the_data(bert: Path) -> None:
    teacher, _ = load_pretrained(bert, CLASSES, "text")
    same_labels(teacher, CLASSES)
    same_labels(teacher, ("BAD", "Good", "odd"))
    same_labels(teacher, ("0", "1", "2"))
    same_labels(toy_task.bert(), ("bad", "good"))
    same_labels(nn.Linear(2, 2), CLASSES)
    with pytest.raises(
        UserError, match=r"must tell apart the 2 labels of the data, it has 3 outputs \(bad, good, odd\)"
    ):
        same_labels(teacher, CLASSES[:2])
    with pytest.raises(UserError, match="output 1 is good, the data's label is odd"):
        same_labels(teacher, ("bad", "odd", "good"))


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


def fewer_layers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))


def more_tokens(folder: Path) -> None:
    tokenizer = load_preprocessor(folder, "text").tokenizer
    tokenizer.add_tokens(["unheard"])
    tokenizer.save_pretrained(folder)


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
        (fewer_layers, r"the file has .*layer\.1\.attention\.output\.LayerNorm\.bias, for which .* no place \(16 have"),
        (more_tokens, "must be that of its network: the network knows 16 tokens, the tokenizer has 17"),
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
