"""Attention turned into plain layers: the same function, forward and backward, and the same weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from search_spaces import plain_attention, space
from search_spaces.families.plain_attention import PlainAttention, plain_weights
from tests.attention_networks import CausalText, CrossAttention, PostNormVit
from tests.networks import FusedBlock, PlainTransformer, randomised

NETWORKS = (PostNormVit, CausalText, CrossAttention)
LENGTH, WIDTH, HEADS = 5, 12, 3
CAUSAL = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
PADDING = torch.zeros(2, LENGTH, dtype=torch.bool)
PADDING[1, 3:] = True


def close(left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left, right, rtol=1e-5, atol=1e-6)


def attention(**options: bool | float) -> nn.MultiheadAttention:
    return randomised(nn.MultiheadAttention(WIDTH, HEADS, **options))


def gradients(module: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    loss.backward()
    return {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize(
    "masks", [{}, {"attn_mask": CAUSAL}, {"key_padding_mask": PADDING}], ids=["none", "causal", "padding"]
)
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"batch_first": True}, {"dropout": 0.4, "batch_first": True}])
@pytest.mark.parametrize("training", [False, True])
def test_one_attention_equals_its_plain_form(masks, options, training: bool) -> None:
    theirs = attention(**options).train(training)
    ours = plain_attention(theirs)
    assert isinstance(ours, PlainAttention)
    x = torch.randn(2, LENGTH, WIDTH)
    if not options.get("batch_first"):
        x = x.transpose(0, 1)
    found = []
    for module in (theirs, ours):
        torch.manual_seed(1)  # the same units are dropped
        output = module(x, x, x, need_weights=False, **masks)[0]
        found.append((output, gradients(module, output.square().sum())))
    (expected, theirs_gradients), (output, ours_gradients) = found
    assert close(output, expected)
    turned = plain_weights(theirs_gradients)
    assert set(turned) == set(ours_gradients)
    assert all(torch.allclose(turned[name], ours_gradients[name], rtol=1e-4, atol=1e-4) for name in turned)


@contextmanager
def single_operator(enabled: bool) -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(enabled)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@pytest.mark.parametrize("attn_mask", [None, CAUSAL, torch.zeros(LENGTH, LENGTH).masked_fill(CAUSAL, -2.0)])
@pytest.mark.parametrize("key_padding_mask", [None, PADDING])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.filterwarnings("ignore:Support for mismatched:UserWarning")
@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_an_encoder_equals_its_plain_form(attn_mask, key_padding_mask, norm_first: bool) -> None:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS + 1, 20, dropout=0.0, norm_first=norm_first, batch_first=True)
    theirs = randomised(nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(WIDTH)))
    ours, x = plain_attention(theirs), torch.randn(2, LENGTH, WIDTH)
    shown = ~PADDING if key_padding_mask is not None else torch.ones_like(PADDING)
    for training in (False, True):
        for module in (theirs, ours):
            module.train(training)
        # In evaluation torch's single operator takes numbers in a mask for true; the other path adds them.
        usable = attn_mask is None or attn_mask.dtype == torch.bool
        with torch.set_grad_enabled(training), single_operator(usable):
            expected, output = (
                module(x, mask=attn_mask, src_key_padding_mask=key_padding_mask) for module in (theirs, ours)
            )
        assert close(output[shown], expected[shown])


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_equals_its_plain_form_and_stays_as_it_is(kind: type[nn.Module]) -> None:
    theirs = randomised(kind())
    before = {name: value.clone() for name, value in theirs.state_dict().items()}
    ours = plain_attention(theirs)
    assert not any(isinstance(part, nn.MultiheadAttention) for part in ours.modules())
    with torch.no_grad():
        assert close(ours(*kind.inputs), theirs(*kind.inputs))
    assert list(theirs.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in theirs.state_dict().items())


@pytest.mark.parametrize("kind", NETWORKS)
def test_weights_are_mapped(kind: type[nn.Module]) -> None:
    theirs = randomised(kind())
    ours, weights = plain_attention(theirs), theirs.state_dict()
    plain = plain_weights(weights)
    assert all(torch.equal(plain.pop(name), value) for name, value in ours.state_dict().items())
    assert not plain


def test_one_attention_under_two_names_stays_one_and_frozen_weights_stay_frozen() -> None:
    shared = attention()
    shared.in_proj_weight.requires_grad_(False)
    ours = plain_attention(nn.ModuleList([shared, shared]))
    assert ours[0] is ours[1]
    assert not ours[0].k.weight.requires_grad
    assert ours[0].out.weight.requires_grad


def test_a_model_without_such_attention_is_returned_itself() -> None:
    model = PlainTransformer(FusedBlock)
    assert plain_attention(model) is model


class Own(nn.MultiheadAttention):
    pass


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (nn.MultiheadAttention(12, 3, kdim=6), "keys or values have other widths, 6 and 12, than 12"),
        (nn.MultiheadAttention(12, 3, add_bias_kv=True), "adds rows to the keys and values"),
        (nn.MultiheadAttention(12, 3, add_zero_attn=True), "adds rows to the keys and values"),
        (Own(12, 3), "it is a subclass, Own"),
    ],
)
def test_other_forms_are_refused(part: nn.Module, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"nn.MultiheadAttention at '1' must be of the plain form .*{reason}"):
        plain_attention(nn.Sequential(nn.Linear(2, 2), part))


def test_inputs_of_another_form_are_refused() -> None:
    plain, x = plain_attention(attention()), torch.zeros(LENGTH, 2, WIDTH)
    with pytest.raises(ValueError, match="takes batches and masks of"):
        plain(x[:, 0], x[:, 0], x[:, 0])
    with pytest.raises(ValueError, match="takes batches and masks of"):
        plain(x, x, x, attn_mask=torch.zeros(2 * HEADS, LENGTH, LENGTH))


def test_heads_appear_once_it_is_plain() -> None:
    def heads(network: nn.Module) -> set[str]:
        names = {choice.name for choice in space(network, PostNormVit.inputs, depth=()).choices}
        assert {"ffn.0", "ffn.1", "ffn.2"} <= names
        return {name for name in names if name.startswith("heads")}

    theirs = randomised(PostNormVit())
    assert heads(theirs) == set()
    assert heads(plain_attention(theirs)) == {"heads.0", "heads.1", "heads.2"}
