"""The order of a super-network's units: the most important first, so that every prefix is the best of its size.

A unit's importance is the first-order Taylor estimate of what its removal does to the loss: the absolute sum of weight
times gradient over all its weights (Molchanov et al., arXiv 1906.10771), averaged over small batches.

Differs: a network before fine-tuning has a random head, whose loss says little about the units. So a throw-away copy is
first fine-tuned for a few steps, and the gradients are those of the copy.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nas.seeds import generator
from nas.split import Split
from nas.training import Batch, TrainingConfig, cross_entropy, fit
from search_spaces import AxisCut, Supernet

Calibrated = tuple[Batch, Tensor]


@dataclass(frozen=True)
class ImportanceConfig:
    """How units are judged.

    Args:
        warmup_steps: of fine-tuning the copy; 0: judge the network as it is.
        batches: that the gradient is taken of.
        batch_size: of both.
        learning_rate: highest one of the warm-up.
        seed: of the rows.
    """

    warmup_steps: int = 30
    batches: int = 24
    batch_size: int = 16
    learning_rate: float = 1e-4
    seed: int = 0


def order_by_importance(supernet: Supernet, train: Split, config: ImportanceConfig | None = None) -> None:
    """Permute the units of every choice in place, best first; the full network's outputs do not change.

    Args:
        supernet: before fine-tuning.
        train: rows to judge by; never validation or test rows.
        config: None: the defaults.
    """
    scores = importance(supernet, train, config or ImportanceConfig())
    supernet.reorder({name: torch.argsort(score, descending=True, stable=True) for name, score in scores.items()})


def importance(supernet: Supernet, train: Split, config: ImportanceConfig) -> dict[str, Tensor]:
    """Choice name -> importance of its units (units,), float64, for every choice that narrows axes.

    Raises:
        UserError: no rows.
        TrainingFailed: the warm-up's loss is not finite.
    """
    judged = copy.deepcopy(supernet)
    warm_up(judged, train, config)
    judged.eval()
    model = judged.model
    cuts = {c.name: {cut.parameter for cut in c.cuts if isinstance(cut, AxisCut)} for c in judged.space.choices}
    cuts = {name: parameters for name, parameters in cuts.items() if parameters}
    touched = set().union(*cuts.values())
    parameters = {name: parameter for name, parameter in model.named_parameters() if name in touched}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in parameters)
    totals: dict[str, Tensor] = {}
    for batch in calibration(judged, train, config):
        gradients = torch.autograd.grad(mean_loss(model, [batch]), list(parameters.values()), allow_unused=True)
        change = {
            name: parameter.detach() * gradient
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
            if gradient is not None
        }
        for name, members in cuts.items():
            score = judged.unit_sums(name, {member: change[member] for member in members if member in change}).abs()
            totals[name] = totals[name] + score if name in totals else score
    return {name: total / config.batches for name, total in totals.items()}


def calibration(judged: Supernet, train: Split, config: ImportanceConfig) -> list[Calibrated]:
    """(keyword inputs, targets) of `config.batches` batches of random rows, on the device of the network."""
    device = next(judged.parameters()).device
    rng = generator(config.seed, "importance")
    drawn = [rng.permutation(len(train))[: config.batch_size] for _ in range(config.batches)]
    return [
        (
            {name: tensor.to(device) for name, tensor in train.batch(rows).items()},
            torch.from_numpy(train.labels[rows]).to(device),
        )
        for rows in drawn
    ]


def mean_loss(forward: Callable[..., Any], batches: Sequence[Calibrated]) -> Tensor:
    """The task's loss, the mean over batches, of what `forward` makes of their inputs."""
    losses = [cross_entropy(forward, batch, labels, 0) for batch, labels in batches]
    return torch.stack(losses).mean()


def warm_up(judged: Supernet, train: Split, config: ImportanceConfig) -> None:
    """Fine-tune the full network in place for `config.warmup_steps`; 0: it stays as it is."""
    if not config.warmup_steps:
        return
    training = TrainingConfig(
        steps=config.warmup_steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        freeze_embeddings=True,
        seed=config.seed,
    )
    fit(judged.model, train, cross_entropy, training)
