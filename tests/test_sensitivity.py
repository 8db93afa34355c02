"""Sensitivities of layers beside the rise of the loss when one layer is quantized."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hardware.policy import Policy
from nas.networks.fake_quantization import Ranges, calibrate, quantize
from nas.networks.sensitivity import sensitivities
from search_spaces.quantization import PRECISIONS, LayerPrecision
from tests import toy_task

_ROWS = 192


@cache
def _trained() -> tuple[nn.Module, Ranges]:
    """The toy BERT after a short training, and its ranges."""
    module, split = toy_task.bert(dropout=0.0), toy_task.split(_ROWS)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    rng = np.random.default_rng(0)
    for _ in range(4):
        for rows in split.batches(16, rng):
            cross_entropy(module(**split.batch(rows)).logits, split.targets(rows)).backward()
            optimizer.step()
            optimizer.zero_grad()
    return module.eval(), calibrate(module, [dict(split.batch(range(32)))])


def _batches(size: int = 32) -> list[tuple[dict[str, Tensor], Tensor]]:
    split = toy_task.split(_ROWS)
    return [(split.batch(rows), split.targets(rows)) for rows in np.array_split(np.arange(_ROWS), _ROWS // size)]


def _scores(precisions: Sequence[LayerPrecision] = PRECISIONS, size: int = 32) -> dict[str, dict[str, float]]:
    module, ranges = _trained()
    return sensitivities(module, _batches(size), cross_entropy, ranges, precisions)


@torch.no_grad()
def _loss(module: nn.Module) -> float:
    return float(np.mean([float(cross_entropy(module(**inputs).logits, labels)) for inputs, labels in _batches()]))


def test_they_rank_layers_and_precisions_as_the_loss_does() -> None:
    module, ranges = _trained()
    scores, exact = _scores(), _loss(module)
    assert list(scores) == list(ranges.of) and all(list(each) == list(PRECISIONS) for each in scores.values())
    assert all(each["float32"] == 0 and min(each.values()) >= 0 for each in scores.values())
    told, rises = [], []
    for path, options in scores.items():
        for precision in ("int4-weights", "int8"):
            told.append(options[precision])
            rises.append(abs(_loss(quantize(module, ranges, Policy({path: precision}))) - exact))
    assert spearmanr(told, rises).statistic > 0.7
    assert all(each["int4-weights"] > each["int8-weights"] > 0 for each in scores.values())


def test_a_score_is_the_squared_product_of_gradient_and_error() -> None:
    module, ranges = _trained()
    path = "bert.encoder.layer.1.intermediate.dense"
    layer, quantized = module.get_submodule(path), quantize(module, ranges, Policy({path: "int8"})).get_submodule(path)
    kept: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _, args, output: kept.extend((args[0].detach(), output)))
    total = 0.0
    for inputs, labels in _batches(1)[:20]:
        kept.clear()
        loss = cross_entropy(module(**inputs).logits, labels)
        (gradient,) = torch.autograd.grad(loss, kept[1])
        total += float((gradient * (quantized(kept[0]) - kept[1])).detach().square().sum())
    handle.remove()
    found = sensitivities(module, _batches(1)[:20], cross_entropy, ranges, ["int8"])
    assert found[path]["int8"] == pytest.approx(total / 20, rel=1e-3)


def test_neither_batches_nor_other_precisions_matter_and_the_module_stays_as_it_is() -> None:
    module = _trained()[0]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.zero_grad()
    whole, small = _scores(), _scores(("int8",), size=8)
    for path, options in small.items():
        assert options["int8"] == pytest.approx(whole[path]["int8"], rel=1e-3)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(value.grad is None and value.requires_grad for value in module.parameters())
    assert not any(part._forward_hooks for part in module.modules())


class _InPlace(nn.Module):
    """Layers whose outputs are changed in place at once."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head, self.relu = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.conv(x)).mean((2, 3)))


def test_outputs_that_are_changed_in_place() -> None:
    module, x = _InPlace().eval(), torch.randn(6, 3, 8, 8)
    scores = sensitivities(
        module, [((x,), torch.arange(6) % 2)], cross_entropy, calibrate(module, [(x,)]), ("int8", "float32")
    )
    assert all(each["int8"] > 0 for each in scores.values())


def test_no_rows_and_no_loss_are_refused() -> None:
    module, ranges = _trained()
    with pytest.raises(ValueError, match="at least one row"):
        sensitivities(module, [], cross_entropy, ranges, ["int8"])
    with pytest.raises(ValueError, match="the loss must be finite"):
        sensitivities(module, _batches()[:1], lambda logits, _: logits.sum() * torch.nan, ranges, ["int8"])
