"""InstaTune (arXiv 2308.15609): one fine-tuning that makes a pre-trained network a super-network.

Equation 1: every step trains the full network and some sub-networks. With gamma = 0 ("low-cost") the full network
teaches the sub-networks of the same step. With gamma = 1 ("high-cost") a strong teacher, a network that was fine-tuned
on its own and stays as it is, teaches the full network and the sub-networks. "hybrid" has gamma = 1 in the first steps,
then 0.

Differs: the distillation term is multiplied by the squared temperature, and the temperature is 5, as in the authors'
code for BEiT-3 (the equation names a temperature and gives neither); the full network's cross-entropy has weight 1,
where the equation has alpha: with alpha, a short fine-tuning can fall into the distillation's other minimum, one output
for every row. Other ways to draw the sub-networks than the paper's are in `nas.learning.sampling`.
"""

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas.data.accuracy import logits_of
from nas.data.split import Split
from nas.data.tasks import Task
from nas.errors import UserError
from nas.learning.augmentation import augmented
from nas.learning.checkpoint import model_fingerprint
from nas.learning.probes import Probe, Probes
from nas.learning.sampling import Pareto, Sampling, Sandwich, Uniform
from nas.learning.teacher import strong_teacher
from nas.learning.training import Batch, History, Step, TrainingConfig, fit
from nas.settings import InstaTuneSettings
from search_spaces import Supernet, exact_costs
from search_spaces.arrays import FloatArray, IntArray

Costs = Callable[[IntArray], FloatArray]


@dataclass(frozen=True)
class InstaTuneConfig(InstaTuneSettings, TrainingConfig):
    """How to fine-tune a super-network: everything of `TrainingConfig`, how sub-networks are trained, and the loss.

    `samples=0` with uniform sampling is plain fine-tuning of the full network through the same loop. `samples` is M of
    the paper, and uniform sampling the paper's.

    Raises:
        UserError: a number is out of its range.
    """

    hybrid_share: float = 0.5
    """Part of the steps with the strong teacher when distillation is hybrid, in 0..1 (the paper: 10 of 20 epochs)."""
    alpha: float = 0.3
    """Weight of a sub-network's cross-entropy, above 0 to 1; the rest is distillation."""
    full_weight: float = 1.0
    """Weight of the full network's cross-entropy; alpha in the paper."""
    temperature: float = 5.0
    """Of the distillation (the paper is silent; its code has 5)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 0:
            raise UserError(f"samples must be at least 0, got {self.samples}")
        for name, known in (("sampling", _SAMPLING), ("distillation", _DISTILLATION)):
            if getattr(self, name) not in known:
                raise UserError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if not 0 <= self.hybrid_share <= 1:
            raise UserError(f"hybrid_share must be from 0 to 1, got {self.hybrid_share}")
        if not 0 < self.alpha <= 1:
            raise UserError(f"alpha must be above 0 and at most 1, got {self.alpha}")
        if not self.full_weight > 0:
            raise UserError(f"full_weight must be above 0, got {self.full_weight}")
        if not self.temperature > 0:
            raise UserError(f"temperature must be above 0, got {self.temperature}")

    def strong_steps(self, steps: int) -> int:
        """How many of the steps, the first ones, have the strong teacher (gamma = 1)."""
        return round(steps * {"low-cost": 0.0, "high-cost": 1.0, "hybrid": self.hybrid_share}[self.distillation])


_SAMPLING = ("uniform", "sandwich", "pareto")
_DISTILLATION = ("low-cost", "high-cost", "hybrid")


@dataclass(frozen=True)
class InstaTuneHistory(History):
    """All steps, and how some sub-networks did on the validation rows (none where no rows were given)."""

    probes: tuple[Probe, ...] = ()


def instatune(
    supernet: Supernet,
    train: Split,
    config: InstaTuneConfig | None = None,
    *,
    teacher: nn.Module | None = None,
    checkpoint: Path | None = None,
    on_step: Callable[[Step], None] | None = None,
    validation: Split | None = None,
    costs: Costs | None = None,
    tracking: Path | None = None,
) -> InstaTuneHistory:
    """Fine-tune a super-network in place; it is never searched here.

    Args:
        supernet: with its units already in order of importance.
        train: the training rows.
        config: None: the defaults.
        teacher: fine-tuned on the same data, of the same inputs and labels, for high-cost and hybrid distillation; it
            is not changed.
        checkpoint: folder to go on from and to write to; the result is bit-identical to that of a run never killed.
        on_step: told about every new step.
        validation: rows on which the largest, the smallest and three fixed random sub-networks are scored every
            `config.evaluate_every` steps; early stop goes by the mean of the largest one's score and the others' mean.
        costs: encoded candidates (n, k) -> cost (n,) for pareto sampling; None: multiply-accumulates of one of the
            training rows.
        tracking: folder of the trackers.

    Raises:
        UserError: no rows; no teacher or one that does not fit; or the checkpoint is damaged or of another run.
        TrainingFailed: the loss is not finite.
    """
    config = config or InstaTuneConfig()
    _check_given(teacher, config)
    largest, task = supernet.space.full(), train.task
    sampling = _sampling(supernet, train, config, costs)
    shown = augmented(train) if config.augment else train
    probes = Probes(supernet, shown, validation, config.seed) if validation is not None else None
    strong_steps = config.strong_steps(config.total_steps(len(train)))
    with contextlib.ExitStack() as stack:
        teach = None if teacher is None else stack.enter_context(strong_teacher(teacher, supernet.model, train))

        def loss_of(forward: Callable[..., Any], batch: Batch, targets: Tensor, step: int) -> Tensor:
            # 1. Draw the sub-networks, equal on all processes.
            candidates = [largest, *sampling.draw(step)]
            # 2. One call for all of them; the full network first. The teacher before it, while memory is free.
            strong = teach(batch) if teach and step <= strong_steps else None
            outputs = [logits_of(output).float() for output in forward(candidates, **batch)]
            # 3. Equation 1, and what the sampling learns from it.
            loss, own = equation_one(task, outputs, strong, targets, config)
            if sampling.learns:
                sampling.observe(step, candidates[1:], _excess(own, len(targets)))
            return loss

        history = fit(
            supernet,
            train,
            loss_of,
            config,
            checkpoint=checkpoint,
            on_step=on_step,
            validate=probes,
            memory=_LossState(supernet, sampling, probes, teacher) if checkpoint else None,
            tracking=tracking,
        )
    return InstaTuneHistory(history.steps, history.evaluations, probes.found if probes else ())


def equation_one(
    task: Task, outputs: Sequence[Tensor], strong: Tensor | None, targets: Tensor, config: InstaTuneConfig
) -> tuple[Tensor, list[Tensor]]:
    """Equation 1 for one batch, with a weight of its own for the full network's cross-entropy.

    Args:
        task: its loss stands for the cross-entropy, its distillation for the divergence.
        outputs: logits of the full network, then of the sub-networks.
        strong: logits of the strong teacher (gamma = 1), or None (gamma = 0).
        targets: of the rows.
        config: the weights.

    Returns:
        The loss, and every network's own loss without distillation and weights.
    """
    own = [task.loss(logits, targets, config.label_smoothing) for logits in outputs]
    loss = config.full_weight * own[0]
    for each in own[1:]:
        loss = loss + config.alpha * each
    # Gradients never reach a teacher: with gamma = 0 it is the full network of the same step.
    teacher, students = (outputs[0].detach(), outputs[1:]) if strong is None else (strong.detach(), outputs)
    for student in students:
        loss = loss + (1 - config.alpha) * task.distillation(student, teacher, targets, config.temperature)
    return loss, own


def _excess(own: Sequence[Tensor], rows: int) -> list[float]:
    """How much higher each sub-network's loss is than the full network's, the mean over the rows of all processes."""
    losses = torch.stack([each.detach().double() for each in own])
    parts = torch.cat([losses[1:] - losses[0], losses.new_ones(1)]) * rows
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # Gathered and then added in one order, so that all processes have the same bits.
        gathered = [torch.empty_like(parts) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(gathered, parts)
        parts = torch.stack(gathered).sum(0)
    *totals, count = parts.tolist()
    return [total / count for total in totals]


def _check_given(teacher: nn.Module | None, config: InstaTuneConfig) -> None:
    if teacher is None and config.distillation != "low-cost":
        raise UserError(
            f"a teacher must be given for {config.distillation} distillation: a network fine-tuned on the same data; "
            "low-cost distillation needs none"
        )
    if teacher is not None and config.distillation == "low-cost":
        raise UserError("distillation must be high-cost or hybrid where a teacher is given, got low-cost")


def _sampling(supernet: Supernet, train: Split, config: InstaTuneConfig, costs: Costs | None) -> Sampling:
    space, samples, seed = supernet.space, config.samples, config.seed
    if config.sampling == "pareto":
        return Pareto(space, costs or _macs(supernet, train), samples, seed)
    return (Sandwich if config.sampling == "sandwich" else Uniform)(space, samples, seed)


def _macs(supernet: Supernet, train: Split) -> Costs:
    if not len(train):
        raise UserError("training needs at least one row, got none")
    device = next(supernet.parameters()).device
    # Tracing takes a batch of one for a constant, so a single row counts twice.
    batch = {name: tensor.to(device) for name, tensor in train.batch([0, len(train) - 1]).items()}
    try:
        return exact_costs(supernet, batch)["macs"]
    except ValueError as error:
        raise UserError(f"pareto sampling needs costs, a function of encoded candidates: {error}") from error


class _LossState:
    """What the loss keeps between two steps; refuses that of a run with another teacher or other sub-networks."""

    def __init__(
        self, supernet: Supernet, sampling: Sampling, probes: Probes | None, teacher: nn.Module | None
    ) -> None:
        self._sampling, self._probes = sampling, probes
        self._identity = {
            "space": hashlib.sha256(supernet.space.to_json().encode()).hexdigest(),
            "teacher": "" if teacher is None else model_fingerprint(teacher),
        }

    def state(self) -> dict[str, Any]:
        found = self._probes.state() if self._probes else {}
        return {"identity": self._identity, "sampling": self._sampling.state(), **found}

    def restore(self, state: Mapping[str, Any]) -> None:
        other = [name for name, value in self._identity.items() if state["identity"].get(name) != value]
        if other:
            raise UserError(
                f"the checkpoint belongs to a run with another {' and '.join(other)}; "
                "give the same arguments to go on with it, or another folder to start anew"
            )
        self._sampling.restore(state["sampling"])
        if self._probes and "probes" in state:
            self._probes.restore(state)
