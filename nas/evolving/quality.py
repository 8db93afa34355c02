"""Which layers do not train: too few right answers after a hundred steps in any network (EvoNorm, section 4).

The same trains layers for longer, to score them; then what is far behind older layers may be stopped (`behind.py`).

Differs: the paper gives neither learning rate nor optimizer of these steps; `TRAINING` is SGD with Nesterov's momentum,
at a rate at which the known layers train in all three networks. Gradients are not clipped, which would help what
explodes.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nas.data.accuracy import logits_of
from nas.data.rows import Rows
from nas.errors import UserError
from nas.evolving.anchors import Network, with_layer
from nas.evolving.behind import Standings, behind
from nas.evolving.verdict import Verdict, score_name
from nas.learning.optimizer import Sgd
from nas.learning.schedule import Cosine
from nas.learning.training import Batch, TrainingConfig, TrainingFailed, fit
from nas.seeds import generator
from search_spaces.graphs import LayerGraph, published

__all__ = ["LEAST_ACCURACY", "TRAINING", "classification_loss", "half_way", "quality", "right_share"]

LEAST_ACCURACY = 0.2
"""The paper's bound for CIFAR-10: twice what guessing has right among ten classes.

It is too high for networks of the size `SMALL`: after `TRAINING` on CIFAR-10 of 16 pixels, MobileNetV2 has 16 % of 500
rows right with batch norms and ReLU, 17 % with S0. Measure what known layers have, and choose a bound below that.
"""

TRAINING = TrainingConfig(
    steps=100,
    batch_size=32,
    learning_rate=0.05,
    weight_decay=1e-4,
    warmup_share=0.05,
    clip_norm=math.inf,
    optimizer=Sgd(0.9, nesterov=True),
    schedule=Cosine(),
)


def quality(
    graph: LayerGraph,
    networks: Mapping[str, Network],
    train: Rows,
    validation: Rows,
    *,
    seed: int = 0,
    groups: int = 32,
    training: TrainingConfig = TRAINING,
    least_accuracy: float = LEAST_ACCURACY,
    standings: Standings | None = None,
) -> Verdict:
    """Train a layer for a few steps in one network after the other, until it fails in one.

    The same layer and seed give the same verdict, on the same machine with the same number of threads.

    Args:
        graph: the layer.
        networks: by name, the cheapest first; see `nas.evolving.anchors.networks`.
        train: training rows, images with a class each.
        validation: rows on which the trained network is scored, of the same kind.
        seed: of weights and batches; in place of that of `training`.
        groups: as of `GraphLayer`.
        training: how to train.
        least_accuracy: the share (0..1) of rows that must be right. For other data than CIFAR-10 it should be between
            what guessing and what a known layer has.
        standings: accuracies of older layers after the same training, of which this one must not be far behind.

    Returns:
        `measured` has the `accuracy <network>` of each network that was trained to the end.

    Raises:
        UserError: there are no networks or no validation rows, a batch would have a single row, or the bound is not in
            0..1.
    """
    _check(networks, train, validation, training, least_accuracy)
    found = Verdict()
    for name, network in networks.items():
        module = with_layer(network, graph, seed, groups)
        config = replace(training, seed=seed, evaluate_every=training.total_steps(len(train)))
        taken, accuracy, failure = _trained(module, train, validation, config)
        if failure:
            return Verdict("quality", f"{failure} in {name}", steps=taken).after(found)
        found = Verdict(measured={score_name(name): accuracy}, steps=taken).after(found)
        if accuracy < least_accuracy:
            reason = f"{accuracy:.1%} of the rows are right in {name}, at least {least_accuracy:.1%} must be"
            return Verdict("quality", reason).after(found)
        far = behind(found.accuracies, standings or {})
        if far is not None:
            return Verdict("behind", far).after(found)
    return found


def half_way(
    networks: Mapping[str, Network],
    train: Rows,
    validation: Rows,
    *,
    outputs: int,
    seed: int = 0,
    groups: int = 32,
    training: TrainingConfig = TRAINING,
) -> float:
    """A bound for data and networks for which the paper's is not: half way from guessing to a batch norm and a ReLU.

    Args:
        networks: in which layers will be tried; the one counts in which the known layer has the fewest rows right.
        train: training rows.
        validation: rows for the accuracy.
        outputs: number of classes.
        seed: of weights and batches.
        groups: as of `GraphLayer`.
        training: of the layers that will be tried.

    Raises:
        UserError: as `quality`; or the known layer does not train in these steps, so that nothing could be told.
    """
    found = quality(
        published("BN-ReLU"),
        networks,
        train,
        validation,
        seed=seed,
        groups=groups,
        training=training,
        least_accuracy=0.0,
    )
    guessing = 1 / outputs
    least = min(found.measured.values(), default=0.0) if found.accepted else 0.0
    if least <= guessing:
        raise UserError(
            f"{training.total_steps(len(train))} steps must suffice for batch norms and ReLU to learn a little in each "
            f"network, the least accuracy is {least:.3f} where guessing has {guessing:.3f}; give more steps "
            "(--quality-steps), or a bound (--least-accuracy)"
        )
    return (guessing + least) / 2


def _check(
    networks: Mapping[str, Network], train: Rows, validation: Rows, training: TrainingConfig, least_accuracy: float
) -> None:
    if not networks:
        raise UserError("a layer must be tried in at least one network, got none")
    if not len(validation):
        raise UserError("a layer is scored on at least one validation row, got none")
    if not 0 <= least_accuracy <= 1:
        raise UserError(f"least_accuracy must be in 0..1, got {least_accuracy}")
    if len(train) < 2 * training.epoch_steps(len(train)):
        raise UserError(
            f"layers that normalize over the batch need batches of at least 2 rows, got {len(train)} rows in batches "
            f"of {training.batch_size}"
        )


def _trained(module: nn.Module, train: Rows, validation: Rows, config: TrainingConfig) -> tuple[int, float, str]:
    """Train in place; the steps taken, the accuracy, and what was not finite (empty if all was)."""
    taken: list[int] = []

    def score(step: int) -> float:
        return right_share(module, validation, config.batch_size)

    try:
        history = fit(
            module, train, classification_loss, config, on_step=lambda step: taken.append(step.step), validate=score
        )
    except TrainingFailed:
        return len(taken) + 1, math.nan, f"the loss or its gradient is not finite at step {len(taken) + 1}"
    accuracy = history.evaluations[-1][1]
    return len(taken), accuracy, "" if math.isfinite(accuracy) else "the outputs in evaluation mode are not finite"


def classification_loss(forward: Callable[..., Any], batch: Batch, targets: Tensor, step: int) -> Tensor:
    """Cross-entropy of a network of images, whose only input may have any name; a scalar."""
    return cross_entropy(logits_of(forward(*batch.values())), targets)


@torch.no_grad()
def right_share(module: nn.Module, rows: Rows, batch_size: int) -> float:
    """The share (0..1) of rows whose largest logit is that of their class; NaN if a logit is not finite.

    Args:
        module: the network, in evaluation mode.
        rows: images with a class each, at least one.
        batch_size: rows of a forward; no influence on the result.
    """
    device = next(module.parameters()).device
    right = 0
    for indices in rows.batches(max(batch_size, 64), generator(0, "validation")):
        logits = logits_of(module(*(tensor.to(device) for tensor in rows.batch(indices).values())))
        if not torch.isfinite(logits).all():
            return math.nan
        right += int((logits.argmax(1).cpu() == rows.targets(indices).cpu()).sum())
    return right / len(rows)
