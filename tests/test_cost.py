"""Costs against closed formulas and against torch's own counter on real tensors."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

from hardware.cost import Cost, cost
from hardware.memory import peak_of_live


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
        layer_weights=4 * 8 * 9 // 2 + 128 * 5,
        # Input of the convolution and what it gives, which is more than the batch norm's input and output.
        peak_activation_mib=(4 * 8 * 8 + 8 * 4 * 4) * 4 / 2**20,
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


def test_size_by_precision() -> None:
    tied = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 9, bias=False))
    tied[3].weight = tied[0].weight
    costs = cost(tied, (torch.zeros(2, 3, dtype=torch.long),))
    layers, rest = 36 + 54, 6 + 12
    assert (costs.layer_weights, costs.parameters) == (layers, layers + rest)
    sizes = {precision: costs.size_mib_at(precision) * 2**20 for precision in ("float32", "bfloat16", "int8")}
    assert sizes == pytest.approx({"float32": 4 * 108, "bfloat16": 2 * 108, "int8": layers + 4 * rest})
    assert sizes["float32"] == costs.size_mib * 2**20
    with pytest.raises(ValueError, match="one of float32, bfloat16, int8, got int4"):
        costs.size_mib_at("int4")


@pytest.mark.parametrize("seed", range(20))
def test_peak_of_live_bytes_equals_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = {key: int(rng.integers(0, 50)) for key in range(12)}
    steps = [frozenset(rng.choice(12, size=rng.integers(1, 4), replace=False).tolist()) for _ in range(15)]
    given, kept = frozenset({0, 1}), frozenset({2, 3})

    def alive(key: int, step: int) -> bool:
        used = [index for index, touched in enumerate(steps) if key in touched]
        begins = 0 if key in given else min(used, default=len(steps))
        ends = len(steps) - 1 if key in kept else max(used, default=-1)
        return begins <= step <= ends

    expected = max(sum(sizes[key] for key in sizes if alive(key, step)) for step in range(len(steps)))
    assert peak_of_live(sizes, steps, given, kept) == expected


class Residual(nn.Module):
    """Holds its input over two layers; a view and a sum in place need no memory of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(4, 100, bias=False), nn.Linear(100, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.wide(x).view(-1, 10, 10).flatten(1)
        y.relu_()
        out: torch.Tensor = x + self.narrow(y)
        return out


def test_peak_activation_memory() -> None:
    # The input, the wide activations and the narrow result are alive at the second layer.
    assert cost(Residual(), (torch.zeros(3, 4),)).peak_activation_mib == (4 + 100 + 4) * 4 / 2**20
    chain = nn.Sequential(nn.Linear(10, 40), nn.ReLU(), nn.Linear(40, 5))
    assert cost(chain, (torch.zeros(7, 10),)).peak_activation_mib == 80 * 4 / 2**20
    half = cost(chain.to(torch.bfloat16), (torch.zeros(7, 10, dtype=torch.bfloat16),))
    assert half.peak_activation_mib == 80 * 2 / 2**20
    assert cost(nn.Identity(), (torch.zeros(7, 10),)).peak_activation_mib == 10 * 4 / 2**20


@pytest.mark.parametrize("inputs", [(), {}, ("words",)])
def test_inputs_must_be_tensors(inputs: tuple[torch.Tensor, ...]) -> None:
    with pytest.raises(ValueError, match="example inputs must be a tuple or a mapping of tensors"):
        cost(nn.Linear(1, 1), inputs)
