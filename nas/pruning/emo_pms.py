"""EMO-PMS: evolutionary multi-objective pruning of a CNN, sub-network by sub-network (arXiv 2303.16212).

`emo_pms` is the algorithm box, with steps numbered as in docs/emo-pms.md. Its second version calls the method EMO-DIR;
equations are numbered as there. Differs: see the modules of the steps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from hardware.inputs import device_of
from nas.data.split import Split
from nas.data.tasks import CLASSIFICATION
from nas.errors import UserError
from nas.learning.teachers.frozen import frozen_teacher
from nas.learning.training import History, Step, TrainingConfig, fit
from nas.pruning.config import EmoPmsConfig
from nas.pruning.fine_tuning import distilled_loss
from nas.pruning.impairment import Base, Form, Rule, Scheme, best_combination, schemes
from nas.pruning.joining import candidate_of, joined
from nas.pruning.stages import Stages
from nas.pruning.weights import form_weights
from nas.searching.kept import KeptFiles
from nas.searching.measurement import Measurement
from nas.searching.study import Study
from nas.workers import Workers, mapped
from search_spaces import Candidate, Supernet, exact_costs
from search_spaces.pruning import Partition, partition
from search_spaces.supernets.costs import CostFunction


class OutOfReach(UserError):
    """No combination of the searched sub-networks costs as little as is asked for.

    Attributes:
        least: what the most pruned network costs.
    """

    def __init__(self, least: float, most: float) -> None:
        super().__init__(f"the most pruned network must cost at most {most:.6g}, it costs {least:.6g}")
        self.least = least


@dataclass(frozen=True)
class Pruned:
    """What EMO-PMS found: for each sub-network its front, and so the pruned networks of any rate.

    Args:
        parts: the original and its sub-networks.
        bases: cost and error of each sub-network as it is in the original.
        forms: the fronts of all sub-networks.
        files: the trained weights of each sub-network's forms.
        costs: of whole networks, by name, as functions of encoded candidates of the whole space.
        studies: the search of each sub-network.
    """

    parts: Partition
    bases: Mapping[str, Base]
    forms: Sequence[Form]
    files: Mapping[str, KeptFiles]
    costs: Mapping[str, CostFunction]
    studies: Mapping[str, Study]

    def schemes(self, rule: Rule = "reciprocal") -> list[Scheme]:
        """All schemes along the global ranking, from the original to the most pruned network."""
        return list(schemes(self.forms, self.bases, rule))

    def candidate(self, scheme: Scheme) -> Candidate:
        """The candidate of the whole space that a scheme is."""
        return candidate_of(scheme, self.parts.space)

    def cost(self, scheme: Scheme, name: str) -> float:
        """`parameters` or `macs` of the whole network."""
        return float(self.costs[name](self.parts.space.encode([self.candidate(scheme)]))[0])

    def rate(self, scheme: Scheme, name: str) -> float:
        """The share (0..1) of the original's parameters or multiply-accumulates that a scheme prunes."""
        return 1 - self.cost(scheme, name) / self.cost(dict.fromkeys(self.bases), name)

    def first_within(self, most: float, name: str, rule: Rule = "reciprocal") -> Scheme:
        """The first scheme along the ranking that has at most so many `parameters` or `macs` (algorithm 1).

        Raises:
            OutOfReach: no scheme has so few.
        """
        costs = [(self.cost(scheme, name), scheme) for scheme in self.schemes(rule)]
        for cost, scheme in costs:
            if cost <= most:
                return scheme
        raise OutOfReach(min(cost for cost, _ in costs), most)

    def first_below(self, most: float, measure: Callable[[Scheme], float]) -> Scheme:
        """The first scheme along the ranking whose measured cost is at most so much, asking for few of them.

        Args:
            most: in the unit of the cost.
            measure: of the network of a scheme, e.g. its latency; it should fall along the ranking.

        Raises:
            OutOfReach: the most pruned network costs more.
        """
        cost_of, found = measure, self.schemes()
        low, high = 0, len(found) - 1
        if (least := cost_of(found[high])) > most:
            raise OutOfReach(least, most)
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if cost_of(found[middle]) <= most else (middle + 1, high)
        return found[low]

    def best_within(self, most: float, name: str) -> Scheme:
        """The scheme of the least summed error whose network has at most so many `parameters` or `macs` (ours).

        Raises:
            OutOfReach: no scheme has so few.
        """
        original: Scheme = dict.fromkeys(self.bases)
        whole = self.cost(original, name)
        # What a form saves is what the whole network saves with this form alone.
        saved = [whole - self.cost({**original, form.subnetwork: form}, name) for form in self.forms]
        largest = {
            key: max(save for save, form in zip(saved, self.forms, strict=True) if form.subnetwork == key)
            for key in {form.subnetwork for form in self.forms}
        }
        forms = [
            replace(form, cost=largest[form.subnetwork] - save) for save, form in zip(saved, self.forms, strict=True)
        ]
        bases = {key: replace(base, cost=largest.get(key, 0.0)) for key, base in self.bases.items()}
        kept = whole - sum(largest.values())
        if kept > most:
            raise OutOfReach(kept, most)
        chosen = best_combination(forms, bases, most - kept)
        own = {id(one): other for one, other in zip(forms, self.forms, strict=True)}
        return {key: None if form is None else own[id(form)] for key, form in chosen.items()}

    def network(self, scheme: Scheme) -> nn.Module:
        """The network of a scheme, its sub-networks trained each by itself; a plain module, in evaluation mode."""
        return joined(self.parts.model, self.parts.space, scheme, self._weights)

    def _weights(self, form: Form) -> dict[str, Tensor]:
        part = next(each for each in self.parts.subnetworks if each.name == form.subnetwork)
        return form_weights(self.files[form.subnetwork], part, form.candidate)


def emo_pms(
    model: nn.Module,
    train: Split,
    validation: Split,
    folder: Path,
    config: EmoPmsConfig | None = None,
    *,
    parts: Partition | None = None,
    workers: int | Workers = 1,
    on_result: Callable[[str, Measurement, int], None] | None = None,
) -> Pruned:
    """Search the sub-networks of a trained CNN; every pruning rate follows from the result without another search.

    What is done stands in `folder`, and the same call goes on from there.

    Args:
        model: the trained network, on the CPU; its weights are left as they are. Forms are trained where `config` says.
        train: rows that detectors and forms are trained on.
        validation: rows that the network was not trained on; errors are of them.
        folder: of the stages: features, detectors, and a search for each sub-network.
        config: the settings; None: the defaults.
        parts: the network in sub-networks, where that is done already.
        workers: how many forms are trained at a time; the result is the same for any number.
        on_result: called with the name of the sub-network after each of its results.

    Raises:
        UserError: rows are missing or not classified, the network cannot be cut, or `folder` is of another pruning.
        TrainingFailed: the loss of a detector is not finite.
    """
    config = config or EmoPmsConfig()
    _check_rows(train, validation)
    if device_of(model).type != "cpu":
        raise UserError(f"the network must be on the CPU to be cut, it is on {device_of(model)}; move it there first")
    model.eval()
    # 1. The network as consecutive sub-networks, one for each spatial resolution.
    parts = parts or parts_of(model, train, config)
    stages = Stages(folder, parts, train, validation, config)
    with mapped(workers, None) as run:
        # 2. One forward of the original: the features at every boundary.
        # 3. Feature detectors, trained on them once.
        # 4. A search of each sub-network by itself: its cost against its error through the detector.
        studies = stages.searched(run, on_result)
    # 5. The fronts, which the global ranking joins.
    costs = exact_costs(Supernet(model, parts.space), dict(train.batch([0, 1])))
    files = {each.name: stages.files(each.name) for each in parts.subnetworks}
    return Pruned(parts, stages.bases(), stages.forms(studies), files, costs, studies)


def parts_of(model: nn.Module, rows: Split, config: EmoPmsConfig) -> Partition:
    """The sub-networks of a network, found with the images of two rows; UserError where it cannot be cut."""
    try:
        return partition(model, dict(rows.batch([0, 1])), keep=config.keep, multiple_of=config.multiple_of)
    except ValueError as error:
        raise UserError(str(error)) from error


def fine_tuned(
    network: nn.Module,
    original: nn.Module,
    train: Split,
    config: TrainingConfig,
    *,
    checkpoint: Path | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> History:
    """Step 6: train a whole pruned network in place, with the labels and the original as its teacher.

    Args:
        network: of `Pruned.network`.
        original: the network before it was pruned; it is not changed.
        train: the training rows.
        config: the settings.
        checkpoint: folder to go on from; None: none.
        on_step: called after each step.

    Raises:
        TrainingFailed: the loss is not finite.
    """
    with frozen_teacher(original, network, train) as teacher:
        loss_of = distilled_loss(train.task, teacher)
        return fit(network, train, loss_of, config, checkpoint=checkpoint, on_step=on_step)


def _check_rows(train: Split, validation: Split) -> None:
    for name, split in (("training", train), ("validation", validation)):
        if len(split) < 2:
            raise UserError(f"a pruning needs {name} rows, at least two, got {len(split)}")
        if split.task is not CLASSIFICATION:
            raise UserError(f"a pruning needs rows with classes, the {name} rows are of {split.task.metric}")
