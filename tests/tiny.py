"""A tiny text classifier and its data, made on the spot: what the tests of the commands work on."""

from pathlib import Path

import numpy as np
import torch

WORDS = ("good", "fine", "great", "bad", "poor", "awful", "film", "plot", "the", "a", "was", "very")


def write_reviews(path: Path, rows: int = 240) -> Path:
    """A CSV of distinct texts that hold good (label 1) or bad (label 0) words."""
    rng = np.random.default_rng(0)
    lines = ["text,label"]
    for number in range(rows):
        label = number % 2
        told = rng.choice(WORDS[:3] if label else WORDS[3:6], size=2)
        other = rng.choice(WORDS[6:], size=int(rng.integers(2, 9)))
        lines.append(f"{' '.join(rng.permutation([*told, *other]))} {number},{label}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_model(folder: Path, layers: int = 4) -> Path:
    """A random BERT with 4 heads and 32 feed-forward features a block, and its tokenizer."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *WORDS,
        *map(str, range(10)),
        *(f"##{d}" for d in range(10)),
    ]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    return folder
