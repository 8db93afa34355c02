"""Costs against closed formulas and against torch's own counter on real tensors."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

from hardware.cost import Cost, cost


def _text(rows: int, tokens: int) -> dict[str, torch.Tensor]:
    mask = torch.ones(rows, tokens, dtype=torch.long)
    mask[-1, tokens // 2 :] = 0
    return {"input_ids": torch.ones(rows, tokens, dtype=torch.long), "attention_mask": mask}


def _tiny_bert(attention: str) -> nn.Module:
    config = BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, num_labels=3
    )
    config._attn_implementation = attention
    model: nn.Module = BertForSequenceClassification(config)
    return model.eval()


def test_bert_base_has_the_papers_macs() -> None:
    with torch.device("meta"):
        model = BertForSequenceClassification(BertConfig())
    layer = 4 * 128 * 768 * 768 + 2 * 128 * 128 * 768 + 2 * 128 * 768 * 3072
    assert cost(model, _text(2, 128)).macs == 12 * layer + 768 * 768 + 768 * 2
    assert round(12 * layer / 1e9, 2) == 11.17


def test_vit_base_has_the_papers_macs() -> None:
    with torch.device("meta"):
        model = ViTForImageClassification(ViTConfig(num_labels=1000))
    layer = 4 * 197 * 768 * 768 + 2 * 197 * 197 * 768 + 2 * 197 * 768 * 3072
    macs = cost(model, (torch.zeros(2, 3, 224, 224),)).macs
    assert macs == 12 * layer + 196 * 768 * 768 + 768 * 1000
    assert round(macs / 1e9, 2) == 17.56


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_macs_are_half_of_the_flops_that_torch_counts_in_a_real_forward(attention: str) -> None:
    model, inputs = _tiny_bert(attention), _text(1, 12)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        _tiny_bert("eager")(**inputs)
    assert cost(model, inputs).macs * 2 == counter.get_total_flops()


def test_macs_are_of_one_row_whatever_the_batch() -> None:
    model = _tiny_bert("sdpa")
    assert cost(model, _text(1, 12)) == cost(model, _text(5, 12))
    assert cost(model, _text(1, 24)).macs > 2 * cost(model, _text(1, 12)).macs - 1000


def test_grouped_convolutions_and_strides() -> None:
    module = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, stride=2, groups=2), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(128, 5)
    )
    assert cost(module, (torch.zeros(3, 4, 8, 8),)) == Cost(
        parameters=4 * 8 * 9 // 2 + 8 + 16 + 128 * 5 + 5,
        macs=4 * 4 * 8 * 2 * 9 + 128 * 5,
        size_mib=(4 * 8 * 9 // 2 + 8 + 16 + 128 * 5 + 5) * 4 / 2**20,
    )


def test_tied_weights_count_once_and_size_follows_the_precision() -> None:
    first, second = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
    second.weight = first.weight
    tied = nn.Sequential(first, second)
    costs = cost(tied, (torch.zeros(2, 6),))
    assert (costs.parameters, costs.macs) == (36, 72)
    half = cost(tied.to(torch.bfloat16), (torch.zeros(2, 6, dtype=torch.bfloat16),))
    assert half.size_mib == costs.size_mib / 2


def test_the_module_is_left_as_it_is() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
    before = copy.deepcopy(module.state_dict())
    parameters = [id(parameter) for parameter in module.parameters()]
    cost(module, (torch.randn(6, 4),))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert parameters == [id(parameter) for parameter in module.parameters()]
    assert module.training


@pytest.mark.parametrize("inputs", [(), {}, ("words",)])
def test_inputs_must_be_tensors(inputs: tuple[torch.Tensor, ...]) -> None:
    with pytest.raises(ValueError, match="example inputs must be a tuple or a mapping of tensors"):
        cost(nn.Linear(1, 1), inputs)
