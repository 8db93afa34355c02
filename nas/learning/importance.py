"""The order of a super-network's units: the most important first, so that every prefix is the best of its size.

What a unit is worth can be told in three ways; each gives one number a unit, comparable within its dimension:

- taylor: what its removal does to the loss, to first order: the absolute sum of weight times gradient over all its
  weights (Molchanov et al., arXiv 1906.10771, equation 8), averaged over small batches;
- activation: the mean absolute value that the layers which read the unit get from it;
- magnitude: the L1 or L2 norm of its weights (Li et al., arXiv 1608.08710); needs no data.

Differs: a network before fine-tuning has a random head, whose loss says little about the units. So taylor and
activation judge a throw-away copy that is first fine-tuned for a few steps. Magnitude counts the weights that read the
unit too, since a unit that nobody reads is worth nothing.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nas.data.split import Split
from nas.errors import UserError
from nas.learning.training import Batch, LossOf, TrainingConfig, fit, plain_loss
from nas.seeds import generator
from search_spaces import AxisCut, Supernet

Calibrated = tuple[Batch, Tensor]
"""Keyword inputs and targets of some rows."""


@dataclass(frozen=True)
class ImportanceConfig:
    """How units are judged.

    Args:
        kind: what the worth of a unit is; none: leave the order as it is.
        norm: 1 or 2, of magnitude.
        warmup_steps: of fine-tuning the copy; 0: judge the network as it is.
        batches: that the gradient or the activation is taken of, at least 1.
        batch_size: of both.
        learning_rate: highest one of the warm-up.
        seed: of the rows.
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
            raise UserError(f"kind must be one of {', '.join(_SCORERS)}, got {self.kind!r}")
        if self.norm not in (1, 2):
            raise UserError(f"norm must be 1 or 2, got {self.norm}")
        for name, lowest in (("warmup_steps", 0), ("batches", 1), ("batch_size", 1), ("seed", 0)):
            if getattr(self, name) < lowest:
                raise UserError(f"{name} must be at least {lowest}, got {getattr(self, name)}")


def order_by_importance(supernet: Supernet, train: Split, config: ImportanceConfig | None = None) -> None:
    """Permute the units of every choice in place, best first; the full network's outputs do not change.

    Args:
        supernet: before fine-tuning.
        train: rows to judge by; never validation or test rows.
        config: None: the defaults.

    Raises:
        UserError, TrainingFailed: as `importance`.
    """
    scores = importance(supernet, train, config or ImportanceConfig())
    supernet.reorder({name: torch.argsort(score, descending=True, stable=True) for name, score in scores.items()})


def importance(supernet: Supernet, train: Split, config: ImportanceConfig) -> dict[str, Tensor]:
    """Choice name -> importance of its units (units,), float64, for every choice that narrows axes; the kind none: {}.

    Where blocks drop and nothing narrows there are no units, and nothing is run.

    Raises:
        UserError: no rows, or activations that cannot be seen.
        TrainingFailed: the warm-up's loss is not finite.
    """
    return _SCORERS[config.kind](supernet, train, config) if _members(supernet) else {}


def taylor(supernet: Supernet, train: Split, config: ImportanceConfig) -> dict[str, Tensor]:
    """First-order Taylor estimate; arguments and result as `importance`."""
    judged = warmed_up(supernet, train, config)
    members = _members(judged)
    touched = set().union(*members.values())
    parameters = {name: parameter for name, parameter in judged.model.named_parameters() if name in touched}
    for name, parameter in judged.model.named_parameters():
        parameter.requires_grad_(name in parameters)
    totals: dict[str, Tensor] = {}
    for batch in calibration(judged, train, config):
        loss = mean_loss(judged.model, [batch], plain_loss(train))
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        change = {
            name: parameter.detach() * gradient
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
            if gradient is not None
        }
        for name, names in members.items():
            score = judged.unit_sums(name, {each: change[each] for each in names if each in change}).abs()
            totals[name] = totals[name] + score if name in totals else score
    return {name: total / config.batches for name, total in totals.items()}


def magnitude(supernet: Supernet, train: Split, config: ImportanceConfig) -> dict[str, Tensor]:
    """Norm of the weights of every unit; arguments and result as `importance`."""
    powers = {name: parameter.detach().abs() ** config.norm for name, parameter in supernet.model.named_parameters()}
    return {name: supernet.unit_sums(name, powers) ** (1 / config.norm) for name in _members(supernet)}


def activation(supernet: Supernet, train: Split, config: ImportanceConfig) -> dict[str, Tensor]:
    """Mean absolute activation, summed over the layers that read a unit; arguments and result as `importance`.

    Where the unit is read and not where it is made: there the activation function and the norm are done, and a head is
    the values that it passes on, without its queries and keys.
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
    """No scores, which leaves the order as it is."""
    return {}


UnitScorer = Callable[[Supernet, Split, ImportanceConfig], dict[str, Tensor]]
_SCORERS: Mapping[str, UnitScorer] = {"taylor": taylor, "magnitude": magnitude, "activation": activation, "none": none}


def _members(supernet: Supernet) -> dict[str, set[str]]:
    """Choice name -> names of the parameters that it narrows, for the choices that narrow any."""
    found = {c.name: {cut.parameter for cut in c.cuts if isinstance(cut, AxisCut)} for c in supernet.space.choices}
    return {name: parameters for name, parameters in found.items() if parameters}


class _Seen:
    """Mean absolute value of every input index of a layer over all rows and positions."""

    def __init__(self) -> None:
        self.total, self.count = torch.zeros((), dtype=torch.float64), 0

    @property
    def mean(self) -> Tensor:
        return self.total / self.count


def _see(seen: _Seen, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    values = (args[0] if args else next(iter(kwargs.values()))).detach().abs().double()
    if isinstance(module, nn.modules.conv._ConvNd):
        # Channels stand before the positions; those of a group follow each other, and a cut counts within a group.
        positions = len(module.kernel_size)
        values = values.movedim(-1 - positions, -1).unflatten(-1, (module.groups, -1)).sum(-2)
    flat = values.flatten(0, -2)
    seen.total = seen.total + flat.sum(0).cpu()
    seen.count += len(flat)


def _readers(supernet: Supernet, name: str) -> list[tuple[str, AxisCut]]:
    """(path of a layer that reads the units, where they are among its inputs)."""
    axes = {(f"{path}.weight", _read_axis(part)): path for path, part in supernet.model.named_modules()}
    cuts = [cut for cut in supernet.space[name].cuts if isinstance(cut, AxisCut)]
    return [(axes[cut.parameter, cut.axis], cut) for cut in cuts if (cut.parameter, cut.axis) in axes]


def _read_axis(part: nn.Module) -> int | None:
    """The axis of a layer's weight along which it reads its inputs; None where that is not known."""
    if isinstance(part, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return 1
    # The linear layer of GPT-2 in transformers has its weight the other way round.
    return 0 if type(part).__name__ == "Conv1D" else None


def _units(values: Tensor, cut: AxisCut) -> Tensor:
    """Sum of the values (indices,) along the axis of a cut over the indices of each unit (units,)."""
    part = values[cut.start : cut.start + cut.outer * cut.size * cut.unit]
    return part.reshape(cut.outer, cut.size, cut.unit).sum((0, 2))


def warmed_up(supernet: Supernet, train: Split, config: ImportanceConfig) -> Supernet:
    """A copy in evaluation mode whose full network was fine-tuned for `config.warmup_steps`."""
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
    """Inputs and targets of `config.batches` batches of random rows, on the device of the network.

    Raises:
        UserError: no rows.
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
    """The loss, the mean over batches, of what `forward` makes of their inputs."""
    return torch.stack([loss_of(forward, batch, targets, 0) for batch, targets in batches]).mean()
