"""A trained head keeps what it knows: its rows in the order of the data's classes, and no task but the new one."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from nas.data.tasks import CLASSIFICATION, Regression, Task, TokenClassification
from nas.data.tokens import TextPreprocessor
from nas.networks.heads import order_head
from nas.networks.pretrained import load_pretrained, most_tokens, save_preprocessor
from tests import toy_task

NAMES = ("positive", "Negative", "neutral")
CLASSES = ("negative", "neutral", "positive")


def trained(folder: Path, names: tuple[str, ...] = NAMES, **config: object) -> nn.Module:
    from transformers import BertForSequenceClassification

    settings = toy_task.bert().config.to_dict() | {"id2label": dict(enumerate(names)), **config}
    settings["label2id"] = {name: number for number, name in enumerate(names)}
    settings.pop("num_labels", None)
    torch.manual_seed(0)
    module = BertForSequenceClassification(type(toy_task.bert().config)(**settings)).eval()
    nn.init.normal_(module.classifier.bias)
    module.save_pretrained(folder)
    save_preprocessor(toy_task.preprocessor(), folder)
    return module


def test_outputs_are_put_in_the_order_of_the_classes(tmp_path: Path) -> None:
    before, said = trained(tmp_path), []
    after, preprocessor = load_pretrained(tmp_path, CLASSES, "text", say=said.append)
    inputs = preprocessor.prepare(["good film", "bad plot"], 32).batch([0, 1])
    with torch.no_grad():
        assert torch.allclose(after(**inputs).logits, before(**inputs).logits[:, [1, 2, 0]], atol=1e-6)
    assert after.config.id2label == dict(enumerate(CLASSES))
    assert len(said) == 1 and "put in the order of the data's classes: negative, neutral, positive" in said[0]


@pytest.mark.parametrize(
    ("names", "classes", "words"),
    [
        (CLASSES, CLASSES, ""),
        (("LABEL_0", "LABEL_1", "LABEL_2"), CLASSES, ""),
        (("cat", "dog", "cow"), CLASSES, "trained for cat, dog, cow"),
    ],
)
def test_other_heads_stay_as_they_are(tmp_path: Path, names, classes, words: str) -> None:
    before, said = trained(tmp_path, names), []
    after, _ = load_pretrained(tmp_path, classes, "text", say=said.append)
    assert toy_task.same(toy_task.weights(before), toy_task.weights(after))
    assert words in " ".join(said) and len(said) == bool(words)


def test_a_head_that_is_made_new_has_no_order(tmp_path: Path) -> None:
    trained(tmp_path)
    bare = tmp_path / "bare"
    toy_task.bert().bert.save_pretrained(bare)
    save_preprocessor(toy_task.preprocessor(), bare)
    usual, _ = load_pretrained(bare, CLASSES, "text")
    config = json.loads((bare / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps(config | {"id2label": {str(i): n for i, n in enumerate(NAMES)}}))
    again, _ = load_pretrained(bare, CLASSES, "text")
    assert toy_task.same(toy_task.weights(usual), toy_task.weights(again))


def test_second_heads_are_ordered_and_hidden_layers_are_not() -> None:
    size = {"hidden_size": 3, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4}
    roberta = RobertaForSequenceClassification(RobertaConfig(vocab_size=9, num_labels=3, **size))
    deit = DeiTForImageClassificationWithTeacher(DeiTConfig(image_size=4, patch_size=2, num_labels=3, **size))
    for module, heads in (
        (roberta, {"classifier.out_proj"}),
        (deit, {"cls_classifier", "distillation_classifier"}),
    ):
        before = toy_task.weights(module)
        order_head(module, f"{module.base_model_prefix}.", (), NAMES, CLASSES, "it")
        changed = {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}
        assert (
            {f"{name}.weight" for name in heads} <= changed <= {f"{h}.{k}" for h in heads for k in ("weight", "bias")}
        )
        for name in heads:
            assert torch.equal(module.state_dict()[f"{name}.weight"], before[f"{name}.weight"][[1, 2, 0]])


@pytest.mark.parametrize(
    ("task", "outputs", "problem"),
    [
        (CLASSIFICATION, CLASSES, "single_label_classification"),
        (Regression(), ("score",), "regression"),
        (TokenClassification(), CLASSES, None),
    ],
)
@pytest.mark.parametrize("former", ["multi_label_classification", "regression"])
def test_the_task_is_the_one_that_is_fine_tuned(
    tmp_path: Path, task: Task, outputs: tuple[str, ...], problem: str | None, former: str
) -> None:
    trained(tmp_path, problem_type=former, finetuning_task="stsb", function_to_apply="none")
    config = load_pretrained(tmp_path, outputs, "text", task=task)[0].config.to_dict()
    assert config.get("problem_type") == problem
    assert not {"finetuning_task", "function_to_apply"} & config.keys()


def test_a_network_without_a_limit_of_length(tmp_path: Path) -> None:
    from transformers import XLNetConfig, XLNetForSequenceClassification

    config = XLNetConfig(vocab_size=len(toy_task.WORDS), d_model=8, n_layer=2, n_head=2, d_inner=16, pad_token_id=0)
    module = XLNetForSequenceClassification(config)
    assert (module.config.max_position_embeddings, most_tokens(module)) == (-1, None)
    module.save_pretrained(tmp_path)
    tokenizer = toy_task.preprocessor().tokenizer
    tokenizer.model_max_length = int(1e30)
    save_preprocessor(TextPreprocessor(tokenizer), tmp_path)
    _, preprocessor = load_pretrained(tmp_path, ("a", "b"), "text")
    assert preprocessor.prepare(["it " * 100], 64).lengths.tolist() == [64]
