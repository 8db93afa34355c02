"""A super-network in the Trainer of `transformers`: a tiny random BERT, random words, nothing fetched.

python examples/hf_trainer.py FOLDER
"""

import sys
from typing import Any

import numpy as np
import torch
from torch.nn.functional import kl_div, log_softmax, softmax
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from search_spaces import Supernet, space


class SupernetTrainer(Trainer):
    """Every step trains the full network on the labels, and a random sub-network on the full one's answers."""

    # Super-networks take any keyword, which the Trainer reads as a loss that is already divided for accumulation.
    loss_is_scaled_for_ga = False

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        supernet = self.accelerator.unwrap_model(model)
        if not model.training:
            output = model(supernet.space.largest(), **inputs)
            return (output.loss, output) if return_outputs else output.loss
        rng = np.random.default_rng((self.args.seed, self.state.global_step))
        full, small = model([supernet.space.largest(), supernet.space.sample(rng)], **inputs)
        taught = kl_div(log_softmax(small.logits, -1), softmax(full.logits.detach(), -1), reduction="batchmean")
        return full.loss + taught


def sentences(rows: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Eight random words each; the class is whether word 7 is among them."""
    words = rng.integers(5, 20, size=(rows, 8))
    return [{"input_ids": torch.tensor(row), "labels": int(7 in row)} for row in words]


def make_supernet() -> Supernet:
    torch.manual_seed(0)
    small = {"vocab_size": 20, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    model = BertForSequenceClassification(BertConfig(**small, intermediate_size=64, max_position_embeddings=16))
    return Supernet(model, space(model, depth=(1, 2, 3), ffn=(0.5, 1.0)))


def main(folder: str) -> None:
    supernet, rng = make_supernet(), np.random.default_rng(0)
    arguments = TrainingArguments(
        folder,
        max_steps=100,
        per_device_train_batch_size=32,
        learning_rate=2e-3,
        use_cpu=True,
        report_to="none",
        save_strategy="no",  # Supernet.save writes a super-network
        remove_unused_columns=False,  # the columns are those of the model inside
        label_names=["labels"],
        disable_tqdm=True,
    )
    trainer = SupernetTrainer(supernet, arguments, train_dataset=sentences(2000, rng), eval_dataset=sentences(200, rng))
    trainer.train()
    print(f"full: loss {trainer.evaluate()['eval_loss']:.3f}")
    subnet = supernet.extract(supernet.space.smallest()).eval()
    print(f"smallest: {sum(parameter.numel() for parameter in subnet.parameters()):,} weights")


if __name__ == "__main__":
    main(sys.argv[1])
