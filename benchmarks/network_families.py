"""The families of `benchmarks/networks.py`: classes of transformers by name, each small and made on the spot."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn


@dataclass(frozen=True)
class Family:
    """A small network of one class.

    Args:
        build: makes it, with random weights.
        inputs: two rows of its inputs by name; None: those that its configuration tells.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Tensor]] | None = None


_SIZE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
_TEXT = {**_SIZE, "vocab_size": 50, "max_position_embeddings": 64, "pad_token_id": 0}
_DECODER = {**_TEXT, "num_key_value_heads": 2}
_IMAGE = {**_SIZE, "image_size": 16, "patch_size": 4}
_MARKS = {f"{name}_token_id": number for number, name in enumerate(("pad", "bos", "eos", "cls", "sep"))}
_BOTH_SIDES = {
    f"{side}_{size}": number
    for side in ("encoder", "decoder")
    for size, number in (("layers", 3), ("attention_heads", 4), ("ffn_dim", 48))
}
_SEQ2SEQ = {**_BOTH_SIDES, "vocab_size": 50, "d_model": 32, "max_position_embeddings": 64, "pad_token_id": 0}
_CONVNEXT = {"hidden_sizes": [16, 24], "depths": [2, 3], "num_stages": 2}
_RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8}
_SOUND = {"conv_dim": (16, 16), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_conv_pos_embeddings": 8}


def _family(name: str, /, inputs: Callable[[], dict[str, Tensor]] | None = None, **sizes: Any) -> tuple[str, Family]:
    """A class by name, with the sizes of its configuration, whose name begins alike."""
    model: Any = getattr(transformers, name)
    return name, Family(lambda: model(model.config_class(**sizes)), inputs)


def _normal(name: str, *shape: int) -> Callable[[], dict[str, Tensor]]:
    """Two rows of one input of noise."""
    return lambda: {name: torch.randn((2, *shape), generator=torch.Generator().manual_seed(0))}


_TEXTS = (
    _family("BertForSequenceClassification", **_TEXT),  # and MiniLM
    _family("RobertaForSequenceClassification", **_TEXT),
    _family("ElectraForSequenceClassification", **_TEXT, embedding_size=16),
    _family("DistilBertForSequenceClassification", vocab_size=50, dim=32, n_layers=3, n_heads=4, hidden_dim=48),
    _family("DebertaV2ForSequenceClassification", **_TEXT, **_RELATIVE, position_biased_input=False),
    _family("AlbertForSequenceClassification", **_TEXT, embedding_size=16),
    _family("ModernBertForSequenceClassification", **{**_TEXT, **_MARKS, "num_hidden_layers": 4}, local_attention=4),
    _family("XLNetForSequenceClassification", vocab_size=50, d_model=32, n_layer=3, n_head=4, d_inner=48),
    _family("NystromformerForSequenceClassification", **_TEXT),
    _family("FNetForSequenceClassification", **{**_TEXT, "num_attention_heads": 1}),
)
_DECODERS = (
    _family("GPT2ForSequenceClassification", vocab_size=50, n_embd=32, n_layer=3, n_head=4, pad_token_id=0),
    _family("LlamaForSequenceClassification", **_DECODER),
    _family("Qwen2ForSequenceClassification", **_DECODER),
)
_ENCODER_DECODERS = (
    _family("BartForSequenceClassification", **_SEQ2SEQ, eos_token_id=2, decoder_start_token_id=2),
    _family(
        "T5ForSequenceClassification",
        vocab_size=50,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=3,
        num_heads=4,
        decoder_start_token_id=0,
    ),
)
_IMAGES = (
    _family("ViTForImageClassification", **_IMAGE),
    _family("DeiTForImageClassification", **_IMAGE),
    _family("Dinov2ForImageClassification", **_IMAGE, mlp_ratio=2),
    _family("BeitForImageClassification", **_IMAGE, use_relative_position_bias=True),
    _family(
        "SwinForImageClassification",
        image_size=16,
        patch_size=2,
        embed_dim=16,
        window_size=4,
        depths=[2, 3],
        num_heads=[2, 4],
    ),
    _family("CLIPForImageClassification", vision_config=_IMAGE, text_config={**_SIZE, "vocab_size": 50}),
    _family("ResNetForImageClassification", embedding_size=8, hidden_sizes=[16, 24], depths=[2, 2], layer_type="basic"),
    _family("ConvNextV2ForImageClassification", _normal("pixel_values", 3, 32, 32), **_CONVNEXT),
    _family(
        "PvtV2ForImageClassification",
        image_size=64,
        hidden_sizes=[16, 24, 32, 40],
        depths=[2, 2, 2, 2],
        num_attention_heads=[1, 2, 4, 5],
        mlp_ratios=[2, 2, 2, 2],
    ),
    _family(
        "LevitForImageClassification",
        image_size=64,
        hidden_sizes=[16, 24, 32],
        depths=[2, 2, 2],
        num_attention_heads=[2, 3, 4],
        key_dim=[8, 8, 8],
    ),
)
_SOUNDS_VIDEOS_AND_SERIES = (
    _family(
        "Wav2Vec2ForSequenceClassification",
        _normal("input_values", 800),
        **{**_SIZE, **_SOUND, "num_conv_pos_embedding_groups": 4, "classifier_proj_size": 16},
    ),
    _family(
        "ASTForAudioClassification",
        _normal("input_values", 32, 16),
        **{**_SIZE, "patch_size": 4, "frequency_stride": 4, "time_stride": 4, "max_length": 32, "num_mel_bins": 16},
    ),
    _family(
        "VideoMAEForVideoClassification",
        _normal("pixel_values", 4, 3, 16, 16),
        **{**_IMAGE, "num_frames": 4, "tubelet_size": 2},
    ),
    _family(
        "VivitForVideoClassification",
        _normal("pixel_values", 4, 3, 16, 16),
        **{**_SIZE, "image_size": 16, "num_frames": 4, "tubelet_size": [2, 4, 4]},
    ),
    _family(
        "PatchTSTForClassification",
        _normal("past_values", 32, 3),
        num_input_channels=3,
        context_length=32,
        patch_length=4,
        patch_stride=4,
        d_model=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        ffn_dim=48,
        num_targets=2,
        use_cls_token=True,
    ),
)
FAMILIES: Mapping[str, Family] = dict((*_TEXTS, *_DECODERS, *_ENCODER_DECODERS, *_IMAGES, *_SOUNDS_VIDEOS_AND_SERIES))
"""The thirty families, by class name."""

LARGER: Mapping[str, Family] = dict(
    (
        _family("MPNetForSequenceClassification", **_TEXT),
        _family("RoFormerForSequenceClassification", **_TEXT),
        _family("MBartForSequenceClassification", **_SEQ2SEQ, eos_token_id=2),
        _family("GPTNeoXForSequenceClassification", **_TEXT),
        _family("GemmaForSequenceClassification", **_DECODER, head_dim=8),
        _family("SiglipForImageClassification", vision_config=_IMAGE, text_config={**_SIZE, "vocab_size": 50}),
        _family("ConvNextForImageClassification", _normal("pixel_values", 3, 32, 32), **_CONVNEXT),
        _family(
            "SegformerForImageClassification",
            _normal("pixel_values", 3, 32, 32),
            num_encoder_blocks=2,
            depths=[2, 2],
            sr_ratios=[4, 2],
            hidden_sizes=[16, 32],
            patch_sizes=[7, 3],
            strides=[4, 2],
            num_attention_heads=[2, 4],
            mlp_ratios=[2, 2],
        ),
        _family(
            "HubertForSequenceClassification",
            _normal("input_values", 800),
            **{**_SIZE, **_SOUND, "num_conv_pos_embedding_groups": 4, "classifier_proj_size": 16},
        ),
        _family("TimesformerForVideoClassification", _normal("pixel_values", 4, 3, 16, 16), **_IMAGE, num_frames=4),
    )
)
"""More families, for the larger form."""
