"""A toy text task: two classes told apart by their words, a word tokenizer, a BERT of a few thousand weights."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from nas.data.split import Split, make_split
from nas.data.tasks import IGNORED, TokenClassification
from nas.data.tokens import TextPreprocessor
from search_spaces import Space, Supernet, space

GOOD, BAD, PLAIN = ("good", "fine", "great"), ("bad", "poor", "awful"), ("the", "film", "was", "and", "plot", "it")
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *GOOD, *BAD, *PLAIN)


def preprocessor() -> TextPreprocessor:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return TextPreprocessor(
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            unk_token="[UNK]",
            pad_token="[PAD]",
            cls_token="[CLS]",
            sep_token="[SEP]",
            model_max_length=32,
        )
    )


def sentences(count: int, seed: int = 0) -> tuple[list[str], list[int]]:
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(count):
        label = int(rng.integers(2))
        words = [*rng.choice(PLAIN, rng.integers(2, 10)), *rng.choice((BAD, GOOD)[label], 2)]
        texts.append(" ".join(rng.permutation(words)))
        labels.append(label)
    return texts, labels


def split(count: int = 60, seed: int = 0) -> Split:
    texts, labels = sentences(count, seed)
    return make_split(texts, labels, preprocessor())


def tagged(count: int = 60, seed: int = 0) -> Split:
    """The same sentences with tags: of every third one all words have one, and of the others only the first."""
    rows = [tuple(text.split()) for text in sentences(count, seed)[0]]
    tags = [
        [int(word in GOOD) if number % 3 == 2 or place == 0 else IGNORED for place, word in enumerate(words)]
        for number, words in enumerate(rows)
    ]
    return make_split(rows, tags, preprocessor(), task=TokenClassification())


def bert(seed: int = 0, dropout: float = 0.1) -> nn.Module:
    from transformers import BertForSequenceClassification

    return _network(BertForSequenceClassification, seed, dropout)


def tagger(seed: int = 0, dropout: float = 0.1) -> nn.Module:
    from transformers import BertForTokenClassification

    return _network(BertForTokenClassification, seed, dropout)


def _network(kind: Callable[[Any], nn.Module], seed: int, dropout: float) -> nn.Module:
    from transformers import BertConfig

    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        num_labels=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(config).eval()


def supernet(seed: int = 0, dropout: float = 0.1) -> Supernet:
    return Supernet(bert(seed, dropout), _space())


@cache
def _space() -> Space:
    return space(bert(), depth=(1, 2), heads=(2, 4), ffn=(8, 16, 24))


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
