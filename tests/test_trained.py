"""What is taken for a trained network: no luck of a head that is drawn at random, on however few rows."""

from dataclasses import replace

import pytest
import torch
from scipy.stats import binom
from torch import nn
from toy_pyramid import CLASSES, split, trained

from nas.data.accuracy import predict
from nas.data.split import Data
from nas.errors import UserError
from nas.pruning.trained import check_trained, least_right


def data(count: int = 24) -> Data:
    """`count` training rows and half as many of the others."""
    return Data("image", CLASSES, split(count, 1), split(count // 2, 2), split(count // 2, 3), "")


def with_head(weight: torch.Tensor, bias: torch.Tensor) -> nn.Module:
    """The trained network with another head."""
    module = trained()
    head = module.get_submodule("head")
    assert isinstance(head, nn.Linear)
    head.weight, head.bias = nn.Parameter(weight), nn.Parameter(bias)
    return module


def random_head(seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    return with_head(torch.randn(3, 12, generator=generator), torch.randn(3, generator=generator))


@pytest.mark.parametrize("rows", [1, 2, 5, 9, 24, 100, 999, 20_000])
@pytest.mark.parametrize("chance", [0.01, 1 / 3, 0.5, 0.9, 0.999])
def test_luck_does_not_pass(rows: int, chance: float) -> None:
    least = least_right(rows, chance)
    assert binom.sf(least - 1, rows, chance) <= 0.001 * (1 + 1e-9)
    assert least > min(1.2 * chance, (1 + chance) / 2) * rows
    if least - 1 > min(1.2 * chance, (1 + chance) / 2) * rows:
        assert binom.sf(least - 2, rows, chance) > 0.001


def test_rows_of_one_class_tell_nothing() -> None:
    assert least_right(50, 1.0) == 51


@pytest.mark.parametrize("count", [6, 24, 240])
def test_a_random_head_is_refused_however_many_rows_it_has_right(count: int) -> None:
    rows = data(count)
    lucky = 0
    for seed in range(12):
        module = random_head(seed)
        right = (predict(module, rows.validation).argmax(1) == rows.validation.labels).mean()
        lucky += right > 1.2 / 3
        with pytest.raises(UserError, match="drawn at random"):
            check_trained(module, random_head(seed + 1), rows, "model")
    assert lucky, "none of these heads would pass by luck"


def test_a_head_that_always_says_the_same_is_refused() -> None:
    for index in range(3):
        bias = torch.zeros(3)
        bias[index] = 1.0
        module = with_head(torch.zeros(3, 12), bias)
        with pytest.raises(UserError, match="a network that guesses may have up to"):
            check_trained(module, module, data(240), "model")


def test_outputs_that_are_no_numbers_are_refused() -> None:
    module = with_head(torch.full((3, 12), torch.nan), torch.zeros(3))
    with pytest.raises(UserError, match="a network that guesses"):
        check_trained(module, module, data(), "model")


@pytest.mark.parametrize("count", [18, 24, 240])
def test_a_trained_network_passes_on_few_rows(count: int) -> None:
    check_trained(trained(), trained(), data(count), "model")


def test_rows_that_are_too_few_to_tell_are_refused() -> None:
    few = data(6)
    few = replace(few, train=few.validation)
    with pytest.raises(UserError, match="of 6 rows right"):
        check_trained(trained(), trained(), few, "model")
