"""Small random models of the families that the laws are checked on, norms and biases randomised."""

from collections.abc import Callable

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DeiTConfig,
    DeiTForImageClassification,
    Dinov2Config,
    Dinov2ForImageClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    ViTConfig,
    ViTForImageClassification,
)

_SIZE = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
_TEXT = {**_SIZE, "vocab_size": 100, "max_position_embeddings": 64}
_IMAGE = {**_SIZE, "image_size": 16, "patch_size": 4}

_BUILD: dict[str, Callable[[str], nn.Module]] = {
    "bert": lambda attention: BertForSequenceClassification(BertConfig(**_TEXT, attn_implementation=attention)),
    "minilm": lambda attention: BertForSequenceClassification(
        BertConfig(**{**_TEXT, "num_attention_heads": 8, "num_hidden_layers": 6}, attn_implementation=attention)
    ),
    "roberta": lambda attention: RobertaForSequenceClassification(
        RobertaConfig(**_TEXT, attn_implementation=attention)
    ),
    "electra": lambda attention: ElectraForSequenceClassification(
        ElectraConfig(**_TEXT, embedding_size=16, attn_implementation=attention)
    ),
    "vit": lambda attention: ViTForImageClassification(ViTConfig(**_IMAGE, attn_implementation=attention)),
    "deit": lambda attention: DeiTForImageClassification(DeiTConfig(**_IMAGE, attn_implementation=attention)),
    "dinov2": lambda attention: Dinov2ForImageClassification(
        Dinov2Config(**{**_IMAGE, "mlp_ratio": 2}, attn_implementation=attention)
    ),
}
NAMES = tuple(_BUILD)


def build(name: str, attention: str = "sdpa") -> nn.Module:
    """A model in eval mode whose every parameter is random, the zero and unit ones of a new model included."""
    torch.manual_seed(0)
    model = _BUILD[name](attention).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model
