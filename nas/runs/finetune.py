"""`nas finetune`: from a pre-trained model and rows to a super-network in a run folder.

A stage that is done is recognised, one that was cut off goes on, and a folder that was begun otherwise is refused.
"""

import copy
import shutil
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from hardware.cost import cost
from nas.bounded import finite
from nas.console import Bar, say
from nas.data.split import Split
from nas.errors import UserError
from nas.files import located, replace_folder
from nas.learning.finetuned import Finetuned, ProbedNetwork, ProbeRecord
from nas.learning.importance import ImportanceConfig, order_by_importance
from nas.learning.instatune import InstaTuneConfig, InstaTuneHistory, instatune
from nas.learning.plain_training import ended, estimate_of, naming_checkpoint, noting_seconds, said_score
from nas.learning.preparation import (
    Prepared,
    data_location,
    elastic_supernet,
    instatune_config,
    outcome_settings,
    prepare,
    prepare_again,
    training_config,
)
from nas.learning.probes import Probe, probed_candidates
from nas.learning.processes import check_trackers
from nas.learning.progress import TrainingFigures
from nas.learning.teachers.distillation import planned_bytes
from nas.learning.teachers.feature_order import between_blocks, order_alike
from nas.learning.teachers.hidden_distance import NO_HIDDEN_STATES, HiddenDistance, hidden_distance
from nas.learning.teachers.sources import load_teacher, train_teacher
from nas.learning.training import fine_tune
from nas.networks.pretrained import example_inputs, save_preprocessor
from nas.records import Scalar, same_request, write_record
from nas.runs.folder import RunFolder, record_of, write_run
from nas.runs.requests import FinetuneRequest
from nas.seeds import generator

_PROBED_ROWS = 512
_ESTIMATED_STEPS = 4


@dataclass(frozen=True)
class _Checked:
    """A fine-tuning whose input was found good: network, sub-networks, data and the user's own teacher.

    `distance` is that of hidden states from the teacher's, by the weights before the fine-tuning.
    """

    prepared: Prepared
    config: InstaTuneConfig
    teacher: nn.Module | None
    distance: HiddenDistance

    @property
    def needs_teacher(self) -> bool:
        """Whether a strong teacher has to be fine-tuned first."""
        return self.teacher is None and self.config.distillation != "low-cost"


def finetune_run(request: FinetuneRequest) -> dict[str, Any]:
    """Fine-tune into a super-network in the run folder `out`, or go on with it; UserError for wrong input."""
    folder, training, order = RunFolder(request.out), request.training, request.elastic.order
    record, config = request_record(request), _config(request)
    with folder.locked():
        begun = _begun(folder, record)
        if not folder.supernet.exists():
            # 1. The network, its sub-networks and the data.
            checked = _checked(request, config, folder if begun else None)
            prepared = checked.prepared
            if not begun:
                begun_with = record_of("super-network", record, prepared.supernet.model, prepared.data)
                write_run(folder, begun_with, prepared.data)
            # 2. The strong teacher, where one is needed and the user has none.
            teacher = checked.teacher
            if checked.needs_teacher:
                plain = training_config(training, request.common)
                teacher = train_teacher(folder.teacher, prepared.supernet.model, prepared.data, plain)
            # 3. Units in order of importance, so that every prefix is the best of its size.
            if order != "none":
                say("Ordering the units by importance")
                how = ImportanceConfig(kind=order, seed=request.common.seed)
                orders = order_by_importance(prepared.supernet, prepared.data.train, how)
                if teacher is not None and config.hidden_weight is not None:
                    order_alike(teacher, prepared.supernet.space, orders)
            # 4. Fine-tuning, from the checkpoint where there is one.
            history = _instatune(folder, prepared, teacher, config)
            # 5. The result, as a whole or not at all.
            replace_folder(folder.supernet, partial(_save, prepared, _finetuned(prepared, history, config)))
        for left in (folder.checkpoint, folder.teacher_outputs):
            shutil.rmtree(left, ignore_errors=True)
    return _summary(folder)


def estimate(request: FinetuneRequest) -> dict[str, Any]:
    """Time and memory of `finetune_run`, from four steps; writes nothing, errors as there."""
    folder, config = RunFolder(request.out), _config(request)
    folder.check()
    checked = _checked(request, config, folder if _begun(folder, request_record(request)) else None)
    supernet, train = checked.prepared.supernet, checked.prepared.data.train
    steps = config.total_steps(len(train))
    # Checkpoints and the ordering of units hold a second copy of the weights.
    second = copy.deepcopy(supernet)
    few = replace(config, steps=min(_ESTIMATED_STEPS, steps), patience=None, trackers=())
    teacher = second.model if checked.needs_teacher else checked.teacher
    found: dict[str, Any] = {"sub_networks": str(supernet.space.size()), "rows": len(train)}
    if teacher is not None:
        cached = planned_bytes(supernet.model, teacher, train, config.distillation_plan(len(train)), checked.distance)
        found["teacher_outputs_mib"] = cached / 2**20
    seconds: list[float] = []
    instatune(supernet, train, few, teacher=teacher, on_step=noting_seconds(seconds))
    found |= estimate_of(seconds, steps)
    if checked.needs_teacher:
        plain = replace(training_config(request.training, request.common), steps=few.steps, patience=None, trackers=())
        seconds = []
        fine_tune(second.model, train, plain, on_step=noting_seconds(seconds))
        found["teacher"] = estimate_of(seconds, steps)
    return found


def request_record(request: FinetuneRequest) -> dict[str, Scalar]:
    """What decides the outcome of a fine-tuning, by flag: a repeated command must say the same."""
    own, data, recipe = request.own, request.data, request.recipe
    # A run that was begun before these were settings has no value of them, which reads as None.
    as_before = InstaTuneConfig.once_constant
    return {
        "model": located(request.model),
        **asdict(own),
        "weights": None if own.weights is None else located(str(own.weights)),
        "tokenizer": None if own.tokenizer is None else located(own.tokenizer),
        **asdict(data),
        "data": data_location(data, "the rows to fine-tune on"),
        **asdict(request.elastic),
        **outcome_settings(request.training),
        **{name: None if value == as_before.get(name) else value for name, value in asdict(recipe).items()},
        "teacher": None if recipe.teacher is None else located(str(recipe.teacher)),
        "seed": request.common.seed,
    }


def _config(request: FinetuneRequest) -> InstaTuneConfig:
    return instatune_config(request.training, request.recipe, request.common)


def _begun(folder: RunFolder, record: dict[str, Scalar]) -> bool:
    """Whether the run was begun before; UserError where it was, and otherwise."""
    if not folder.run_json.exists():
        return False
    same_request(folder.path, folder.read("super-network").request, record)
    return True


def _checked(request: FinetuneRequest, config: InstaTuneConfig, begun: RunFolder | None) -> _Checked:
    """Everything that can be refused before anything is trained or written; `begun` has the rows of a run begun."""
    say(f"Reading {request.model} and {request.data.data}")
    make = partial(elastic_supernet, request.elastic, request.common.seed)
    if begun is None:
        prepared = prepare(request.model, request.data, request.own, make, request.common.seed)
    else:
        before = begun.read()
        prepared = prepare_again(
            request.model,
            begun.data,
            before.classes,
            before.kind,
            request.data.task,
            request.own,
            make,
            request.common.seed,
            before.model_fingerprint,
        )
    if request.training.augment and prepared.data.kind != "image":
        raise UserError("--augment mirrors and shifts images, and the data holds texts; leave it out")
    check_trackers(config.trackers, RunFolder(request.out).tracking)
    path = request.recipe.teacher
    teacher = None if path is None else load_teacher(path, prepared.data)
    distance = NO_HIDDEN_STATES
    if config.hidden_weight is not None:
        # A teacher of the run is a copy of the network, so the network stands for it.
        supernet = prepared.supernet
        strong = supernet.model if teacher is None else teacher
        distance = hidden_distance(supernet.model, strong, prepared.data.train, config.seed)
        between_blocks(strong, supernet.space)
    return _Checked(prepared, config, teacher, distance)


def _instatune(
    folder: RunFolder, prepared: Prepared, teacher: nn.Module | None, config: InstaTuneConfig
) -> InstaTuneHistory:
    data, probed = prepared.data, _probed_rows(prepared, config)
    with Bar("Fine-tuning", config.total_steps(len(data.train))) as bar, naming_checkpoint(folder.checkpoint):
        return instatune(
            prepared.supernet,
            data.train,
            config,
            teacher=teacher,
            checkpoint=folder.checkpoint,
            on_step=TrainingFigures(bar, "now sub-networks are scored"),
            validation=probed,
            tracking=folder.tracking,
            kept=folder.teacher_outputs,
        )


def _probed_rows(prepared: Prepared, config: InstaTuneConfig) -> Split:
    """Probes show how the fine-tuning goes, which some rows do; early stop goes by them, and gets all rows."""
    rows = prepared.data.validation
    return rows if config.patience is not None else rows.take(_PROBED_ROWS, generator(config.seed, "probed rows"))


def _finetuned(prepared: Prepared, history: InstaTuneHistory, config: InstaTuneConfig) -> Finetuned:
    supernet, rows = prepared.supernet.eval(), prepared.data.validation
    last = ended(history, said_score(supernet.model, rows), rows)
    found = {
        "probes": [_probe_record(probe) for probe in history.probes],
        "probed": _probed(prepared, history.final_probe, config.seed),
        "probed_rows": len(_probed_rows(prepared, config)),
    }
    return last.model_copy(update=found)


def _probed(prepared: Prepared, probe: Probe, seed: int) -> list[ProbedNetwork]:
    """The networks of a probe, with what they cost."""
    supernet, data = prepared.supernet, prepared.data
    row = example_inputs(supernet.model, data.kind, prepared.preprocessor)
    found = []
    for candidate, value in zip(probed_candidates(supernet.space, seed), probe.scores, strict=True):
        costs = cost(supernet.extract(candidate), row)
        found.append(ProbedNetwork(score=finite(value), parameters=costs.parameters, macs=costs.macs))
    return found


def _probe_record(probe: Probe) -> ProbeRecord:
    largest, smallest, *others = map(finite, probe.scores)
    return ProbeRecord(step=probe.step, largest=largest, smallest=smallest, random=others)


def _save(prepared: Prepared, finetuned: Finetuned, folder: Path) -> None:
    prepared.supernet.save(folder)
    save_preprocessor(prepared.preprocessor, folder)
    write_record(folder / "finetuned.json", finetuned)


def _summary(folder: RunFolder) -> dict[str, Any]:
    record, finetuned = folder.read(), folder.read_finetuned()
    return {
        "run": str(folder.path),
        "model": record.request.get("model"),
        "rows": dict(record.rows),
        "classes": record.classes[:100],
        "steps": finetuned.steps,
        "loss": finetuned.loss,
        f"validation_{finetuned.metric}": finetuned.validation_score,
        "seconds": finetuned.seconds,
        "probed": _named(finetuned),
        "probed_rows": finetuned.probed_rows,
    }


def _named(finetuned: Finetuned) -> dict[str, dict[str, float | None]]:
    """By name, the score and the costs of the networks that were scored; none of a run of an earlier version."""
    networks = {}
    for number, each in enumerate(finetuned.probed):
        name = ("full", "smallest")[number] if number < 2 else f"random_{number - 1}"
        networks[name] = {finetuned.metric: each.score, "parameters": each.parameters, "macs": each.macs}
    return networks
