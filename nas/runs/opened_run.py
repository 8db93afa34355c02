"""A run whose fine-tuning is done, opened for the commands that come after it."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from nas.data.split import Preprocessor, Split
from nas.data.tasks import CLASSIFICATION, TASKS
from nas.errors import UserError
from nas.learning.augmentation import augmented
from nas.networks.pretrained import example_inputs, load_preprocessor
from nas.networks.recalibration import SubNetworks
from nas.runs.network import bare_network
from nas.runs.run_folder import JOURNAL, RunFolder, RunRecord, Scalar
from nas.runs.settings import Common, Limits, SearchSettings
from nas.searching.evaluation import OnResult
from nas.searching.linas import linas
from nas.searching.measurement import Objective
from nas.searching.nsga2 import nsga2
from nas.searching.parallel import Workers
from nas.searching.random_search import random_search
from nas.searching.relative_latency import LatencySettings
from nas.searching.search import Algorithm, objective, search
from nas.searching.storage import Storage, is_url, shown
from nas.searching.study import Study
from nas.seeds import generator
from search_spaces import Candidate, Space, Supernet, has_batch_norms

LATENCY = "latency_ms"
_ALGORITHMS: dict[str, Algorithm] = {"linas": linas, "nsga2": nsga2, "random": random_search}


@dataclass(frozen=True)
class OpenedRun:
    """The super-network of a run, in evaluation mode, and the way to its data."""

    folder: RunFolder
    record: RunRecord
    supernet: Supernet
    preprocessor: Preprocessor

    def split(self, name: str) -> Split:
        """The validation or test rows; UserError when they are damaged."""
        tokens = self.record.asked.get("max_tokens")
        length = tokens if isinstance(tokens, int) else 128
        return Split.load(self.folder.data / f"{name}.parquet", self.preprocessor, max_tokens=length)

    def calibration(self) -> Split | None:
        """Training rows as the network saw them, where sub-networks need them for their batch norms."""
        if not has_batch_norms(self.supernet.model):
            return None
        return augmented(self.split("train")) if self.record.asked.get("augment") else self.split("train")

    def extract(self, candidate: Candidate) -> nn.Module:
        """A sub-network as a plain module, in evaluation mode, its batch-norm statistics its own."""
        return SubNetworks(self.supernet, self.calibration()).extract(candidate)

    def example(self, tokens: int, batch: int = 2) -> dict[str, Tensor]:
        """Inputs without padding, texts of that many tokens."""
        return example_inputs(self.supernet.model, self.record.kind, self.preprocessor, tokens=tokens, batch=batch)


def open_run(folder: RunFolder, device: str, model: str | None = None) -> OpenedRun:
    """Read a finished fine-tuning; UserError where it is damaged or not finished.

    Args:
        folder: of the run.
        device: auto takes a GPU when there is one.
        model: `module:factory` of a network of the user's own, as it was given to the fine-tuning.
    """
    record = folder.read()
    if not folder.supernet.exists():
        raise UserError(f"the fine-tuning in {folder.path} is not finished; repeat the `nas finetune` command to go on")
    if model is None and not (folder.supernet / "config.json").is_file():
        raise UserError(f"{folder.path} is of a network of your own: name it again, --model module:factory")
    module = None if model is None else bare_network(model, len(record.classes))
    try:
        supernet = Supernet.load(folder.supernet, module)
    except ValueError as error:
        raise UserError(f"the super-network of the run cannot be read: {error}") from error
    supernet.eval()
    supernet.to("cuda" if device == "auto" and torch.cuda.is_available() else "cpu")
    task = TASKS.get(str(record.asked.get("task")), CLASSIFICATION)
    return OpenedRun(folder, record, supernet, load_preprocessor(folder.supernet, record.kind, task))


def objective_names(settings: SearchSettings, limits: Limits, record: RunRecord, profiled: Sequence[str] = ()) -> str:
    """What the search is for: as asked, else the metric of the task and what is limited, or latency.

    `profiled` are the latencies that device profiles predict: they stand in the place of `latency_ms`.
    """
    if settings.objectives is not None:
        names = [name.strip() for name in settings.objectives.split(",")]
    else:
        metric = TASKS.get(str(record.asked.get("task")), CLASSIFICATION).metric
        limited = [flag.partition("_")[2] for flag in limits.given()]
        names = [metric, *([name for name in limited if name != metric] or [LATENCY])]
    if profiled and not set(profiled) & set(names):
        place = names.index(LATENCY) if LATENCY in names else len(names)
        names = [*names[:place], *profiled, *names[place + 1 :]]
    return ",".join(names)


def named_objectives(names: str, limits: Limits, profiled: Sequence[str] = ()) -> list[Objective]:
    """Objectives by their names, separated by commas, each with its limit; UserError for an unknown name or limit."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise UserError("--objectives must name at least one objective, e.g. accuracy,latency_ms")
    bounds = expanded(limits.given(), wanted)
    for flag in bounds:
        if flag.partition("_")[2] not in wanted:
            name = flag.partition("_")[2]
            raise UserError(f"--{flag.replace('_', '-')} needs {name} among --objectives, got {names}")
    by_name = {flag.partition("_")[2]: bound for flag, bound in bounds.items()}
    made = {name: Objective(name) if name in profiled else objective(name) for name in wanted}
    return [replace(made[name], limit=by_name.get(name)) for name in wanted]


def expanded(limits: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """The limits, that on `latency_ms` as one on each device's latency where the objectives are those of several."""
    found: dict[str, float] = {}
    for flag, bound in limits.items():
        side, _, name = flag.partition("_")
        several = [each for each in names if each.startswith(f"{LATENCY}_")] if name == LATENCY else []
        meant = several if several and name not in names else [name]
        found |= {f"{side}_{each}": bound for each in meant}
    return found


def check_search(settings: SearchSettings) -> None:
    """UserError for a number out of its range, or a storage that is no database."""
    for name in ("budget", "tokens", "threads", "accuracy_threads", "workers", "patience"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if settings.timeout_s is not None and not settings.timeout_s > 0:
        raise UserError(f"--timeout-s must be above 0, got {settings.timeout_s}")
    if settings.storage is not None and not is_url(settings.storage):
        raise UserError(
            f"--storage must be the URL of a database, e.g. sqlite:///studies.db, got {settings.storage}; "
            "without it the study is a journal in the run folder"
        )


def asked_of_search(settings: SearchSettings, limits: Limits, common: Common) -> dict[str, Scalar]:
    """What decides the outcome of a search but its budget, which may grow."""
    named: dict[str, Scalar | None] = {"accuracy_threads": settings.accuracy_threads}
    if settings.warm_start is not None:
        named["warm_start"] = shown(settings.warm_start)
    if settings.storage is not None:
        # Which database, and never its password.
        scheme, digest = settings.storage.partition("://")[0], hashlib.sha256(shown(settings.storage).encode())
        named["storage"] = f"{scheme}-{digest.hexdigest()[:8]}"
    return {
        "objectives": (settings.objectives or "").replace(" ", ""),
        "algorithm": settings.algorithm,
        "rows": settings.rows,
        "tokens": settings.tokens,
        "threads": settings.threads,
        **limits.given(),
        **{name: value for name, value in named.items() if value is not None},
        "seed": common.seed,
    }


def run_search(
    opened: OpenedRun,
    objectives: Sequence[Objective],
    settings: SearchSettings,
    seed: int,
    *,
    storage: Storage | None,
    latency_file: Path | None = None,
    on_result: OnResult | None = None,
    algorithm: Algorithm | None = None,
    space: Space | None = None,
    warm_start: Storage | None = None,
) -> Study:
    """One search of an opened run on its validation rows; UserError for settings out of range.

    `space` has fewer options than the super-network's, None: all of them. The place of `warm_start` is given, because
    the settings may name a run for it.
    """
    rows = opened.split("validation")
    if settings.rows is not None:
        if settings.rows < 1:
            raise UserError(f"--rows must be at least 1, got {settings.rows}")
        rows = rows.take(settings.rows, generator(seed, "search rows"))
    return search(
        opened.supernet,
        space or opened.supernet.space,
        rows,
        objectives,
        budget=settings.budget,
        seed=seed,
        algorithm=algorithm or _ALGORITHMS[settings.algorithm],
        storage=storage,
        example_inputs=opened.example(settings.tokens),
        latency=LatencySettings(tokens=settings.tokens, threads=settings.threads),
        latency_file=latency_file,
        calibration=opened.calibration(),
        threads=settings.accuracy_threads,
        on_result=on_result,
        workers=Workers(settings.workers, settings.ray, settings.ray_address),
        timeout_s=settings.timeout_s,
        patience=settings.patience,
        warm_start=warm_start,
    )


def study_at(place: str, besides: Path | None = None) -> Storage:
    """The study or table that a warm start names, where it may name the folder of a search or of a run too.

    Args:
        besides: the folder of the search that is to begin with it, which a run's folder does not stand for.

    Raises:
        UserError: a run that has several searches and none with the usual name, or none.
    """
    path = Path(place)
    if is_url(place) or not path.is_dir():
        return place if is_url(place) else path
    folder = RunFolder(path)
    if not folder.run_json.is_file():
        return path / JOURNAL
    itself = besides and besides.resolve()
    names = [name for name in folder.searches() if folder.search(name).resolve() != itself]
    name = names[0] if len(names) == 1 else SearchSettings.name
    if name not in names:
        known = ", ".join(names) or "none yet"
        raise UserError(f"{place} has no search named {name} (searches: {known}); name the folder of a search")
    return folder.search(name) / JOURNAL
