"""Train and judge pruned forms of one sub-network by itself: the evaluation of its search.

A form is fed the original's features and trained to give the original's features behind it, and such that the detector
there classifies them: half the sum of the norm of the difference and of the cross-entropy (EMO-DIR, arXiv 2303.16212v2,
equation 9). Its objective is the share of validation rows that are wrong through the detector.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hardware.inputs import device_of
from nas.learning.training import TrainingConfig, fit
from nas.networks.loading import device_name
from nas.networks.modes import keeping_modes
from nas.pruning.boundaries import INPUT, OUTPUT, FeatureRows
from nas.pruning.inheritance import inherited, random_orders
from nas.searching.kept import KeptFiles
from nas.searching.measurement import Evaluated
from search_spaces import Candidate
from search_spaces.pruning import SubNetwork
from search_spaces.supernets.costs import CostFunction
from search_spaces.supernets.recalibration import measure_statistics
from search_spaces.weights import save_weights

WEIGHTS = "model.safetensors"
_SCORED = 256
"""Rows in a forward pass when a form is judged."""


@dataclass(frozen=True)
class CandidateTraining:
    """The evaluation of the forms of one sub-network, for a search; a plain object that workers receive.

    Args:
        subnetwork: as it is in the original.
        detector: what follows it, frozen and in evaluation mode.
        train: the rows that forms are trained on.
        validation: those that they are judged on.
        config: of the training of one form.
        constrained: whether the difference of features is part of the loss; False is the paper's ablation EMO-DIR-nc.
        orders: of the channels that forms inherit; None: drawn for each form.
        files: where the trained weights are kept; None: nowhere.
        cost: of encoded forms (n, k), (n,): the first objective.
    """

    subnetwork: SubNetwork
    detector: nn.Module
    train: FeatureRows
    validation: FeatureRows
    config: TrainingConfig
    constrained: bool
    orders: dict[str, Tensor] | None
    files: KeptFiles | None
    cost: CostFunction

    def __call__(self, candidates: Sequence[Candidate]) -> Evaluated:
        """Cost and error (n, 2) of n forms, and how far their features are from the original's; NaN as in `judged`."""
        found = [self._one(candidate) for candidate in candidates]
        values = np.stack([self.cost(self.subnetwork.space.encode(candidates)), [error for error, _ in found]], axis=1)
        return Evaluated(values, [{"feature_change": change} for _, change in found])

    def _one(self, candidate: Candidate) -> tuple[float, float]:
        form = self.trained(candidate)
        if self.files is not None:
            with self.files.writing(candidate) as folder:
                save_weights(form, folder / WEIGHTS)
        return judged(form, self.detector, self.validation)

    def trained(self, candidate: Candidate) -> nn.Module:
        """A form after its training, in evaluation mode; always the same one."""
        orders = self.orders
        if orders is None:
            orders = random_orders(self.subnetwork.space, candidate, self.config.seed)
        device = device_name(self.config.device)
        form = inherited(self.subnetwork.module, self.subnetwork.space, candidate, orders).to(device)
        self.detector.to(device)
        fit(form, self.train, partial(constrained_loss, self.detector, self.constrained), self.config)
        form.eval()
        # The running averages of a short training still hold those of the original, which had other channels.
        batches = self.train.batches(self.config.batch_size)
        measure_statistics(form, ((self.train.batch(rows)[INPUT].to(device),) for rows in batches))
        return form


def constrained_loss(
    detector: nn.Module,
    constrained: bool,
    forward: Callable[..., Any],
    batch: Mapping[str, Tensor],
    targets: Tensor,
    step: int,
) -> Tensor:
    """The loss of equation 9, a scalar; without the constraint its cross-entropy alone."""
    features: Tensor = forward(batch[INPUT])
    loss = cross_entropy(detector(features), targets)
    if not constrained:
        return loss
    # Of every row by itself, so that the loss does not depend on how many rows a batch has.
    difference = torch.linalg.vector_norm((features - batch[OUTPUT]).flatten(1), dim=1).mean()
    both: Tensor = (difference + loss) / 2
    return both


@torch.no_grad()
def judged(form: nn.Module, detector: nn.Module, rows: FeatureRows) -> tuple[float, float]:
    """The error of a form through the detector (0..1), and the mean share of its features' norm that differs.

    The error is NaN where a feature is no number, because a class is found for such features too.
    """
    with keeping_modes(detector):
        detector.eval()
        wrong, change = 0, []
        for indices in rows.batches(_SCORED):
            batch = {name: tensor.to(device_of(form)) for name, tensor in rows.batch(indices).items()}
            features = form(batch[INPUT])
            wrong += int((detector(features).argmax(1).cpu() != rows.targets(indices)).sum())
            difference = (features - batch[OUTPUT]).flatten(1).norm(dim=1)
            change += (difference / batch[OUTPUT].flatten(1).norm(dim=1).clamp_min(1e-12)).tolist()
    mean = float(np.mean(change))
    return wrong / len(rows) if math.isfinite(mean) else math.nan, mean
