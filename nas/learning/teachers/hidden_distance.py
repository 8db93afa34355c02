"""Hidden states as a second teacher: how far those of a network are from those of a fixed, strong teacher.

The distance is the mean, over the block boundaries that a network has (`search_spaces.supernets.hidden_states`), of the
squared difference of the hidden states divided by the variance of the teacher's there. Masked tokens are left out, and
so are boundaries at which the shapes differ, as where a sub-network is narrower between its blocks.

The teacher must be fixed: with the full network of the same step as the teacher, all outputs become one constant, the
easiest way for a network to have the hidden states of its sub-networks.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from nas.data.split import Split
from nas.errors import UserError
from nas.learning.training import Batch
from nas.networks.modes import keeping_modes
from nas.seeds import generator
from search_spaces import recorded, stages_of
from search_spaces.supernets.hidden_states import BlockBoundary, HiddenStates, Stages

__all__ = ["NO_HIDDEN_STATES", "HiddenDistance", "hidden_distance", "positions"]

_ROWS, _AT_ONCE = 64, 8
"""Training rows on which the variances are measured, and how many of them are run at once."""


@dataclass(frozen=True)
class HiddenDistance:
    """The distance of hidden states from those of a teacher.

    Args:
        stages: the blocks of both networks.
        variances: of the teacher's hidden states, by block boundary; a boundary without one is left out.
        turned: boundaries at which the rows are the second axis of hidden states, as where a block takes texts as
            (length, rows, features).
    """

    stages: Stages
    variances: Mapping[BlockBoundary, float]
    turned: frozenset[BlockBoundary] = frozenset()

    def recorded(self, model: nn.Module) -> AbstractContextManager[list[HiddenStates]]:
        """`search_spaces.recorded` of either network, with the rows as the first axis."""
        return recorded(model, self.stages, self.turned)

    def __call__(
        self,
        student: Mapping[BlockBoundary, Tensor],
        teacher: Mapping[BlockBoundary, Tensor],
        batch: Batch,
        weights: Tensor | None = None,
    ) -> Tensor:
        """The distance of a network's hidden states on a batch, a scalar; 0 where the two have no boundary in common.

        Args:
            student: hidden states of the network.
            teacher: those of its teacher.
            batch: inputs of the rows.
            weights: of the rows (rows,) in the mean that the distance is over them; None: alike. With the terms that
                they have in the loss beside it (`nas.data.rows.terms`), the sum of both is one mean however the rows
                of a step are divided.
        """
        found = [
            _mean((state.float() - teacher[boundary].float()).square(), batch, weights) / self.variances[boundary]
            for boundary, state in student.items()
            if boundary in self.variances and boundary in teacher and state.shape == teacher[boundary].shape
        ]
        return torch.stack(found).mean() if found else torch.zeros((), device=next(iter(batch.values())).device)


NO_HIDDEN_STATES = HiddenDistance((), {})
"""What a teacher of outputs alone has."""


def hidden_distance(model: nn.Module, teacher: nn.Module, train: Split, seed: int) -> HiddenDistance:
    """The distance between the hidden states of a network and those of its teacher, whose variances are measured.

    The variances are those of some training rows, once and for all, so that the distance does not depend on how the
    rows of a step are divided.

    Args:
        model: the full network.
        teacher: a network with the same blocks; `model` itself stands for a copy of it.
        train: training rows.
        seed: decides on which of them the variances are measured.

    Raises:
        UserError: the network has no repeated blocks, the teacher has others, or there is no block boundary at which
            the hidden states of both have the same shape.
    """
    pair = _two_longest(train)
    stages = _stages(model, pair)
    _check_blocks(teacher, model, stages)
    with keeping_modes(model), keeping_modes(teacher), torch.no_grad():
        raw = HiddenDistance(stages, {})
        own, other = _states(model, raw, pair), _states(teacher, raw, pair)
        shapes = {boundary: state.shape for boundary, state in other.items()}
        alike = [boundary for boundary, state in own.items() if shapes.get(boundary) == state.shape]
        axes = {boundary: list(own[boundary].shape[:2]) for boundary in alike}
        turned = frozenset(boundary for boundary, sizes in axes.items() if sizes[0] != 2 and sizes[1:] == [2])
        measured = _variances(teacher, HiddenDistance(stages, {}, turned), train, seed)
    # A hidden state without an axis of the rows is of no use, because rows could not be told apart.
    variances = {boundary: measured[boundary] for boundary in alike if measured[boundary] > 0 and 2 in axes[boundary]}
    if not variances:
        raise UserError(
            "hidden_weight needs a teacher whose hidden states vary and have the network's width, and none does; leave "
            "hidden_weight out, or give a teacher of the same size"
        )
    return HiddenDistance(stages, variances, turned)


def positions(state: Tensor, batch: Batch) -> Tensor | None:
    """Which positions (rows, length) of a hidden state are no padding, bool; None where it does not have a batch's."""
    mask = batch.get("attention_mask")
    return mask.bool() if mask is not None and state.ndim > 2 and state.shape[:2] == mask.shape else None


def _mean(values: Tensor, batch: Batch, weights: Tensor | None) -> Tensor:
    """Weighted mean over the rows of the mean of each (rows, ...), without the positions that are padding."""
    kept = positions(values, batch)
    if kept is None:
        each = values.flatten(1).mean(1)
    else:
        each = torch.where(kept, values.flatten(2).mean(2), 0.0).sum(1) / kept.sum(1).clamp(min=1)
    if weights is None:
        return each.mean()
    return (each * weights).sum() / weights.sum().clamp(min=1)


def _two_longest(train: Split) -> Batch:
    """Two rows, because torch.export treats a batch of one as a constant; the same one twice if need be.

    The longest ones, so that their number is not their length too.
    """
    return train.batch(np.resize(np.argsort(train.inputs.lengths, kind="stable")[-2:], 2))


def _stages(model: nn.Module, pair: Batch) -> Stages:
    device = next(model.parameters()).device
    try:
        stages = stages_of(model, {name: tensor.to(device) for name, tensor in pair.items()})
    except ValueError as error:
        raise UserError(f"hidden_weight needs a network whose blocks can be found: {error}") from error
    if not stages:
        raise UserError(
            f"hidden_weight needs a network of repeated blocks, {type(model).__name__} has none; leave it out"
        )
    return stages


def _check_blocks(teacher: nn.Module, model: nn.Module, stages: Stages) -> None:
    modules, own = dict(teacher.named_modules()), dict(model.named_modules())
    for path in (path for paths in stages for path in paths):
        around = path.rpartition(".")[0]
        if path not in modules or len(list(modules[around].children())) != len(list(own[around].children())):
            raise UserError(
                f"hidden_weight needs a teacher with the network's blocks, {type(teacher).__name__} has others than "
                f"those of {around or 'the network'}; leave hidden_weight out, or give a teacher of the same depth"
            )


def _states(module: nn.Module, distance: HiddenDistance, batch: Batch) -> HiddenStates:
    device = next(module.parameters()).device
    with distance.recorded(module) as found:
        module.eval()(**{name: tensor.to(device) for name, tensor in batch.items()})
    return found[-1]


def _variances(teacher: nn.Module, distance: HiddenDistance, train: Split, seed: int) -> dict[BlockBoundary, float]:
    """Variance of the teacher's hidden states at each block boundary, over rows, positions and features."""
    rows = generator(seed, "hidden states").permutation(len(train))[:_ROWS]
    sums: dict[BlockBoundary, Tensor] = {}
    for part in np.array_split(rows, -(-len(rows) // _AT_ONCE)):
        batch = train.batch(part)
        for boundary, state in _states(teacher, distance, batch).items():
            kept, state = positions(state, batch), state.double().cpu()
            values = state if kept is None else state[kept]
            moments = torch.stack([torch.ones_like(values).sum(), values.sum(), values.square().sum()])
            sums[boundary] = sums[boundary] + moments if boundary in sums else moments
    return {boundary: _variance(*moments.tolist()) for boundary, moments in sums.items()}


def _variance(count: float, total: float, squares: float) -> float:
    """The variance of values with these sums; 0 where all are the same but for rounding."""
    variance = squares / count - (total / count) ** 2
    return variance if variance > 1e-12 * squares / count else 0.0
