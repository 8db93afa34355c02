"""The commands as steps on a run folder: each finds there what it needs, leaves there what it makes, and is repeatable.

A step that is done is recognised, one that was cut off goes on, and a folder that was begun otherwise is refused.
"""

import math
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from nas.console import Bar, say
from nas.errors import UserError
from nas.files import replace_folder
from nas.learning.finetuned import Finetuned, ProbeRecord
from nas.learning.importance import ImportanceConfig, order_by_importance
from nas.learning.instatune import InstaTuneConfig, InstaTuneHistory, instatune
from nas.learning.plain_training import ended, naming_checkpoint, score
from nas.learning.preparation import (
    Prepared,
    asked_of_finetune,
    instatune_config,
    prepare,
    record_begin,
    resume,
    training_config,
)
from nas.learning.probes import Probe
from nas.learning.progress import TrainingFigures
from nas.learning.strong_teacher import given_teacher, own_teacher
from nas.networks.pretrained import save_preprocessor
from nas.records import same_request, write_record
from nas.runs.folder import RunFolder
from nas.runs.requests import FinetuneRequest
from nas.seeds import generator

_PROBED_ROWS = 512


def finetune_run(request: FinetuneRequest, out: Path) -> dict[str, Any]:
    """Fine-tune into a super-network in the run folder `out`, or go on with it; UserError for wrong input."""
    folder, training, recipe = RunFolder(out), request.training, request.recipe
    asked, config = asked_of_finetune(request), instatune_config(request)
    with folder.locked():
        begun = folder.run_json.exists()
        if begun:
            same_request(out, folder.read().request, asked)
        if not folder.supernet.exists():
            # 1. The network, its sub-networks and the data.
            say(f"Reading {request.model} and {request.data.data}")
            prepared = resume(folder, request) if begun else prepare(request)
            if training.augment and prepared.data.kind != "image":
                raise UserError("--augment mirrors and shifts images, and the data holds texts; leave it out")
            given = None if recipe.teacher is None else given_teacher(recipe.teacher, prepared.data)
            if not begun:
                record_begin(folder, prepared, asked)
            # 2. The strong teacher, where one is asked for and the user has none.
            teacher = given
            if teacher is None and config.distillation != "low-cost":
                plain = training_config(training, request.common)
                teacher = own_teacher(folder, prepared.supernet.model, prepared.data, plain)
            # 3. Units in order of importance, so that every prefix is the best of its size.
            if request.elastic.order != "none":
                say("Ordering the units by importance")
                how = ImportanceConfig(kind=request.elastic.order, seed=request.common.seed)
                order_by_importance(prepared.supernet, prepared.data.train, how)
            # 4. Fine-tuning, from the checkpoint where there is one.
            history = _instatune(folder, prepared, teacher, config)
            # 5. The result, as a whole or not at all.
            replace_folder(folder.supernet, partial(_save, prepared, _finetuned(prepared, history)))
        shutil.rmtree(folder.checkpoint, ignore_errors=True)
    return _finetune_summary(folder)


def _instatune(
    folder: RunFolder, prepared: Prepared, teacher: nn.Module | None, config: InstaTuneConfig
) -> InstaTuneHistory:
    data = prepared.data
    # Probes show how the fine-tuning goes, which some rows do; early stop goes by them, and gets all rows.
    probed = data.validation
    if config.patience is None:
        probed = probed.take(_PROBED_ROWS, generator(config.seed, "probed rows"))
    with Bar("Fine-tuning", config.total_steps(len(data.train))) as bar, naming_checkpoint(folder.checkpoint):
        return instatune(
            prepared.supernet,
            data.train,
            config,
            teacher=teacher,
            checkpoint=folder.checkpoint,
            on_step=TrainingFigures(bar),
            validation=probed,
            tracking=folder.tracking,
        )


def _finetuned(prepared: Prepared, history: InstaTuneHistory) -> Finetuned:
    supernet, rows = prepared.supernet.eval(), prepared.data.validation
    last = ended(history, score(supernet.model, rows), rows)
    return last.model_copy(update={"probes": [_probe_record(probe) for probe in history.probes]})


def _probe_record(probe: Probe) -> ProbeRecord:
    largest, smallest, *others = (value if math.isfinite(value) else None for value in probe.scores)
    return ProbeRecord(step=probe.step, largest=largest, smallest=smallest, random=others)


def _save(prepared: Prepared, finetuned: Finetuned, folder: Path) -> None:
    prepared.supernet.save(folder)
    save_preprocessor(prepared.preprocessor, folder)
    write_record(folder / "finetuned.json", finetuned)


def _finetune_summary(folder: RunFolder) -> dict[str, Any]:
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
    }
