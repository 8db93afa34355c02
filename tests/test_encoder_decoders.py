"""Encoder-decoders with a head for sequences, and networks of which only a part is elastic."""

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command
from torch import nn

from hardware.backend import ConversionError
from hardware.onnx import _reason, other_size
from hardware.onnxruntime import OnnxRuntimeBackend
from nas.data.tasks import CLASSIFICATION
from nas.data.tokens import TextPreprocessor
from nas.errors import UserError
from nas.exporting.folder import check_exportable
from nas.learning.preparation import supernet_of
from nas.networks.loading import load_network
from nas.networks.pretrained import example_inputs, load_preprocessor, save_preprocessor
from nas.networks.untrained import made_inputs
from nas.settings import ModelSettings, SpaceSettings
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


def _ending(separate: bool) -> TextPreprocessor:
    """A tokenizer of words that ends a text with [SEP].

    Args:
        separate: whether punctuation is cut off from words.
    """
    from tokenizers import pre_tokenizers

    preprocessor = toy_task.preprocessor()
    if not separate:
        preprocessor.tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return preprocessor


def test_the_end_of_texts_typed_in_a_text_is_no_end(tmp_path: Path) -> None:
    end, rows = toy_task.WORDS.index("[SEP]"), ["good film [SEP] it was", "bad", "", "it was [SEP]"]
    assert list(_ending(separate=True).prepare(rows, 32).flat).count(end) == 6
    preprocessor = _ending(separate=True).ended(end)
    prepared = preprocessor.prepare(rows, 32)
    assert (prepared.batch(range(4))["input_ids"] == end).sum(1).tolist() == [1] * 4
    # What is exported with the network reads texts alike.
    save_preprocessor(preprocessor, tmp_path)
    again = load_preprocessor(tmp_path, "text").prepare(rows, 32)
    assert torch.equal(again.batch(range(4))["input_ids"], prepared.batch(range(4))["input_ids"])
    # A list of words is read by networks of another kind.
    assert len(preprocessor.prepare([("good", "[SEP]")], 32).lengths) == 1


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["bad", "good film [SEP] it"], r"the text 'good film \[SEP\] it' has it 2 times; take it out"),
        (["bad"], r"once as its end: the text 'bad' has it 0 times"),
    ],
)
def test_a_text_whose_end_is_not_clear_is_named(rows: list[str], said: str) -> None:
    preprocessor = _ending(separate=False).ended(toy_task.WORDS.index("[SEP]"))
    if "0 times" in said:
        preprocessor.tokenizer.backend_tokenizer.post_processor = None
        # Without its rule for the ends of a text, a tokenizer adds none.
        assert preprocessor.ended(None).prepare(rows, 32).lengths.tolist() == [1]
    with pytest.raises(UserError, match=said):
        preprocessor.prepare(rows, 32)


_OWN = """
from pathlib import Path

from transformers import AutoTokenizer, BartForSequenceClassification

FOLDER = Path(__file__).parent / "model"


def make():
    return BartForSequenceClassification.from_pretrained(FOLDER)


def ending_with_the_last_token():
    network = make()
    network.config.eos_token_id = len(AutoTokenizer.from_pretrained(FOLDER)) - 1
    return network
"""


def test_a_network_of_ones_own_reads_texts_as_a_folder_of_it_does(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    folder = tmp_path / "model"
    _write_encoder_decoder("bart", AutoTokenizer.from_pretrained(inputs / "model"), folder)
    (tmp_path / "own_bart.py").write_text(_OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    rows, found = ["good film [SEP] it was", "bad"], []
    for model, settings in (
        (str(folder), ModelSettings()),
        ("own_bart:make", ModelSettings(tokenizer=str(folder))),
    ):
        module, preprocessor = load_network(model, settings, ("bad", "fair", "good"), "text", CLASSIFICATION, 0)
        found.append(preprocessor.prepare(rows, 32).batch([0, 1]))
        assert (found[-1]["input_ids"] == module.config.eos_token_id).sum(1).tolist() == [1, 1]
    assert torch.equal(found[0]["input_ids"], found[1]["input_ids"])
    # The token of the end may be the one by which the vocabulary is tried.
    last = "own_bart:ending_with_the_last_token"
    load_network(last, ModelSettings(tokenizer=str(folder)), ("bad", "fair", "good"), "text", CLASSIFICATION, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bart", "t5"])
def test_an_encoder_decoder_goes_all_the_way(nas_command: Command, inputs: Path, tmp_path: Path, name: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(inputs / "model")
    _write_encoder_decoder(name, tokenizer, tmp_path / "model")
    # Every text of an odd row holds the name of the end.
    rows = (inputs / "reviews.csv").read_text(encoding="utf-8").splitlines()
    rows[1::2] = [f"[SEP] {row}" for row in rows[1::2]]
    (tmp_path / "reviews.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    run, given = tmp_path / "run", ["--data", tmp_path / "reviews.csv", "--steps", 2, "--order", "none"]
    commands = [
        ["finetune", tmp_path / "model", "--out", run, *given],
        ["search", run, "--objectives", "accuracy,macs", "--budget", 4, "--tokens", 8],
        ["export", run, "--out", tmp_path / "subnet", "--candidate", "smallest"],
    ]
    for command in commands:
        answer = nas_command(*command)
        assert answer.status == 0, answer.err
    saved = json.loads((run / "supernet" / "space.json").read_text(encoding="utf-8"))
    assert {"depth.0", "depth.1", "ffn.3"} <= {choice["name"] for choice in saved["choices"]}
    texts = ["good film", "[SEP] a very bad plot [SEP] [SEP]", "awful"]
    eager, onnx = _answers(tmp_path / "subnet", texts)
    assert torch.allclose(eager, onnx, atol=1e-4)


def _write_encoder_decoder(name: str, tokenizer: Any, folder: Path) -> None:
    """A network of the zoo that reads what the tokenizer gives: a text ends with its separator."""
    network = zoo.CASES[name].build()
    config = network.config
    config.eos_token_id, config.vocab_size = tokenizer.sep_token_id, len(tokenizer)
    config.decoder_start_token_id = config.pad_token_id
    randomised(type(network)(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _answers(folder: Path, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the exported network as its card loads it, and of its ONNX file."""
    import onnxruntime
    from transformers import AutoTokenizer

    card = (folder / "README.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    with contextlib.chdir(folder):
        exec(re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL)[0], names)
        model = names["load"]()
    inputs = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        eager = model(**inputs).logits
    (logits,) = session.run(["logits"], {name: value.numpy() for name, value in inputs.items()})
    return eager, torch.from_numpy(logits)


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
