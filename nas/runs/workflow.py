"""The commands as steps on a run folder: each finds there what it needs, leaves there what it makes, and is repeatable.

A step that is done is recognised, one that was cut off goes on, and a folder that was begun otherwise is refused.
"""

import hashlib
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from nas.errors import NoFeasible, UserError
from nas.files import replace_folder
from nas.learning.importance import ImportanceConfig, order_by_importance
from nas.learning.instatune import InstaTuneConfig, InstaTuneHistory, instatune
from nas.learning.probes import Probe
from nas.networks.pretrained import save_preprocessor
from nas.runs.console import Bar, say
from nas.runs.findings import summary, tell_end
from nas.runs.opened_run import asked_of_search, check_search, named_objectives, objective_names, open_run, run_search
from nas.runs.plain_training import ended, naming_checkpoint, score
from nas.runs.preparation import (
    Prepared,
    asked_of_finetune,
    instatune_config,
    prepare,
    record_begin,
    resume,
    training_config,
)
from nas.runs.progress import SearchFigures, TrainingFigures
from nas.runs.report import Marks, draw_front, draw_training, find, write_front
from nas.runs.run_folder import (
    JOURNAL,
    Finetuned,
    ProbeRecord,
    Request,
    RunFolder,
    RunRecord,
    recorded_versions,
    same_request,
    write_record,
)
from nas.runs.settings import (
    Common,
    DataSettings,
    Limits,
    ModelSettings,
    SearchSettings,
    SpaceSettings,
    SupernetSettings,
    TrainingSettings,
)
from nas.runs.teaching import given_teacher, own_teacher
from nas.searching.evaluation import Measurement
from nas.searching.relative_latency import reference_path
from nas.searching.storage import Storage, copy_to_journal, is_url
from nas.searching.study import load_study
from nas.seeds import generator

_PROBED_ROWS = 512


def finetune_run(
    out: Path,
    model: str,
    own: ModelSettings,
    data: DataSettings,
    elastic: SpaceSettings,
    training: TrainingSettings,
    recipe: SupernetSettings,
    common: Common,
) -> dict[str, Any]:
    """Fine-tune `model` into a super-network in the run folder `out`, or go on with it; UserError for wrong input."""
    folder = RunFolder(out)
    asked = asked_of_finetune(model, own, data, elastic, training, recipe, common)
    config = instatune_config(training, recipe, common)
    with folder.locked():
        begun = folder.run_json.exists()
        if begun:
            same_request(out, folder.read().asked, asked)
        if not folder.supernet.exists():
            # 1. The network, its sub-networks and the data.
            say(f"Reading {model} and {data.data}")
            asked_for = (model, own, data, elastic, common.seed)
            prepared = resume(folder, *asked_for) if begun else prepare(*asked_for)
            if training.augment and prepared.data.kind != "image":
                raise UserError("--augment mirrors and shifts images, and the data holds texts; leave it out")
            given = None if recipe.teacher is None else given_teacher(recipe.teacher, prepared.data)
            if not begun:
                record_begin(folder, prepared, asked)
            # 2. The strong teacher, where one is asked for and the user has none.
            teacher = given
            if teacher is None and config.distillation != "low-cost":
                plain = training_config(training, common)
                teacher = own_teacher(folder, prepared.supernet.model, prepared.data, plain)
            # 3. Units in order of importance, so that every prefix is the best of its size.
            if elastic.order != "none":
                say("Ordering the units by importance")
                how = ImportanceConfig(kind=elastic.order, seed=common.seed)
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
        "model": record.asked.get("model"),
        "rows": dict(record.rows),
        "classes": record.classes[:100],
        "steps": finetuned.steps,
        "loss": finetuned.loss,
        f"validation_{finetuned.metric}": finetuned.validation_score,
        "seconds": finetuned.seconds,
    }


def search_run(
    run: Path, settings: SearchSettings, limits: Limits, common: Common, model: str | None = None
) -> dict[str, Any]:
    """Search the run's super-network, or go on with that search; UserError for wrong input.

    `model` is the `module:factory` of a network of the user's own.
    """
    folder = RunFolder(run)
    settings = replace(settings, objectives=objective_names(settings, limits, folder.read()))
    objectives = named_objectives(str(settings.objectives), limits)
    check_search(settings)
    asked = asked_of_search(settings, limits, common)
    place = folder.search(settings.name)
    with folder.locked():
        if (place / "search.json").exists():
            same_request(place, folder.read_search(settings.name).asked, asked)
        opened = open_run(folder, common.device, model)
        space = opened.supernet.space
        new = not (place / "search.json").exists()
        if new:
            write_record(place / "search.json", Request(asked=asked, versions=recorded_versions()))
        storage = _storage(folder, settings)
        title = f"Searching {space.size():,} sub-networks"
        with Bar(title, min(settings.budget, space.size())) as bar:
            figures = SearchFigures(bar)
            with _unless_refused(place, new, figures):
                study = run_search(
                    opened,
                    objectives,
                    settings,
                    common.seed,
                    storage=storage,
                    latency_file=reference_path(place / JOURNAL),
                    on_result=figures,
                )
        if is_url(storage):
            # What comes after a search reads the journal.
            copy_to_journal(storage, place / JOURNAL)
        write_front(study, Marks(find(study, space.largest()), None), place / "front.csv")
    tell_end(study, settings.budget, settings.patience)
    return summary(run, settings.name, place / "front.csv", study)


def _storage(folder: RunFolder, settings: SearchSettings) -> Storage:
    """The journal of the run, or its study in the database: of a name that no other run has."""
    if settings.storage is None:
        return folder.search(settings.name) / JOURNAL
    if "#" in settings.storage:
        return settings.storage
    identity = hashlib.sha256(folder.run_json.read_bytes()).hexdigest()[:8]
    return f"{settings.storage}#{folder.path.resolve().name}-{identity}/{settings.name}"


@contextmanager
def _unless_refused(place: Path, new: bool, figures: SearchFigures) -> Iterator[None]:
    """Leave no trace of a new search that is refused before anything is measured; what is measured stays."""
    try:
        yield
    except (UserError, NoFeasible):
        if new and not figures.found:
            shutil.rmtree(place, ignore_errors=True)
        raise


def report_run(run: Path, name: str, limits: Limits) -> dict[str, Any]:
    """Draw how the fine-tuning went (training.png), and of a search pareto.png and front.csv with the chosen marked.

    Before the first search of a run only the fine-tuning is drawn.

    Raises:
        UserError: no such search, or a limit on something that it did not measure.
        NoFeasible: nothing meets the limits.
    """
    folder = RunFolder(run)
    record = folder.read()
    with folder.locked():
        training = _draw_training(folder, record)
        if training and not folder.searches() and name == SearchSettings.name and not limits.given():
            return {"run": str(run), **training}
        return {**_report_search(folder, record, name, limits), **training}


def _draw_training(folder: RunFolder, record: RunRecord) -> dict[str, str]:
    """The picture's place by name; nothing where the fine-tuning is not done or was not watched."""
    if not folder.supernet.exists():
        return {}
    finetuned = folder.read_finetuned()
    if not finetuned.probes:
        return {}
    batch = record.asked.get("batch_size")
    rows = record.rows.get("train", 1)
    picture = folder.path / "training.png"
    draw_training(
        finetuned.probes,
        picture,
        epoch_steps=max(1, -(-rows // batch)) if isinstance(batch, int) and batch > 0 else 1,
        metric=finetuned.metric,
        title=f"Fine-tuning of {Path(str(record.asked.get('model'))).name}, {finetuned.steps} steps",
    )
    return {"training": str(picture)}


def _report_search(folder: RunFolder, record: RunRecord, name: str, limits: Limits) -> dict[str, Any]:
    asked, place = folder.read_search(name).asked, folder.search(name)
    study = load_study(place / JOURNAL)
    marks = Marks(find(study, study.space.largest()), study.select(limits.given()))
    write_front(study, marks, place / "front.csv")
    title = f"Sub-networks of {Path(str(record.asked.get('model'))).name}, {len(study.measurements)} measured"
    tokens = f"{asked.get('tokens')} tokens, " if record.kind == "text" else ""
    latency_of = f"batch 1, {tokens}threads: {asked.get('threads')}"
    draw_front(study, marks, place / "pareto.png", title=title, latency_of=latency_of)
    return {
        "run": str(folder.path),
        "search": name,
        "measured": len(study.measurements),
        "front": len(study.front()),
        "chosen": _described(marks.chosen),
        "picture": str(place / "pareto.png"),
        "table": str(place / "front.csv"),
    }


def _described(measurement: Measurement | None) -> dict[str, Any] | None:
    if measurement is None:
        return None
    return {**measurement.values, "candidate": dict(measurement.candidate)}
