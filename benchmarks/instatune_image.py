"""InstaTune on CIFAR-10: multiply-accumulates that a small ViT or a ResNet can save, and the accuracy that it costs.

`--data FOLDER` holds cifar10_test.parquet, cifar10_train20k.parquet and the weights cifar10_*.safetensors. See
`cifar.py` for the networks and rows, and `instatune_common.py` for the stages.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import cifar
import torch
from harness import Harness, parser
from instatune_common import Problem
from instatune_figures import compare
from torch import nn

from nas import InstaTuneConfig
from nas.learning.importance import ImportanceConfig
from search_spaces import Space, last_first, plain_attention, space

TARGETS = {"macs_saved_one_point": "at least 0.3", "largest_minus_plain": "at least -0.3 points"}
RESNET_BEFORE = (89.64, 88.46, 86.98, 85.24, 82.80)
"""Test accuracies in percent of version 0.1, for `SHARES`."""
# Inner widths alone: a dropped block or a narrower stage costs a network of 20 layers far more for what it saves.
RESNET = {"depth": (1.0,), "width": (1.0,), "channels": (0.375, 0.5, 0.625, 0.75, 0.875, 1.0)}
# Narrower ranges than the defaults of the families: what saves more than 60 % only disturbs the others.
VIT = {"depth": (4, 5, 6), "heads": (5, 6, 7, 8), "ffn": (0.5, 0.625, 0.75, 0.875, 1.0)}
# What decided on rates and sampling is the accuracy on the validation rows.
CONFIGS = {
    "vit": InstaTuneConfig(steps=1000, learning_rate=6e-4, sampling="pareto", samples=1),
    "resnet": InstaTuneConfig(epochs=2, learning_rate=2e-3, sampling="pareto", samples=2),
}
EXAMPLE = {"pixels": torch.zeros(2, 3, 32, 32)}


def _vit(data: Path, seed: int) -> nn.Module:
    return plain_attention(cifar.network(data, "vit"))


def _vit_space(model: nn.Module, drop_order: Mapping[str, tuple[int, ...]] | None) -> Space:
    return space(model, EXAMPLE, drop_order=drop_order or last_first, **VIT)


def _resnet(blocks: int, data: Path, seed: int) -> nn.Module:
    return cifar.network(data, "resnet", blocks=blocks)


def _resnet_space(model: nn.Module, drop_order: Mapping[str, tuple[int, ...]] | None) -> Space:
    return space(model, EXAMPLE, drop_order=drop_order or last_first, **RESNET)


def _problem(data: Path, model: str, full: bool) -> Problem:
    blocks = 9 if full else 3
    network, spaces = (_vit, _vit_space) if model == "vit" else (partial(_resnet, blocks), _resnet_space)
    config = replace(CONFIGS[model], augment=True, distillation="high-cost")
    return Problem(
        name=f"instatune_{model}",
        prefix=f"{model}_",
        key={"data": str(data.resolve()), "model": model, "blocks": blocks, "threads": torch.get_num_threads()},
        network=partial(network, data),
        space=spaces,
        splits=cifar.splits(data),
        example=EXAMPLE,
        config=replace(config, epochs=20, steps=None) if full else config,
        importance=ImportanceConfig(warmup_steps=0, batch_size=64),
        first=0,
        rates=(1e-4, 3e-4),
        shared_rate=config.learning_rate,
        evaluations=250 if full else 120,
        scored=1000,
        finalists=8,
    )


def main() -> None:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--data", type=Path, required=True, help="folder of the cifar10_* files")
    flags.add_argument("--model", choices=("vit", "resnet"), default="vit", help="the ViT, or ResNet-20 (--full: 56)")
    flags.add_argument("--threads", type=int, default=2, help="of torch")
    options = flags.parse_args()
    torch.set_num_threads(options.threads)
    seeds = (0, 1, 2) if options.full else (0,)
    problem = _problem(options.data, options.model, options.full)
    before = RESNET_BEFORE if options.model == "resnet" and not options.full else ()
    targets = TARGETS | ({"gain_over_before": "at least 0.3"} if before else {})
    compare(Harness(options), problem, seeds, f"{options.model} on CIFAR-10", targets, before)


if __name__ == "__main__":
    main()
