"""`nas refine`: one sub-network of a run fine-tuned further, on its own, on the run's training rows, and exported."""

import json
from dataclasses import dataclass, replace
from typing import Any

from nas.bounded import finite
from nas.console import say
from nas.exporting.folder import check_target
from nas.learning.plain_training import estimate_of, noting_seconds, score, train_in
from nas.learning.preparation import outcome_settings, training_config
from nas.learning.processes import check_trackers
from nas.learning.training import TrainingConfig, fine_tune
from nas.objectives import quantity
from nas.records import Scalar, recorded_versions, same_request, write_record
from nas.runs.export import Chosen, deliver, named_candidate
from nas.runs.folder import RequestRecord, RunFolder
from nas.runs.loaded_search import usable
from nas.runs.loading import LoadedRun, load_run
from nas.runs.requests import RefineRequest

_ESTIMATED_STEPS = 4


@dataclass(frozen=True)
class _Checked:
    """A run and its sub-network, found good to refine."""

    loaded: LoadedRun
    chosen: Chosen
    config: TrainingConfig


def refine_run(request: RefineRequest) -> dict[str, Any]:
    """Fine-tune one sub-network further, plainly, on the run's training rows, and write it as `nas export` does.

    Killed and repeated it goes on; the trained weights stay in the run folder, so that a repeated command only writes
    the export anew.

    Raises:
        UserError: no such run, search or candidate, or `out` is something else or was begun with other settings.
        NoFeasible: nothing meets the limits.
        ExportError: what was written computes something else; nothing is left.
        TrainingFailed: the loss is not finite.
    """
    folder, out = RunFolder(request.run), request.out
    folder.read("super-network")
    with folder.locked():
        # 1. The sub-network, as a plain module.
        checked = _checked(folder, request)
        loaded, chosen = checked.loaded, checked.chosen
        path = folder.further(out)
        if not (path / "further.json").exists():
            record = RequestRecord(request=_record(chosen, request), versions=recorded_versions())
            write_record(path / "further.json", record)
        module, validation = loaded.extract(chosen.candidate), loaded.split("validation")
        before = finite(score(module, validation))
        # 2. Plain fine-tuning, from the checkpoint where there is one.
        finetuned = train_in(path, module, loaded.split("train"), validation, checked.config, "Refining")
        say(_change(finetuned.metric, before, finetuned.validation_score))
        # 3. Figures and export.
        note = f"After it was cut out, it was fine-tuned further for {finetuned.steps:,} steps on the training rows."
        result = deliver(loaded, chosen, module, out, request.model, note)
    further = {
        "steps": finetuned.steps,
        "loss": finetuned.loss,
        f"validation_{finetuned.metric}_before": before,
        f"validation_{finetuned.metric}": finetuned.validation_score,
        "seconds": finetuned.seconds,
    }
    return {**result, "run": str(request.run), "refined": further}


def _change(metric: str, before: float | None, after: float | None) -> str:
    """A sentence with the validation scores before and after the fine-tuning."""
    known = quantity(metric)
    shown = ["no number" if value is None else known.shown(value) for value in (before, after)]
    return f"Validation {known.label}: {shown[0]} before, {shown[1]} after"


def estimate(request: RefineRequest) -> dict[str, Any]:
    """Time and memory of `refine_run`, from four steps; writes nothing, errors as there."""
    folder = RunFolder(request.run)
    folder.read("super-network")
    folder.check()
    checked = _checked(folder, request)
    train, candidate = checked.loaded.split("train"), checked.chosen.candidate
    steps, seconds = checked.config.total_steps(len(train)), list[float]()
    few = replace(checked.config, steps=min(_ESTIMATED_STEPS, steps), patience=None, trackers=())
    fine_tune(checked.loaded.extract(candidate), train, few, on_step=noting_seconds(seconds))
    return {"candidate": dict(candidate), "rows": len(train), **estimate_of(seconds, steps)}


def _checked(folder: RunFolder, request: RefineRequest) -> _Checked:
    """Everything that can be refused before anything is trained or written."""
    limits = request.limits.checked()
    check_target(request.out)
    config = training_config(request.training, request.common)
    check_trackers(config.trackers, folder.further(request.out))
    loaded = load_run(folder, request.common.device, request.model)
    chosen = named_candidate(loaded, request.candidate, request.name, limits)
    # A deployment that this machine does not have is refused before the training, not after it.
    usable(chosen.deployment)
    if (folder.further(request.out) / "further.json").exists():
        same_request(request.out, folder.read_further(request.out).request, _record(chosen, request))
    return _Checked(loaded, chosen, config)


def _record(chosen: Chosen, request: RefineRequest) -> dict[str, Scalar]:
    """What decides the outcome; the candidate as JSON."""
    candidate = json.dumps(dict(chosen.candidate))
    return {"candidate": candidate, **outcome_settings(request.training), "seed": request.common.seed}
