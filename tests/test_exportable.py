"""What is fine-tuned can be opened again and exported: lists by layer, rewritten attention, a check before training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command
from test_bad_input import refused
from test_cli_tasks import write_images
from torch import nn

from hardware.onnxruntime import OnnxRuntimeBackend
from nas.exporting.folder import check_exportable
from nas.learning import preparation
from nas.networks.untrained import made_inputs, untrained
from nas.runs.folder import RunFolder
from nas.runs.loading import load_run
from search_spaces import Supernet, plain_attention, space
from search_spaces.families.plain_attention import PlainAttention, fused_attention
from search_spaces.supernets.layer_lists import layer_lists, with_kept_blocks
from tests import toy_task

_SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}


def modern_bert() -> nn.Module:
    from transformers import ModernBertConfig, ModernBertForSequenceClassification

    ids = {f"{name}_token_id": number for number, name in enumerate(("pad", "bos", "eos", "cls", "sep"))}
    settings = {**_SIZES, "num_hidden_layers": 4, "vocab_size": 40, "max_position_embeddings": 32}
    torch.manual_seed(0)
    return ModernBertForSequenceClassification(ModernBertConfig(**settings, **ids, local_attention=4)).eval()


def siglip(folder: Path) -> Path:
    from transformers import SiglipConfig, SiglipForImageClassification, SiglipImageProcessorPil

    vision, text = {**_SIZES, "image_size": 16, "patch_size": 8}, {**_SIZES, "vocab_size": 50}
    torch.manual_seed(0)
    SiglipForImageClassification(SiglipConfig(vision_config=vision, text_config=text)).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def test_lists_by_layer_are_cut_with_the_blocks() -> None:
    model = modern_bert()
    kinds = model.config.layer_types
    assert len(set(kinds)) == 2
    supernet = Supernet(model, space(model, drop_order=lambda count: (1, 2), depth=(2, 3, 4), heads=(), ffn=()))
    ids = torch.from_numpy(np.random.default_rng(0).integers(5, 40, (2, 20)))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for depth, kept in ((4, (0, 1, 2, 3)), (3, (0, 2, 3)), (2, (0, 3))):
        candidate = supernet.space.candidate({"depth": depth})
        network = supernet.extract(candidate)
        assert network.config.layer_types == [kinds[index] for index in kept]
        assert network.config.num_hidden_layers == depth
        with torch.no_grad():
            assert torch.equal(supernet(candidate, **inputs).logits, network(**inputs).logits)
        check_exportable(network, inputs, onnx=False)
    assert model.config.layer_types == kinds


def test_only_lists_of_blocks_are_cut() -> None:
    config = toy_task.bert().config
    assert layer_lists(config, 2) == []
    assert with_kept_blocks(config, 2, (0,)) is config
    config.layer_types, config.out_indices, config.block_sizes = ["a", "b"], [0, 1], (3, 4)
    assert layer_lists(config, 2) == ["layer_types", "block_sizes"]
    assert layer_lists(config, 3) == []
    cut = with_kept_blocks(config, 2, (1,))
    assert (cut.layer_types, cut.block_sizes, cut.out_indices, cut.num_hidden_layers) == (["b"], (4,), [0, 1], 1)
    assert (config.layer_types, config.num_hidden_layers) == (["a", "b"], 2)


def test_rewritten_attention_is_opened_again_and_exported(nas_command: Command, tmp_path: Path) -> None:
    model, run = siglip(tmp_path / "model"), tmp_path / "run"
    given = ["--data", write_images(tmp_path / "images"), "--out", run, "--steps", 2, "--order", "none"]
    answer = nas_command("finetune", model, *given)
    assert answer.status == 0, answer.err
    loaded = load_run(RunFolder(run), "cpu")
    assert any(isinstance(part, PlainAttention) for part in loaded.supernet.modules())
    smallest = {choice.name: choice.options[0] for choice in loaded.supernet.space.choices}
    network = loaded.extract(loaded.supernet.space.candidate(smallest))
    check_exportable(network, loaded.example(1), onnx=False)
    # A profile of the model by name is one of the same super-network.
    profiled = untrained(str(model))
    assert space(profiled, made_inputs(profiled, 2, 8)) == loaded.supernet.space


def test_attention_comes_back_as_it_was() -> None:
    torch.manual_seed(0)
    model = nn.ModuleList([nn.MultiheadAttention(8, 2, bias=bias, batch_first=True) for bias in (True, False)]).eval()
    plain = plain_attention(model)
    again = fused_attention(plain)
    assert toy_task.same(toy_task.weights(model), toy_task.weights(again))
    assert [part.num_heads for part in again] == [2, 2]
    plain[0].q = nn.Linear(8, 4)
    assert [type(part) for part in fused_attention(plain)] == [PlainAttention, nn.MultiheadAttention]
    assert fused_attention(model) is model


def test_what_cannot_be_exported_is_refused_before_the_training(
    nas_command: Command, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nas.exporting.network_files import ExportError

    def fails(*args: object, **kwargs: object) -> None:
        raise ExportError("the card's loader fails: ValueError: no such layer")

    monkeypatch.setattr(preparation, "check_exportable", fails)
    for dry in ((), ("--dry-run",)):
        given = ["--data", inputs / "reviews.csv", "--out", tmp_path / "run", *dry]
        refused(nas_command("finetune", inputs / "model", *given), "could not be exported, so nothing is trained")
    assert not (tmp_path / "run").exists()


def test_a_network_of_xlnet_has_no_limit_of_length(
    tmp_path: Path, nas_command: Command, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer, XLNetConfig, XLNetForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(inputs / "model")
    config = XLNetConfig(vocab_size=len(tokenizer), d_model=16, n_layer=2, n_head=2, d_inner=16, pad_token_id=0)
    XLNetForSequenceClassification(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": int(1e30)}))
    # That its ONNX file is right is the next test, on a smaller network.
    monkeypatch.setattr(preparation, "_EXPORTED", {"XLNetForSequenceClassification"})
    given = ["--data", inputs / "reviews.csv", "--out", tmp_path / "run", "--steps", 2, "--order", "none"]
    answer = nas_command("finetune", tmp_path / "model", *given)
    assert answer.status == 0, answer.err


def test_a_number_minus_a_mask_of_integers_can_be_exported(tmp_path: Path) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            padding = 1.0 - attention_mask
            return self.head((self.words(input_ids) * (1.0 - padding)[..., None]).mean(1))

    ids = torch.arange(12).reshape(2, 6) % 9
    inputs = {"input_ids": ids, "attention_mask": (ids > 1).long()}
    assert OnnxRuntimeBackend().convert(Masked().eval(), inputs, tmp_path).is_file()
