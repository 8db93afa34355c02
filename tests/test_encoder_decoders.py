"""Encoder-decoders with a head for sequences, and networks of which only a part is elastic."""

import json
from pathlib import Path

import pytest
import torch
from conftest import Command
from torch import nn

from hardware.backend import ConversionError
from hardware.onnx import _reason, other_size
from hardware.onnxruntime import OnnxRuntimeBackend
from nas.exporting.folder import check_exportable
from nas.learning.preparation import supernet_of
from nas.networks.pretrained import example_inputs
from nas.networks.untrained import made_inputs
from nas.settings import SpaceSettings
from search_spaces import Supernet, space
from search_spaces.inputs import default_inputs, end_texts
from search_spaces.selecting import LastSelected
from tests import toy_task, zoo
from tests.networks import FusedBlock, PlainTransformer, randomised


def test_the_last_selected_token_is_what_the_forward_reads() -> None:
    x = torch.randn(3, 5, 4)
    mask = torch.tensor([[0, 1, 0, 0, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 0]], dtype=torch.bool)
    expected = x[mask, :].view(3, -1, 4)[:, -1, :]
    with LastSelected():
        assert torch.equal(x[mask, :].view(3, -1, 4)[:, -1, :], expected)
        assert torch.unique_consecutive(mask.sum(1)).numel() == 1
        # All other indexing is as ever.
        assert torch.equal(x[:, 1], x.select(1, 1))
        assert torch.equal(x[0][mask[0], :], x[0].index_select(0, torch.tensor([1, 4])))


def test_made_up_texts_end_where_an_encoder_decoder_looks() -> None:
    model = zoo.CASES["bart"].build()
    inputs = default_inputs(model)
    assert (inputs["input_ids"] == 2).sum(1).tolist() == [1, 1]
    last = inputs["attention_mask"].sum(1) - 1
    assert inputs["input_ids"][torch.arange(2), last].tolist() == [2, 2]
    for made in (made_inputs(model, 3, 6), example_inputs(model, "text", toy_task.preprocessor(), tokens=6)):
        for case in (made, other_size(made)):
            ends = dict(case)["input_ids"] == 2
            assert ends.sum(1).tolist() == [1] * len(ends) and ends[:, -1].all()
            model(**dict(case))
    ids = torch.tensor([[2, 2, 5]])
    assert end_texts(ids, toy_task.bert().config) is ids
    assert end_texts(ids, model.config).tolist() == [[3, 3, 2]]


@pytest.mark.slow
def test_an_encoder_decoder_is_fine_tuned(nas_command: Command, inputs: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, BartForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(inputs / "model")
    config = zoo.CASES["bart"].build().config
    # A text ends with the token of the end of sentences.
    config.eos_token_id = config.decoder_start_token_id = tokenizer.sep_token_id
    config.vocab_size = len(tokenizer)
    BartForSequenceClassification(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    given = ["--data", inputs / "reviews.csv", "--out", tmp_path / "run", "--steps", 2, "--order", "none"]
    answer = nas_command("finetune", tmp_path / "model", *given)
    assert answer.status == 0, answer.err
    saved = json.loads((tmp_path / "run" / "supernet" / "space.json").read_text(encoding="utf-8"))
    assert {"depth.0", "depth.1", "heads.0", "ffn.3"} <= {choice["name"] for choice in saved["choices"]}


@pytest.mark.parametrize("name", ["convnext-v2", "bart"])
def test_stages_that_lose_blocks_are_built_again(name: str) -> None:
    # The number of blocks of one stage may be the number of stages, or that of the blocks of the other side.
    model = zoo.CASES[name].build()
    inputs = default_inputs(model)
    found = space(model, inputs, depth=(0.5,), heads=(), ffn=(), channels=())
    assert [choice.name for choice in found.choices] == ["depth.0", "depth.1"]
    supernet = Supernet(model, found)
    for depths in ((1, 2), (2, 1), (1, 1)):
        candidate = found.candidate(
            {**found.full(), "depth.0": depths[0], "depth.1": found["depth.1"].options[depths[1] - 1]}
        )
        check_exportable(supernet.extract(candidate), inputs, onnx=False)


def test_a_kind_that_cannot_be_narrowed_is_named_and_left_out() -> None:
    model, said = zoo.CASES["convnext-v2"].build(), []
    elastic = SpaceSettings(depth="0.5", heads="0.5", ffn="0.5")
    supernet = supernet_of(model, None, elastic, say=said.append)
    assert {choice.name.partition(".")[0] for choice in supernet.space.choices} == {"depth"}
    assert len(said) == 1 and said[0].startswith("Left at full size") and said[0].endswith(": heads, ffn")
    network = randomised(PlainTransformer(FusedBlock))
    said.clear()
    space(network, network.inputs, heads=(1,), ffn=(0.5,), say=said.append)
    assert said == []
    with pytest.raises(ValueError, match="sizes of channels must be given for something that the model can narrow"):
        space(network, network.inputs, channels=(0.5,), say=said.append)


@pytest.mark.parametrize("name", ["convnext-v2", "pvt-v2", "levit"])
def test_networks_of_short_stages_have_sub_networks_by_default(name: str) -> None:
    model = zoo.CASES[name].build()
    assert any(choice.name.startswith("depth") for choice in space(model).choices)


def test_an_input_that_a_forward_does_not_name_is_named(tmp_path: Path) -> None:
    class Unnamed(nn.Linear):
        def forward(self, input: torch.Tensor, **more: torch.Tensor) -> torch.Tensor:
            return super().forward(input)

    inputs = {"input": torch.randn(2, 3), "attention_mask": torch.ones(2, 3)}
    with pytest.raises(ConversionError, match=r"forward of Unnamed must name its inputs .* not name attention_mask"):
        OnnxRuntimeBackend().convert(Unnamed(3, 2), inputs, tmp_path)


def test_a_reason_is_one_line_without_colours_or_advice() -> None:
    advice = (
        "Failed to convert. \x1b[96mThis is step 3/3\x1b[0m of exporting the model to ONNX. Next steps:\n- Do this."
    )
    assert _reason(ValueError(advice)) == "Failed to convert. This is step 3/3 of exporting the model to ONNX."
    assert _reason(ValueError()) == "ValueError"
    assert len(_reason(ValueError("a" * 999))) == 300
