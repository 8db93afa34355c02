"""InstaTune (arXiv 2308.15609): turn a pre-trained network into a super-network in a single fine-tuning.

Each step trains the full network and some sub-networks with the loss of equation 1. With gamma = 0 ("low-cost") the
full network of the same step is the teacher of the sub-networks. With gamma = 1 ("high-cost") a strong teacher, which
was fine-tuned separately and is frozen, teaches the full network and the sub-networks. "hybrid" uses gamma = 1 for the
first steps and gamma = 0 for the rest.

Beyond the paper, the hidden states of a strong teacher can teach too (`hidden_weight`, `nas.learning.teachers`).

Differs: the distillation term is multiplied by the squared temperature, and the temperature is 5, as in the authors'
code for BEiT-3 (the equation has a temperature, but the paper gives neither). The full network's cross-entropy has
weight 1 where the equation has alpha: with alpha, a short fine-tuning can end in another minimum of the distillation,
the same output for each row. `nas.learning.sampling` has further ways to draw sub-networks.
"""

import contextlib
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nas.data.accuracy import logits_of
from nas.data.rows import terms
from nas.data.split import Split
from nas.data.tasks import Task
from nas.errors import UserError
from nas.learning.augmentation import augmented
from nas.learning.checkpoint import model_fingerprint
from nas.learning.probes import Probe, Probes
from nas.learning.sampling import Pareto, Sampling, Sandwich, Uniform
from nas.learning.teachers.distillation import Distillation, DistillationPlan, distilling
from nas.learning.teachers.hidden_distance import NO_HIDDEN_STATES
from nas.learning.training import Batch, History, Step, TrainingConfig, fit
from nas.sentences import one_of
from nas.settings import InstaTuneSettings
from search_spaces import Supernet, exact_costs
from search_spaces.arrays import FloatArray, IntArray

Costs = Callable[[IntArray], FloatArray]
"""Encoded candidates (n, k) -> cost of each (n,)."""


@dataclass(frozen=True)
class InstaTuneConfig(InstaTuneSettings, TrainingConfig):
    """Settings of InstaTune: those of `TrainingConfig`, those of drawing sub-networks, and those of the loss.

    `samples` is M in the paper, which uses uniform sampling. `samples=0` with uniform sampling is plain fine-tuning of
    the full network through the same loop.

    Raises:
        UserError: a setting is out of its range.
    """

    once_constant: ClassVar[Mapping[str, Any]] = {
        **TrainingConfig.once_constant,
        "hidden_weight": None,
        "teacher_gib": 8.0,
    }

    hybrid_share: float = 0.5
    """Share (0..1) of the steps with the strong teacher for hybrid distillation (the paper: 10 of 20 epochs)."""
    alpha: float = 0.3
    """Weight of a sub-network's cross-entropy, above 0 and at most 1; distillation has the weight 1 - alpha."""
    full_weight: float = 1.0
    """Weight of the full network's cross-entropy; the paper has alpha."""
    temperature: float = 5.0
    """Temperature of the distillation (not given in the paper; the authors' code has 5)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 0:
            raise UserError(f"samples must be at least 0, got {self.samples}")
        for name, known in (("sampling", _SAMPLING), ("distillation", _DISTILLATION)):
            if getattr(self, name) not in known:
                raise UserError(f"{name} must be {one_of(known, getattr(self, name))}")
        if not 0 <= self.hybrid_share <= 1:
            raise UserError(f"hybrid_share must be from 0 to 1, got {self.hybrid_share}")
        if not 0 < self.alpha <= 1:
            raise UserError(f"alpha must be above 0 and at most 1, got {self.alpha}")
        if not self.full_weight > 0:
            raise UserError(f"full_weight must be above 0, got {self.full_weight}")
        if not self.teacher_gib >= 0:
            raise UserError(f"teacher_gib must be at least 0, got {self.teacher_gib}")
        if not self.temperature > 0:
            raise UserError(f"temperature must be above 0, got {self.temperature}")
        if self.hidden_weight is not None and not 0 < self.hidden_weight < math.inf:
            raise UserError(f"hidden_weight must be above 0, got {self.hidden_weight}; leave it out for none")
        if self.hidden_weight is not None and self.distillation == "low-cost":
            raise UserError(
                "hidden_weight needs a strong teacher (distillation high-cost or hybrid): with the full network of "
                "the same step as the teacher, every output would become one constant"
            )

    def strong_steps(self, steps: int) -> int:
        """Number of first steps, out of `steps`, that use the strong teacher (gamma = 1)."""
        return round(steps * {"low-cost": 0.0, "high-cost": 1.0, "hybrid": self.hybrid_share}[self.distillation])

    def distillation_plan(self, rows: int) -> DistillationPlan:
        """What is asked of the strong teacher of a training on so many rows."""
        strong_steps = self.strong_steps(self.total_steps(rows))
        return DistillationPlan(self, self.hidden_weight is not None, strong_steps, self.teacher_gib)


_SAMPLING = ("uniform", "sandwich", "pareto")
_DISTILLATION = ("low-cost", "high-cost", "hybrid")


@dataclass(frozen=True)
class InstaTuneHistory(History):
    """The course of an InstaTune run.

    Attributes:
        probes: scores of a few sub-networks on the validation rows during the training; empty without such rows.
    """

    probes: tuple[Probe, ...] = ()

    @property
    def final_probe(self) -> Probe:
        """The probe of the weights that the super-network has at the end; IndexError without validation rows."""
        return next((probe for probe in self.probes if probe.step == self.restored), self.probes[-1])


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
    kept: Path | None = None,
) -> InstaTuneHistory:
    """Fine-tune a super-network in place, so that its sub-networks can be used without further training.

    Args:
        supernet: the super-network; order its units by importance before.
        train: the training rows.
        config: the settings; None: the defaults.
        teacher: a network that was fine-tuned on the same data and takes the same inputs, for high-cost and hybrid
            distillation. It is not changed. With `config.hidden_weight`, its features between the blocks stand in the
            order of the network's: where their order was changed, change the teacher's with `order_alike`.
        checkpoint: folder from which to resume and to which to write checkpoints. A resumed run ends with the same bits
            as one that was not interrupted.
        on_step: called in the main process after each new step.
        validation: rows on which the largest, the smallest and three fixed random sub-networks are scored every
            `config.evaluate_every` steps. Early stopping uses the mean of the largest network's score and the mean
            score of the others.
        costs: encoded candidates (n, k) -> cost (n,) for pareto sampling; None: multiply-accumulates of a training row.
        tracking: folder for trackers that write files.
        kept: folder for the outputs of the strong teacher where rows repeat, so that each of them runs through it once
            (`config.teacher_gib`); to be removed afterwards. None: it runs at every step.

    Returns:
        All steps, evaluations and probes, including those before a resume.

    Raises:
        UserError: there are no rows, the teacher is missing or does not fit, or the checkpoint is damaged or belongs to
            another run.
        TrainingFailed: the loss or its gradient is not finite.
    """
    config = config or InstaTuneConfig()
    _check_given(teacher, config)
    largest, task = supernet.space.full(), train.task
    sampling = _sampling(supernet, train, config, costs)
    # Probes measure batch-norm statistics on images augmented as in training, see `augmented`.
    shown = augmented(train) if config.augment else train
    probes = Probes(supernet, shown, validation, config.seed) if validation is not None else None
    with contextlib.ExitStack() as stack:
        distillation = Distillation(train)
        if teacher is not None:
            plan = config.distillation_plan(len(train))
            distillation = stack.enter_context(distilling(supernet.model, teacher, train, plan, kept))

        def loss_of(forward: Callable[..., Any], batch: Batch, targets: Tensor, step: int) -> Tensor:
            # 1. Draw the sub-networks, the same on all processes, because gradients are averaged over them.
            candidates = [largest, *sampling.draw(step)]
            # 2. Run the strong teacher first, before the activations of the students fill the memory. Then run the
            #    full network and all sub-networks in one call: data-parallel training allows only one forward per
            #    backward. They share one backward too, since the gradient of the sum is the sum of their gradients
            #    and the full network's logits, the targets of the distillation, are needed by all of them.
            inputs, strong = distillation.unpacked(batch, step)
            with (NO_HIDDEN_STATES if strong is None else distillation.distance).recorded(supernet.model) as states:
                outputs = [logits_of(output).float() for output in forward(candidates, **inputs)]
            # 3. Compute equation 1, add the distances of the hidden states, and pass the losses of the sub-networks to
            #    the sampling.
            loss, own = equation_one(task, outputs, None if strong is None else strong.logits, targets, config)
            counts = terms(targets)
            if strong is not None and config.hidden_weight is not None:
                distances = [distillation.distance(state, strong.hidden, inputs, counts) for state in states]
                loss = loss + config.hidden_weight * torch.stack(distances).sum()
            if sampling.learns:
                sampling.observe(step, candidates[1:], _excess(own, float(counts.sum())))
            return loss

        history = fit(
            supernet,
            distillation.rows,
            loss_of,
            config,
            checkpoint=checkpoint,
            on_step=on_step,
            validate=probes,
            memory=_LossState(supernet, sampling, probes, teacher) if checkpoint else None,
            tracking=tracking,
        )
    found = probes.found if probes else ()
    return InstaTuneHistory(history.steps, history.evaluations, history.restored, found)


def equation_one(
    task: Task, outputs: Sequence[Tensor], strong: Tensor | None, targets: Tensor, config: InstaTuneConfig
) -> tuple[Tensor, list[Tensor]]:
    """Equation 1 of InstaTune for one batch, with a separate weight for the full network's cross-entropy.

    Args:
        task: provides the cross-entropy (or the loss in its place) and the divergence between two outputs.
        outputs: logits of the full network, then those of the sub-networks.
        strong: logits of the strong teacher (gamma = 1), or None (gamma = 0).
        targets: targets of the rows.
        config: the weights, the temperature and the label smoothing.

    Returns:
        The loss, and the unweighted loss of each network without distillation.
    """
    own = [task.loss(logits, targets, config.label_smoothing) for logits in outputs]
    loss = config.full_weight * own[0]
    for each in own[1:]:
        loss = loss + config.alpha * each
    # With gamma = 0 the teacher is the full network itself. Its logits are detached: it must not be pulled towards its
    # sub-networks.
    teacher, students = (outputs[0].detach(), outputs[1:]) if strong is None else (strong.detach(), outputs)
    for student in students:
        loss = loss + (1 - config.alpha) * task.distillation(student, teacher, targets, config.temperature)
    return loss, own


def _excess(own: Sequence[Tensor], count: float) -> list[float]:
    """Loss of each sub-network minus that of the full network, on the rows of all processes; NaN where none has a term.

    Args:
        own: mean loss of the full network, then of each sub-network, on the rows of this process.
        count: number of terms of that mean (`nas.data.rows.terms`).
    """
    losses = torch.stack([each.detach().double() for each in own])
    parts = torch.cat([losses[1:] - losses[0], losses.new_ones(1)]) * count
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # An all-reduce may add in an order that differs between processes. Gathering and then adding in rank order
        # gives all processes the same bits, so that the sampling draws the same candidates everywhere.
        gathered = [torch.empty_like(parts) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(gathered, parts)
        parts = torch.stack(gathered).sum(0)
    *totals, count = parts.tolist()
    return [total / count if count else math.nan for total in totals]


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
    # torch.export treats a batch of one as a constant, so the example has two rows, the same one twice if need be.
    batch = {name: tensor.to(device) for name, tensor in train.batch([0, len(train) - 1]).items()}
    try:
        return exact_costs(supernet, batch)["macs"]
    except ValueError as error:
        raise UserError(f"pareto sampling needs costs, a function of encoded candidates: {error}") from error


class _LossState:
    """The state of sampling and probes for the checkpoint; refuses that of a run with another teacher or space."""

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
