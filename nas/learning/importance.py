"""Order the units of a super-network by importance, so that each prefix holds the most important units.

A sub-network uses the first units (heads, features, channels) of each dimension. There are three importance scores,
comparable between the units of one dimension:

- taylor: first-order estimate of the change of the loss if the unit is removed, the absolute sum of weight times
  gradient over its weights (Molchanov et al., arXiv 1906.10771, equation 8), averaged over small batches;
- activation: mean absolute value of the unit at the layers that read it;
- magnitude: the L1 or L2 norm of its weights (Li et al., arXiv 1608.08710); needs no data.

Differs: before fine-tuning, the head is random and its loss says little about the units. So taylor and activation are
computed on a temporary copy that is fine-tuned for a few steps. Magnitude includes the weights that read the unit,
because a unit that no layer reads is worth nothing.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nas.data.split import Split
from nas.errors import UserError
from nas.learning.training import Batch, LossOf, TrainingConfig, fit, plain_loss
from nas.seeds import generator
from nas.sentences import one_of
from search_spaces import AxisCut, Supernet

Calibrated = tuple[Batch, Tensor]
"""Keyword inputs and targets of one batch of rows."""


@dataclass(frozen=True)
class ImportanceConfig:
    """Settings of the importance scores.

    Args:
        kind: the score; none keeps the order of the units.
        norm: 1 or 2, for magnitude.
        warmup_steps: fine-tuning steps of the copy before it is scored; 0: score the network without a warm-up.
        batches: number of batches over which gradients or activations are averaged, at least 1.
        batch_size: rows per batch, in the warm-up and for the scores.
        learning_rate: highest learning rate of the warm-up.
        seed: decides which rows are used.

    Raises:
        UserError: a setting is out of its range.
    """

    kind: Literal["taylor", "magnitude", "activation", "none"] = "taylor"
    norm: Literal[1, 2] = 1
    warmup_steps: int = 30
    batches: int = 24
    batch_size: int = 16
    learning_rate: float = 1e-4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in _SCORERS:
            raise UserError(f"kind must be {one_of(_SCORERS, self.kind)}")
        if self.norm not in (1, 2):
            raise UserError(f"norm must be 1 or 2, got {self.norm}")
        for name, lowest in (("warmup_steps", 0), ("batches", 1), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < lowest:
                raise UserError(f"{name} must be at least {lowest}, got {getattr(self, name)}")


def order_by_importance(supernet: Supernet, train: Split, config: ImportanceConfig | None = None) -> dict[str, Tensor]:
    """Sort the units of each choice in place, most important first; the full network computes the same outputs.

    Args:
        supernet: the super-network, before fine-tuning.
        train: training rows for the scores; never pass validation or test rows.
        config: the settings; None: the defaults.

    Returns:
        Choice name -> indices of its units (units,) in their new order.

    Raises:
        UserError: there are no rows, or the activations of a unit cannot be observed.
        TrainingFailed: the loss of the warm-up is not finite.
    """
    scores = importance(supernet, train, config or ImportanceConfig())
    orders = {name: torch.argsort(score, descending=True, stable=True) for name, score in scores.items()}
    supernet.reorder(orders)
    return orders


def importance(supernet: Supernet, train: Split, config: ImportanceConfig) -> dict[str, Tensor]:
    """Compute the importance of the units of each choice that narrows axes.

    Returns:
        Choice name -> score of each unit (units,), float64. Empty for the kind "none", and when the space only drops
        blocks, in which case nothing is run.

    Raises:
        UserError: there are no rows, or the activations of a unit cannot be observed.
        TrainingFailed: the loss of the warm-up is not finite.
    """
    return _SCORERS[config.kind](supernet, train, config) if _members(supernet) else {}


def taylor(supernet: Supernet, train: Split, config: ImportanceConfig) -> dict[str, Tensor]:
    """First-order Taylor estimate (Molchanov et al., equation 8); arguments and result as for `importance`."""
    judged = warmed_up(supernet, train, config)
    batches = calibration(judged, train, config)
    totals = summed_changes(judged, (mean_loss(judged.model, [batch], plain_loss(train)) for batch in batches))
    return {name: total / config.batches for name, total in totals.items()}


def summed_changes(supernet: Supernet, losses: Iterable[Tensor]) -> dict[str, Tensor]:
    """Estimate how much losses change without each unit (Molchanov et al., equation 8), summed over the losses.

    Args:
        supernet: in evaluation mode; gradients are switched off for the parameters that no choice narrows.
        losses: scalars, each computed when it is asked for.

    Returns:
        Choice name -> estimate of each unit (units,), float64.
    """
    members = _members(supernet)
    touched = set().union(*members.values())
    parameters = {name: parameter for name, parameter in supernet.model.named_parameters() if name in touched}
    for name, parameter in supernet.model.named_parameters():
        parameter.requires_grad_(name in parameters)
    # The absolute value is taken after summing over the weights of a unit, whose contributions may cancel when it is
    # removed, but for each loss: averaged over all rows, the gradient of a trained network is near zero.
    totals: dict[str, Tensor] = {}
    for loss in losses:
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        change = {
            name: parameter.detach() * gradient
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
            if gradient is not None
        }
        for name, names in members.items():
            score = supernet.unit_sums(name, {each: change[each] for each in names if each in change}).abs()
            totals[name] = totals[name] + score if name in totals else score
    return totals


def magnitude(supernet: Supernet, train: Split, config: ImportanceConfig) -> dict[str, Tensor]:
    """Norm of the weights of each unit; arguments and result as for `importance`."""
    powers = {name: parameter.detach().abs() ** config.norm for name, parameter in supernet.model.named_parameters()}
    return {name: supernet.unit_sums(name, powers) ** (1 / config.norm) for name in _members(supernet)}


def activation(supernet: Supernet, train: Split, config: ImportanceConfig) -> dict[str, Tensor]:
    """Mean absolute activation, summed over the layers that read a unit; arguments and result as for `importance`.

    Activations are observed at the layers that read the unit rather than at those that compute it. There the activation
    function and the normalisation have been applied, and of an attention head only its output counts, not its queries
    and keys.
    """
    judged = warmed_up(supernet, train, config)
    readers = {name: _readers(judged, name) for name in _members(judged)}
    seen = {path: _Seen() for found in readers.values() for path, _ in found}
    handles = [
        judged.model.get_submodule(path).register_forward_pre_hook(partial(_see, each), with_kwargs=True)
        for path, each in seen.items()
    ]
    with torch.no_grad():
        for batch, _ in calibration(judged, train, config):
            judged.model(**batch)
    for handle in handles:
        handle.remove()
    scores = {}
    for name, found in readers.items():
        known = [(cut, seen[path].mean) for path, cut in found if seen[path].count]
        if not known:
            raise UserError(
                f"the units of {name} must be read by a linear or convolutional layer for activations to be seen, "
                "and none is; take the kind taylor or magnitude"
            )
        scores[name] = torch.stack([_units(mean, cut) for cut, mean in known]).sum(0)
    return scores


def none(supernet: Supernet, train: Split, config: ImportanceConfig) -> dict[str, Tensor]:
    """Return no scores, which keeps the order of the units."""
    return {}


UnitScorer = Callable[[Supernet, Split, ImportanceConfig], dict[str, Tensor]]
_SCORERS: Mapping[str, UnitScorer] = {"taylor": taylor, "magnitude": magnitude, "activation": activation, "none": none}


def _members(supernet: Supernet) -> dict[str, set[str]]:
    """Choice name -> names of the parameters that it narrows; choices that narrow none are left out."""
    found = {c.name: {cut.parameter for cut in c.cuts if isinstance(cut, AxisCut)} for c in supernet.space.choices}
    return {name: parameters for name, parameters in found.items() if parameters}


class _Seen:
    """Accumulates the mean absolute value of each input index of a layer over all rows and positions."""

    def __init__(self) -> None:
        self.total, self.count = torch.zeros((), dtype=torch.float64), 0

    @property
    def mean(self) -> Tensor:
        return self.total / self.count


def _see(seen: _Seen, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Forward pre-hook that adds the inputs of a layer to `seen`."""
    values = (args[0] if args else next(iter(kwargs.values()))).detach().abs().double()
    if isinstance(module, nn.modules.conv._ConvNd):
        # Channels come before the spatial axes. The weight of a grouped convolution has an input axis of the channels
        # of one group, and a cut refers to that axis, so the groups are summed.
        positions = len(module.kernel_size)
        values = values.movedim(-1 - positions, -1).unflatten(-1, (module.groups, -1)).sum(-2)
    flat = values.flatten(0, -2)
    seen.total = seen.total + flat.sum(0).cpu()
    seen.count += len(flat)


def _readers(supernet: Supernet, name: str) -> list[tuple[str, AxisCut]]:
    """Paths of the layers that read the units of a choice, each with the cut along its input axis."""
    axes = {(f"{path}.weight", _read_axis(part)): path for path, part in supernet.model.named_modules()}
    cuts = [cut for cut in supernet.space[name].cuts if isinstance(cut, AxisCut)]
    return [(axes[cut.parameter, cut.axis], cut) for cut in cuts if (cut.parameter, cut.axis) in axes]


def _read_axis(part: nn.Module) -> int | None:
    """The input axis of a layer's weight; None for layers of unknown type."""
    if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return 1
    # `Conv1D` of transformers, the linear layer of GPT-2, stores its weight transposed.
    return 0 if type(part).__name__ == "Conv1D" else None


def _units(values: Tensor, cut: AxisCut) -> Tensor:
    """Sum `values` (indices,), given along the axis of a cut, over the indices of each unit; returns (units,)."""
    part = values[cut.start : cut.start + cut.outer * cut.size * cut.unit]
    return part.reshape(cut.outer, cut.size, cut.unit).sum((0, 2))


def warmed_up(supernet: Supernet, train: Split, config: ImportanceConfig) -> Supernet:
    """Copy a super-network and fine-tune its full network for `config.warmup_steps`; returned in evaluation mode."""
    # Embeddings stay frozen: they hardly change in a few steps, and would take much of the optimizer's memory.
    judged = copy.deepcopy(supernet)
    if config.warmup_steps:
        training = TrainingConfig(
            steps=config.warmup_steps,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            freeze_embeddings=True,
            seed=config.seed,
        )
        fit(judged.model, train, plain_loss(train), training)
    return judged.eval()


def calibration(judged: Supernet, train: Split, config: ImportanceConfig) -> list[Calibrated]:
    """Draw `config.batches` batches of random training rows and move them to the device of the network.

    Raises:
        UserError: there are no rows.
    """
    if not len(train):
        raise UserError("importance needs at least one training row, got none")
    device = next(judged.parameters()).device
    rng = generator(config.seed, "importance")
    drawn = [rng.permutation(len(train))[: config.batch_size] for _ in range(config.batches)]
    return [
        ({name: tensor.to(device) for name, tensor in train.batch(rows).items()}, train.targets(rows).to(device))
        for rows in drawn
    ]


def mean_loss(forward: Callable[..., Any], batches: Sequence[Calibrated], loss_of: LossOf) -> Tensor:
    """Mean over batches of the loss of `forward`, a scalar."""
    return torch.stack([loss_of(forward, batch, targets, 0) for batch, targets in batches]).mean()
