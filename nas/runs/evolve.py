"""`nas evolve`: normalization-activation layers evolved on the user's images, in a run folder."""

import statistics
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from nas.console import Bar, say
from nas.data.pixels import PlainImages
from nas.data.split import Data, Split
from nas.data.tasks import CLASSIFICATION
from nas.errors import UserError
from nas.evolving.anchors import PAPER, SMALL, AnchorSize, Network, OwnNetwork
from nas.evolving.anchors import networks as anchors
from nas.evolving.config import EvoNormConfig
from nas.evolving.evonorm import EvolvedLayers, evonorm, rejections, write_layer
from nas.evolving.images import channels_read
from nas.evolving.layer_makers import batch_norm_relu
from nas.evolving.propagation import propagation
from nas.evolving.quality import LEAST_ACCURACY, TRAINING, half_way
from nas.evolving.rejection import RejectionConfig
from nas.evolving.trials import LayerTrials
from nas.files import replace_folder
from nas.learning.preparation import data_location, prepared_rows, read_rows
from nas.memory import peak_memory_mib
from nas.ray_address import check_answers
from nas.records import Record, Scalar, Share, read_record, same_request, write_record
from nas.runs.evolved import layer_files
from nas.runs.folder import RunFolder, record_of, write_run
from nas.runs.requests import EvolveRequest
from nas.searching.ageing import AgeingConfig
from nas.searching.evaluation import check_counts
from nas.searching.measurement import Measurement
from nas.seeds import generator
from nas.workers import Workers
from search_spaces.graphs import LayerGraph, published

_SIZES: Mapping[str, AnchorSize] = {"small": SMALL, "paper": PAPER}
_KNOWN = "S0"
"""A layer that passes all tests, whose time tells how long the others take at most."""


@dataclass(frozen=True)
class _Checked:
    """An evolution whose input was found good."""

    data: Data
    networks: Mapping[str, Network]
    config: EvoNormConfig


def evolve_run(request: EvolveRequest) -> dict[str, Any]:
    """Evolve layers in the run folder `out`, or go on with it; UserError for wrong input."""
    folder, settings = RunFolder(request.out), request.settings
    with folder.locked("evolve", None if settings.workers > 1 or settings.ray_address else settings.networks):
        # 1. The images and the networks.
        checked = _checked(folder, request)
        if not folder.run_json.exists():
            first = next(iter(checked.networks.values()))(batch_norm_relu)
            write_run(folder, record_of("evolved-layers", _record(request), first, checked.data), checked.data)
        # 2. The evolution, and the best layers trained for longer.
        config = _with_bound(folder, checked, request)
        config = _with_first_step(folder, checked, config)
        with Bar("Trying layers", settings.budget) as bar:
            found = evonorm(
                checked.networks,
                checked.data.train,
                _validation(checked.data, request),
                folder.evolution,
                config,
                budget=settings.budget,
                workers=Workers(settings.workers, address=settings.ray_address),
                lag=settings.lag,
                on_result=_Figures(bar, settings.budget),
            )
        # 3. The layers as files.
        replace_folder(layer_files(folder), partial(_write, found))
    return _summary(request, found)


def estimate(request: EvolveRequest) -> dict[str, Any]:
    """Time and memory of `evolve_run` at most, from a layer that passes all tests; writes nothing, errors as there."""
    folder = RunFolder(request.out)
    folder.check()
    checked, settings = _checked(folder, request), request.settings
    easy = replace(checked.config, rejection=replace(checked.config.rejection, least_accuracy=0.0, first_step=False))
    trials = LayerTrials(checked.networks, checked.data.train, _validation(checked.data, request), easy)
    began = time.monotonic()
    trials.tried(published(_KNOWN))
    seconds = time.monotonic() - began
    longer = seconds * settings.longer_steps / (settings.steps + settings.quality_steps) * settings.reranked
    return {
        "networks": list(checked.networks),
        "seconds_a_layer_that_passes": seconds,
        "seconds_at_most": settings.budget * seconds / settings.workers + longer,
        "peak_memory_mib": peak_memory_mib(),
    }


def _checked(folder: RunFolder, request: EvolveRequest) -> _Checked:
    """Everything that can be refused before anything is trained or written."""
    config, asked = _config(request), _record(request)
    if folder.run_json.exists():
        record = folder.read("evolved-layers")
        same_request(folder.path, record.request, asked)
        networks, preprocessor = _networks(request, len(record.classes))
        data = Data.load(folder.data, preprocessor)
    else:
        say(f"Reading {request.data.data}")
        table = read_rows(request.data)
        if table.kind != "image":
            raise UserError(f"an evolution of layers needs images with classes, the data holds {table.kind} rows")
        if table.task is not CLASSIFICATION:
            raise UserError(f"an evolution of layers needs classes, the rows are of {table.task.metric}")
        networks, preprocessor = _networks(request, len(table.classes))
        data = prepared_rows(table, preprocessor, request.data, request.common.seed)
    return _Checked(data, networks, config)


def _networks(request: EvolveRequest, outputs: int) -> tuple[dict[str, Network], PlainImages]:
    """The networks that layers are tried in, and what makes the images that they read."""
    named, size = request.settings.networks, _SIZES[request.settings.size]
    if named is None:
        found, channels = anchors(size, outputs), 3
    else:
        found = {spec: OwnNetwork(spec, outputs) for spec in named.replace(" ", "").split(",")}
        channels = channels_read(found, size.image_size, outputs)
    middle = (0.5,) * channels
    return found, PlainImages("pixels", (size.image_size, size.image_size), middle, middle)


def _config(request: EvolveRequest) -> EvoNormConfig:
    settings, seed = request.settings, request.common.seed
    check_counts(
        **{name: getattr(settings, name) for name in ("budget", "workers", "lag", "validation_rows")},
        quality_steps=settings.quality_steps,
        steps=settings.steps,
        longer_steps=settings.longer_steps,
    )
    if settings.ray_address is not None:
        check_answers(settings.ray_address)
    size = _SIZES[settings.size]
    training = replace(TRAINING, batch_size=size.batch_size, device=request.common.device)
    return EvoNormConfig(
        series=settings.series,
        ageing=AgeingConfig(population=settings.population, tournament_share=settings.tournament_share),
        rejection=RejectionConfig(
            size.groups,
            replace(training, steps=settings.quality_steps),
            LEAST_ACCURACY if settings.least_accuracy is None else settings.least_accuracy,
        ),
        proxy=replace(training, steps=settings.steps),
        stop_below=settings.stop_below,
        reranked=settings.reranked,
        longer=replace(training, steps=settings.longer_steps),
        seed=seed,
    )


class LeastAccuracy(Record):
    """`evolution/bound.json`: the accuracy (0..1) that a layer must have after the few first steps."""

    version: Literal[1] = 1
    least_accuracy: Share


def _with_bound(folder: RunFolder, checked: _Checked, request: EvolveRequest) -> EvoNormConfig:
    """The settings with the bound that they leave open, measured once."""
    if request.settings.least_accuracy is not None:
        return checked.config
    path, rejection = folder.evolution / "bound.json", checked.config.rejection
    if not path.is_file():
        say("Measuring what batch norms and ReLU learn in the first steps")
        least = half_way(
            checked.networks,
            checked.data.train,
            _validation(checked.data, request),
            outputs=len(checked.data.classes),
            seed=request.common.seed,
            groups=rejection.groups,
            training=rejection.training,
        )
        write_record(path, LeastAccuracy(least_accuracy=least))
    least = read_record(path, LeastAccuracy).least_accuracy
    return replace(checked.config, rejection=replace(rejection, least_accuracy=least))


class FirstStep(Record):
    """`evolution/first-step.json`: whether layers are judged by a first step in each network."""

    version: Literal[1] = 1
    judged: bool


def _with_first_step(folder: RunFolder, checked: _Checked, config: EvoNormConfig) -> EvoNormConfig:
    """The settings without the test of the first step where even batch norms and ReLU do not pass it, tried once."""
    path, rejection = folder.evolution / "first-step.json", config.rejection
    if not path.is_file():
        known = propagation(
            published("BN-ReLU"),
            checked.networks,
            checked.data.train,
            seed=config.seed,
            groups=rejection.groups,
            batch_size=rejection.training.batch_size,
        )
        if not known.accepted:
            say(f"Layers are not judged by a first step, which batch norms and ReLU fail: {known.reason}")
        write_record(path, FirstStep(judged=known.accepted))
    return replace(config, rejection=replace(rejection, first_step=read_record(path, FirstStep).judged))


def _validation(data: Data, request: EvolveRequest) -> Split:
    return data.validation.take(
        request.settings.validation_rows, generator(request.common.seed, "validation of layers")
    )


def _record(request: EvolveRequest) -> dict[str, Scalar]:
    """What decides the outcome but its budget, which may grow, by flag."""
    without = ("budget", "workers", "ray_address", "reranked", "longer_steps", "lag")
    own = {name: value for name, value in asdict(request.settings).items() if name not in without}
    return {
        **asdict(request.data),
        "data": data_location(request.data, "the images to evolve on"),
        **own,
        "seed": request.common.seed,
    }


class _Figures:
    """Shows how many layers were tried, what rejected them, and the best accuracy."""

    def __init__(self, bar: Bar, budget: int) -> None:
        self._bar, self._budget, self._rejected, self._best = bar, budget, Counter[str](), 0.0

    def __call__(self, measurement: Measurement[LayerGraph], number: int) -> None:
        """Called after each result."""
        self._rejected += rejections([measurement])
        if measurement.state == "measured":
            self._best = max(self._best, statistics.mean(measurement.values.values()))
        rejected = ", ".join(f"{count} {test}" for test, count in self._rejected.items()) or "none"
        then = "; now the best are trained for longer" if number >= self._budget else ""
        self._bar.update(number, f"rejected: {rejected}; best mean accuracy {self._best:.3f}{then}")


def _write(found: EvolvedLayers, folder: Path) -> None:
    for number, layer in enumerate(found.ranked, 1):
        write_layer(layer, folder / f"{number}.json")


def _summary(request: EvolveRequest, found: EvolvedLayers) -> dict[str, Any]:
    measured = found.study.measurements
    return {
        "run": str(request.out),
        "tried": len(measured),
        "accepted": sum(each.state == "measured" for each in measured),
        "rejected": dict(rejections(measured)),
        "steps": sum(steps for each in measured if isinstance(steps := each.extras.get("steps", 0), int)),
        "layers": [{"formula": each.formula, "mean_accuracy": each.mean, **each.accuracies} for each in found.ranked],
        "files": str(layer_files(RunFolder(request.out))),
    }
