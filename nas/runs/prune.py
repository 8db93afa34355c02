"""`nas prune`: from a trained conv net to a front of really smaller ones, in a run folder.

The sub-networks of the network are searched once; whole networks of any rate or limit follow from that. So the same
command with other rates only joins and fine-tunes, and what it makes is measured beside what was there before.
"""

import hashlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from torch import nn

from hardware.deployment import Deployment
from nas.console import Bar, say
from nas.data.split import Data, Preprocessor, Split
from nas.data.tasks import CLASSIFICATION
from nas.errors import UserError
from nas.files import located, replace_folder
from nas.learning.plain_training import naming_checkpoint
from nas.learning.preparation import Prepared, data_location, prepare, prepare_again
from nas.learning.progress import TrainingFigures
from nas.memory import peak_memory_mib
from nas.networks.loading import is_own, load_network
from nas.networks.pretrained import save_preprocessor
from nas.pruning.candidates import WEIGHTS
from nas.pruning.config import EmoPmsConfig, cnn_training
from nas.pruning.emo_pms import Pruned, emo_pms, fine_tuned, parts_of
from nas.pruning.impairment import Scheme
from nas.pruning.trained import check_trained
from nas.ray_address import check_answers
from nas.records import Record, Scalar, read_record, same_request, write_record
from nas.runs.checked_search import Proposing, checked_search
from nas.runs.folder import JOURNAL, RunFolder, record_of, write_run
from nas.runs.loaded_search import usable
from nas.runs.loading import load_run
from nas.runs.pruned_latency import ANOTHER_PRUNING, SchemeLatency
from nas.runs.requests import PruneRequest, SearchRequest
from nas.runs.schemes import Wanted, chosen_schemes, wanted_of
from nas.runs.search import searched
from nas.searching.evaluation import check_counts
from nas.searching.giving_up import refuse_failed
from nas.searching.kept import KeptFiles
from nas.searching.listed import Listed
from nas.searching.measurement import Measurement
from nas.searching.nsga2 import Nsga2Config
from nas.searching.pace import recorded_identity
from nas.searching.relative_latency import LatencySettings
from nas.searching.study import load_study
from nas.seeds import generator
from nas.settings import SearchSettings
from nas.workers import Workers
from search_spaces import Candidate, Supernet
from search_spaces.pruning import Partition
from search_spaces.weights import save_weights

OBJECTIVES = "accuracy,latency_ms,macs,parameters"
_SETTINGS = "training.json"
_DETECTOR_RATE = 0.1
_OFF = 0.005
"""Share by which a rate must be exceeded so that it is said."""


class TrainedBy(Record):
    """`pruned/<digest>/training.json`: the settings that a whole network was fine-tuned with."""

    version: Literal[1] = 1
    settings: str


@dataclass(frozen=True)
class _Checked:
    """A pruning whose input was found good."""

    prepared: Prepared
    parts: Partition
    config: EmoPmsConfig
    wanted: tuple[Wanted, ...]
    train: Split


def prune_run(request: PruneRequest) -> dict[str, Any]:
    """Prune a network in the run folder `out`, or go on with it.

    Raises:
        UserError: wrong input, or a rate or limit that no combination of the sub-networks reaches.
        TrainingFailed: the loss is not finite.
    """
    folder = RunFolder(request.out)
    with folder.locked():
        # 1. The network, its sub-networks and the data.
        checked = _checked(folder, request)
        if not folder.run_json.exists():
            prepared = checked.prepared
            record = record_of("pruned-networks", _record(request), prepared.supernet.model, prepared.data)
            write_run(folder, record, prepared.data)
        if not folder.supernet.exists():
            replace_folder(folder.supernet, partial(_save, checked.prepared))
        # 2. The sub-networks, each searched by itself.
        pruned = _searched(folder, checked, request)
        for study in pruned.studies.values():
            refuse_failed(study.measurements, "mend that, and begin anew in another folder")
        # 3. Whole networks by the global ranking, fine-tuned.
        load = partial(load_run, folder, request.common.device, _own(request))
        latency_of = SchemeLatency(load, pruned, _latency_settings(request), folder.pruned)
        schemes = chosen_schemes(pruned, checked.wanted, request.settings.ranking, latency_of)
        for wanted, scheme in schemes:
            _say_rate(wanted, pruned.rate(scheme, request.settings.cost))
        made = [_made(folder, checked, pruned, wanted, scheme) for wanted, scheme in schemes]
        # 4. All of them measured, with those of earlier commands.
        full = pruned.parts.space.full()
        result = _measured(folder, request, [full, *(candidate for candidate, _ in made)])
    networks = {wanted.name: summary for wanted, (_, summary) in zip(checked.wanted, made, strict=True)}
    return {**result, "run": str(request.out), "networks": networks, "sub_networks": _sub_networks(pruned)}


def estimate(request: PruneRequest) -> dict[str, Any]:
    """Time and memory of `prune_run`, from one epoch of the detectors and a few forms; errors as there."""
    folder = RunFolder(request.out)
    folder.check()
    checked = _checked(folder, request)
    few = replace(checked.config, budget=2, detectors=replace(checked.config.detectors, epochs=1))
    each: list[float] = []
    began = time.monotonic()
    with TemporaryDirectory() as scratch:
        emo_pms(
            checked.prepared.supernet.model,
            checked.train,
            checked.prepared.data.validation,
            Path(scratch),
            few,
            parts=checked.parts,
            on_result=lambda name, measurement, number: each.append(measurement.seconds),
        )
    started, trained = time.monotonic() - began - sum(each), _trained_forms(checked)
    forms = trained * sum(each) / len(each)
    steps = checked.config.final.total_steps(len(checked.prepared.data.train))
    # A step of a whole network and of its teacher costs no more than those of forms of all sub-networks together.
    form_steps = checked.config.forms.total_steps(
        min(len(checked.train), checked.config.form_rows or len(checked.train))
    )
    final = len(checked.wanted) * 1.5 * steps * sum(each) / 2 / form_steps
    return {
        "possible_forms_of_each_sub_network": {part.name: str(part.space.size()) for part in checked.parts.subnetworks},
        "trained_forms": trained,
        "seconds_a_form": sum(each) / len(each),
        "seconds": started + forms / request.settings.workers + final,
        "peak_memory_mib": peak_memory_mib(),
    }


def _checked(folder: RunFolder, request: PruneRequest) -> _Checked:
    """Everything that can be refused before anything is trained or written."""
    settings, seed = request.settings, request.common.seed
    config, wanted, record = _config(request), wanted_of(request), _record(request)
    found: list[Partition] = []

    def make(module: nn.Module, data: Data, preprocessor: Preprocessor) -> Supernet:
        _check_data(data)
        found.append(parts_of(module, data.train, config))
        return Supernet(module, found[0].space)

    usable(Deployment(_latency_settings(request).runtime, _latency_settings(request).precision))
    say(f"Reading {request.model} and {request.data.data}")
    if folder.run_json.exists():
        before = folder.read("pruned-networks")
        same_request(folder.path, before.request, record)
        if (folder.search(SearchSettings.name) / "search.json").exists():
            # What these networks run in is decided by the first command.
            checked_search(folder, _search_request(folder, request, 1), _listing(()))
        prepared = prepare_again(
            request.model,
            folder.data,
            before.classes,
            before.kind,
            request.data.task,
            request.own,
            make,
            seed,
            before.model_fingerprint,
        )
    else:
        prepared = prepare(request.model, request.data, request.own, make, seed)
        model, again = prepared.supernet.model, _loaded_again(prepared, request)
        check_trained(model, again, prepared.data, request.model)
    train = prepared.data.train
    if settings.detector_rows is not None:
        train = train.take(settings.detector_rows, generator(seed, "rows of detectors"))
    count = len(found[0].subnetworks)
    if count == 1:
        say("The network has one spatial resolution, so it is searched as one sub-network")
    return _Checked(prepared, found[0], config, wanted, train)


def _config(request: PruneRequest) -> EmoPmsConfig:
    settings, common = request.settings, request.common
    check_counts(
        workers=settings.workers,
        form_epochs=settings.form_epochs,
        detector_epochs=settings.detector_epochs,
        epochs=settings.epochs,
        population=settings.population,
        offspring=settings.offspring,
    )
    if settings.ray_address is not None:
        check_answers(settings.ray_address)
    for flag, least in (("form_rows", 2), ("detector_rows", 2), ("batch_size", 2)):
        value = getattr(settings, flag)
        if value is not None and value < least:
            raise UserError(f"--{flag.replace('_', '-')} must be at least {least}, got {value}")
    training = partial(
        cnn_training,
        batch_size=settings.batch_size,
        seed=common.seed,
        device=common.device,
    )
    return EmoPmsConfig(
        budget=settings.budget,
        nsga2=Nsga2Config(population=settings.population, offspring=settings.offspring),
        cost=settings.cost,
        inheritance=settings.inheritance,
        form_rows=settings.form_rows,
        detectors=training(settings.detector_epochs, _DETECTOR_RATE),
        forms=training(settings.form_epochs, settings.form_learning_rate),
        final=training(settings.epochs, settings.learning_rate, augment=settings.augment),
        multiple_of=settings.multiple_of,
        keep=settings.keep,
        seed=common.seed,
    )


def _check_data(data: Data) -> None:
    if data.kind != "image" or data.task is not CLASSIFICATION:
        raise UserError(f"a pruning needs images with classes, the data holds {data.kind} rows of {data.task.metric}")


def _loaded_again(prepared: Prepared, request: PruneRequest) -> nn.Module:
    """The network once more, what is drawn at random in it drawn by another seed."""
    data, seed = prepared.data, request.common.seed + 1
    return load_network(request.model, request.own, data.classes, data.kind, data.task, seed, say=None)[0]


def _record(request: PruneRequest) -> dict[str, Scalar]:
    """What decides the outcome of the searches, by flag: a repeated command must say the same."""
    own, settings = request.own, request.settings
    return {
        "model": located(request.model),
        **asdict(own),
        "weights": None if own.weights is None else located(str(own.weights)),
        **asdict(request.data),
        "data": data_location(request.data, "the images to prune on"),
        "cost": settings.cost,
        "population": settings.population,
        "offspring": settings.offspring,
        "multiple_of": settings.multiple_of,
        "keep": ", ".join(settings.keep) or None,
        "inheritance": settings.inheritance,
        "form_epochs": settings.form_epochs,
        "form_rows": settings.form_rows,
        "form_learning_rate": settings.form_learning_rate,
        "detector_rows": settings.detector_rows,
        "detector_epochs": settings.detector_epochs,
        "batch_size": settings.batch_size,
        "seed": request.common.seed,
    }


def _save(prepared: Prepared, folder: Path) -> None:
    prepared.supernet.save(folder)
    save_preprocessor(prepared.preprocessor, folder)


def _trained_forms(checked: _Checked) -> int:
    """How many forms of all sub-networks are trained: the budget's of each, or all that there are."""
    return sum(min(checked.config.budget, part.space.size()) for part in checked.parts.subnetworks)


class _Progress:
    """Shows how many forms of all sub-networks are trained."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._done: dict[str, int] = {}

    def __call__(self, name: str, measurement: Measurement, number: int) -> None:
        self._done[name] = number
        error = measurement.values.get("error")
        figures = f"sub-network {name}, " + ("failed" if error is None else f"error {error:.3f}")
        self._bar.update(sum(self._done.values()), figures)


def _searched(folder: RunFolder, checked: _Checked, request: PruneRequest) -> Pruned:
    settings = request.settings
    with Bar("Training forms of the sub-networks", _trained_forms(checked)) as bar:
        return emo_pms(
            checked.prepared.supernet.model,
            checked.train,
            checked.prepared.data.validation,
            folder.pruning,
            checked.config,
            parts=checked.parts,
            workers=Workers(settings.workers, address=settings.ray_address),
            on_result=_Progress(bar),
        )


def _say_rate(wanted: Wanted, found: float) -> None:
    """Say what goes where that is not what was asked for."""
    if wanted.rate is not None and found - wanted.rate >= _OFF:
        say(
            f"{wanted.name}: of the networks that the searched forms give, the first at that rate or beyond has "
            f"{100 * found:.1f} % fewer {wanted.quantity}; a larger --budget makes the steps smaller"
        )


def _made(
    folder: RunFolder, checked: _Checked, pruned: Pruned, wanted: Wanted, scheme: Scheme
) -> tuple[Candidate, dict[str, Any]]:
    """Fine-tune the network of a scheme, unless that was done; its candidate, and what is said of it."""
    candidate, files, data = pruned.candidate(scheme), KeptFiles(folder.pruned), checked.prepared.data
    path, model = files.of(candidate), checked.prepared.supernet.model
    trained_by = TrainedBy(settings=checked.config.final.identity())
    if (path / _SETTINGS).is_file() and read_record(path / _SETTINGS, TrainedBy) != trained_by:
        say(f"{wanted.name}: this network was fine-tuned with other settings before, and stays as it is")
    if not path.exists() and candidate != pruned.parts.space.full():
        # Of these settings: with others the training begins anew.
        settings = hashlib.sha256(trained_by.settings.encode()).hexdigest()[:8]
        checkpoint = path.with_name(f"{path.name}-{settings}.checkpoint")
        network = pruned.network(scheme)
        title = f"Fine-tuning {wanted.name}"
        with Bar(title, checked.config.final.total_steps(len(data.train))) as bar, naming_checkpoint(checkpoint):
            fine_tuned(
                network,
                model,
                data.train,
                checked.config.final,
                checkpoint=checkpoint,
                on_step=TrainingFigures(bar),
            )
        with files.writing(candidate) as part:
            save_weights(network, part / WEIGHTS)
            write_record(part / _SETTINGS, trained_by)
        for left in path.parent.glob(f"{path.name}-*.checkpoint"):
            shutil.rmtree(left, ignore_errors=True)
    return candidate, {
        "pruned_parameters": pruned.rate(scheme, "parameters"),
        "pruned_macs": pruned.rate(scheme, "macs"),
    }


def _measured(folder: RunFolder, request: PruneRequest, made: Sequence[Candidate]) -> dict[str, Any]:
    """These networks and those of earlier commands, measured as a search of them alone; the front as delivered."""
    journal = folder.search(SearchSettings.name) / JOURNAL
    # A kill at the beginning leaves a journal without a study.
    before = load_study(journal).measurements if recorded_identity(journal) else []
    candidates = tuple(dict.fromkeys([*(each.candidate for each in before), *made]))
    return searched(folder, _search_request(folder, request, len(candidates)), _listing(candidates))


def _search_request(folder: RunFolder, request: PruneRequest, budget: int) -> SearchRequest:
    """The search of all networks that were made."""
    settings = request.settings
    search = SearchSettings(
        objectives=OBJECTIVES, budget=budget, runtime=settings.runtime, precision=settings.precision
    )
    return SearchRequest(run=folder.path, settings=search, model=_own(request), common=request.common)


def _listing(candidates: tuple[Candidate, ...]) -> Proposing:
    return Proposing("listed", Listed(candidates), "Measuring the networks", goes_on=False, anew=ANOTHER_PRUNING)


def _latency_settings(request: PruneRequest) -> LatencySettings:
    settings = request.settings
    return LatencySettings(
        runtime=settings.runtime or LatencySettings.runtime,
        precision=settings.precision or LatencySettings.precision,
    )


def _own(request: PruneRequest) -> str | None:
    return request.model if is_own(request.model) else None


def _sub_networks(pruned: Pruned) -> dict[str, Any]:
    """By name, what was found of each sub-network."""
    return {
        name: {
            "forms": len(study.measurements),
            "front": len(study.front()),
            "base_error": pruned.bases[name].error,
            "failed": sum(each.state == "failed" for each in study.measurements),
        }
        for name, study in pruned.studies.items()
    }
