"""Every network that the laws are checked on, with its example inputs and the choices that its space must have."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BartConfig,
    BartForSequenceClassification,
    BeitConfig,
    BeitForImageClassification,
    CLIPVisionConfig,
    CLIPVisionModel,
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LevitConfig,
    LevitForImageClassification,
    PvtV2Config,
    PvtV2ForImageClassification,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    T5Config,
    T5ForSequenceClassification,
)

from search_spaces import Supernet, plain_attention, space, spread
from search_spaces.families.beit3 import Beit3Config, Beit3ForImageClassification, Beit3ForVisualQuestionAnswering
from search_spaces.inputs import Inputs, default_inputs
from tests import families
from tests.attention_networks import CausalText, CrossAttention, PostNormVit
from tests.conv_networks import Basic, Bottleneck, CifarResNet, InvertedNetwork, RegNet, ResNet, Vgg
from tests.networks import Concatenation, CountingBlock, FusedBlock, PlainTransformer, randomised

_SIZE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
_TEXT = {**_SIZE, "vocab_size": 50, "max_position_embeddings": 32, "pad_token_id": 0}
_DECODER = {**_TEXT, "num_key_value_heads": 2}
_SIDE = {"layers": 2, "attention_heads": 4, "ffn_dim": 48}
_IMAGE = {**_SIZE, "image_size": 16, "patch_size": 4}
_BEIT3 = Beit3Config(image_size=16, patch_size=4, vocabulary=40, width=32, layers=3, heads=4, ffn=48, text_rows=20)

_TRANSFORMER: dict[str, Any] = {"depth": (1, 2, 0.75), "heads": (1, 2, 0.75), "ffn": (0.25, 7, 0.5)}
_CONVOLUTIONS: dict[str, Any] = {"depth": (0.5, 1.0), "width": (0.5, 0.75), "channels": (0.25, 0.5, 0.75)}


@dataclass(frozen=True)
class Case:
    """One network: how to build it, and how many choices of each kind its space has.

    Attributes:
        build: a new network in eval mode, all its weights and statistics random.
        choices: number of choices by kind.
        ranges: of the space.
        own: not a class of transformers, which a saved super-network needs to come back.
    """

    build: Callable[[], nn.Module]
    choices: Mapping[str, int]
    ranges: Mapping[str, Any] = field(default_factory=lambda: _TRANSFORMER)
    own: bool = True


def _blocks(depth: int, heads: int, ffn: int, **more: int) -> dict[str, int]:
    return {kind: count for kind, count in {"depth": depth, "heads": heads, "ffn": ffn, **more}.items() if count}


def _family(name: str, blocks: int, attention: str = "sdpa", width: bool = False) -> Case:
    ranges = {**_TRANSFORMER, "width": (0.5, 0.75)} if width else _TRANSFORMER
    choices = _blocks(1, blocks, blocks, width=int(width))
    return Case(lambda: families.build(name, attention), choices, ranges, own=False)


def _library(build: Callable[[], nn.Module], choices: Mapping[str, int], ranges: Any = None) -> Case:
    return Case(lambda: randomised(build()), choices, ranges or _TRANSFORMER, own=False)


def _network(build: Callable[[], nn.Module], choices: Mapping[str, int]) -> Case:
    ranges = _TRANSFORMER if "heads" in choices else _CONVOLUTIONS
    return Case(lambda: randomised(build()), choices, ranges)


def _resnet(kind: str) -> ResNetForImageClassification:
    sizes = {"embedding_size": 8, "hidden_sizes": [16, 24], "depths": [2, 2]}
    return ResNetForImageClassification(ResNetConfig(**sizes, layer_type=kind))


def _deberta() -> DebertaV2ForSequenceClassification:
    relative = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8}
    more = {"max_relative_positions": 16, "share_att_key": True, "norm_rel_ebd": "layer_norm"}
    config = DebertaV2Config(**{**_TEXT, "num_hidden_layers": 2}, **relative, **more, position_biased_input=False)
    return DebertaV2ForSequenceClassification(config)


def _distilbert() -> DistilBertForSequenceClassification:
    sizes = {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48}
    return DistilBertForSequenceClassification(DistilBertConfig(vocab_size=50, max_position_embeddings=32, **sizes))


def _gpt2() -> GPT2ForSequenceClassification:
    sizes = {"vocab_size": 50, "n_positions": 32, "n_embd": 32, "n_layer": 3, "n_head": 4}
    return GPT2ForSequenceClassification(GPT2Config(**sizes, pad_token_id=0))


def _bart() -> BartForSequenceClassification:
    sides = {f"{side}_{size}": number for side in ("encoder", "decoder") for size, number in _SIDE.items()}
    marks = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = BartConfig(vocab_size=50, d_model=32, max_position_embeddings=32, **sides, **marks)
    return BartForSequenceClassification(config)


def _t5() -> T5ForSequenceClassification:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    return T5ForSequenceClassification(T5Config(vocab_size=50, **sizes, decoder_start_token_id=0))


def _convnext() -> ConvNextV2ForImageClassification:
    sizes = {"hidden_sizes": [8, 16], "depths": [2, 3], "num_stages": 2, "image_size": 16}
    return ConvNextV2ForImageClassification(ConvNextV2Config(**sizes))


def _pvt() -> PvtV2ForImageClassification:
    sizes = {"hidden_sizes": [8, 16, 24, 32], "num_attention_heads": [1, 2, 3, 4], "mlp_ratios": [2, 2, 2, 2]}
    return PvtV2ForImageClassification(PvtV2Config(image_size=32, depths=[2, 2, 2, 2], **sizes))


def _levit() -> LevitForImageClassification:
    sizes = {"hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 3, 4], "key_dim": [8, 8, 8]}
    return LevitForImageClassification(LevitConfig(image_size=32, depths=[2, 2, 2], **sizes))


def _swin() -> SwinForImageClassification:
    sizes = {"image_size": 16, "patch_size": 2, "embed_dim": 16, "window_size": 4}
    return SwinForImageClassification(SwinConfig(**sizes, depths=[2, 3], num_heads=[2, 4]))


_TEXT_CASES = {
    "bert": _family("bert", 4),
    "bert-eager": _family("bert", 4, "eager"),
    "bert-width": _family("bert", 4, width=True),
    "roberta": _family("roberta", 4),
    "electra": _family("electra", 4),
    "distilbert": _library(_distilbert, _blocks(1, 3, 3)),
    "deberta": _library(_deberta, _blocks(1, 2, 2)),
    # One block is used again and again: its weights are narrowed for all of them at once, and none can drop alone.
    "albert": _library(
        lambda: AlbertForSequenceClassification(AlbertConfig(**_TEXT, embedding_size=16)), _blocks(0, 1, 1)
    ),
    # Heads are those of the keys and values, with the queries that share them.
    "qwen2": _library(lambda: Qwen2ForSequenceClassification(Qwen2Config(**_DECODER)), _blocks(1, 3, 3)),
    "gpt2": _library(_gpt2, _blocks(1, 3, 3)),
    # Blocks of both sides; those of the decoder have heads of their own in the attention to the encoder.
    "bart": _library(_bart, _blocks(2, 6, 4)),
    # What is added to the scores is made once for all blocks of a side, so that these lose the same heads.
    "t5": _library(_t5, _blocks(2, 3, 4)),
}
_IMAGE_CASES = {
    "vit": _family("vit", 4),
    "vit-eager": _family("vit", 4, "eager"),
    "vit-width": _family("vit", 4, width=True),
    "deit": _family("deit", 4),
    "dinov2": _family("dinov2", 4),
    "beit": _library(
        lambda: BeitForImageClassification(BeitConfig(**_IMAGE, use_relative_position_bias=True)), _blocks(1, 3, 3)
    ),
    "swin": _library(_swin, _blocks(2, 5, 5)),
    # Its features are normalised by all of them, so none can be left out.
    "convnext-v2": _library(_convnext, _blocks(2, 0, 0)),
    "pvt-v2": _library(_pvt, _blocks(4, 0, 8)),
    "levit": _library(_levit, _blocks(3, 0, 8)),
    "clip": _library(lambda: CLIPVisionModel(CLIPVisionConfig(**_IMAGE)), _blocks(1, 3, 3)),
    "beit3": _network(lambda: Beit3ForImageClassification(_BEIT3, 5), _blocks(1, 3, 3)),
    # The answer is read off the class token, so nothing comes of the last block's text tokens.
    "beit3-vqa": _network(lambda: Beit3ForVisualQuestionAnswering(_BEIT3, 5), _blocks(1, 3, 5)),
}
_PLAIN_CASES = {
    "fused": _network(lambda: PlainTransformer(FusedBlock), _blocks(1, 3, 3)),
    "counting": _network(lambda: PlainTransformer(CountingBlock), _blocks(1, 3, 3)),
    "post-norm": Case(lambda: plain_attention(randomised(PostNormVit())), _blocks(1, 3, 3)),
    "causal": Case(lambda: plain_attention(randomised(CausalText())), _blocks(1, 3, 3)),
    "cross": Case(lambda: plain_attention(randomised(CrossAttention())), _blocks(1, 4, 2)),
}
_CONV_CASES = {
    "resnet-basic": _network(lambda: ResNet(Basic), {"depth": 2, "width": 2, "channels": 5}),
    "resnet-bottleneck": _network(lambda: ResNet(Bottleneck), {"depth": 2, "width": 2, "channels": 11}),
    "cifar-resnet": _network(lambda: CifarResNet(2), {"depth": 3, "width": 1, "channels": 6}),
    "vgg": _network(Vgg, {"channels": 4}),
    "mobilenet": _network(lambda: InvertedNetwork(False), {"depth": 2, "width": 2, "channels": 6}),
    "efficientnet": _network(lambda: InvertedNetwork(True), {"depth": 2, "width": 2, "channels": 11}),
    "regnet": _network(RegNet, {"depth": 2, "width": 2, "channels": 20}),
    "hf-resnet-basic": _library(lambda: _resnet("basic"), {"depth": 2, "width": 2, "channels": 5}, _CONVOLUTIONS),
    "hf-resnet": _library(lambda: _resnet("bottleneck"), {"depth": 2, "width": 2, "channels": 9}, _CONVOLUTIONS),
    "concatenation": _network(Concatenation, {"channels": 4}),
}
CASES = {**_TEXT_CASES, **_IMAGE_CASES, **_PLAIN_CASES, **_CONV_CASES}
CONVOLUTIONAL = frozenset(_CONV_CASES)


@cache
def made(name: str) -> tuple[Supernet, Inputs]:
    """The super-network of a case and its example inputs; not to be changed."""
    model = CASES[name].build()
    inputs = example_inputs(model)
    ranges = {kind: sizes for kind, sizes in CASES[name].ranges.items() if kind in CASES[name].choices}
    return Supernet(model, space(model, inputs, drop_order=spread, **ranges)), inputs


def example_inputs(model: nn.Module) -> Inputs:
    """Tensors of batch 2, by name."""
    given = getattr(model, "inputs", None)
    if given is None:
        return default_inputs(model)
    return dict(zip(_arguments(model), given, strict=False))


def _arguments(model: nn.Module) -> tuple[str, ...]:
    code = type(model).forward.__code__
    return code.co_varnames[1 : code.co_argcount]


def first(output: Any) -> torch.Tensor:
    """The logits of an output, or what stands in their place."""
    if isinstance(output, torch.Tensor):
        return output
    logits = getattr(output, "logits", None)
    return output[0] if logits is None else logits
