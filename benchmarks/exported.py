"""What is searched is what is delivered: exported folders in fresh processes, beside their cards and this project.

Two runs of a few steps each are made, of MiniLM on sentences of SST-2 and of ResNet-20 on CIFAR-10, both from
`--data FOLDER`. Every deployment is searched for and exported; the folder is then loaded by the lines of its card where
this project cannot be imported, scored on the test rows, and timed in turns with the same files loaded by this project.
The figures are of files, so it does not matter how good the networks are.
"""

import argparse
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median

import cifar_networks
from exported_process import FreshProcess, ProjectProcess, Stated, TimedProcess, read_card
from harness import Figures, Harness, parser
from runs_of_data import OWN, images, texts

from hardware.deployment import Deployment
from hardware.inputs import first_row, split
from nas.runs.export import export_run
from nas.runs.finetune import finetune_run
from nas.runs.folder import RunFolder
from nas.runs.loaded_search import load_search
from nas.runs.loading import LoadedRun, load_run
from nas.runs.requests import ExportRequest, FinetuneRequest, SearchRequest
from nas.runs.search import search_run
from nas.settings import SearchSettings, TrainingSettings

DEPLOYMENTS = {
    f"{each.runtime}_{each.precision}": each
    for each in (
        Deployment("pytorch", "float32"),
        Deployment("pytorch", "bfloat16"),
        Deployment("onnxruntime", "float32"),
        Deployment("onnxruntime", "int8"),
        Deployment("openvino", "float32"),
        Deployment("openvino", "bfloat16"),
        Deployment("openvino", "int8"),
    )
}
TARGETS = {
    "accuracy_gap": "0 points",
    "size_gap": "0 bytes",
    "latency_ratio": "0.95 to 1.05",
    "cpu_ratio": "0.95 to 1.05",
}
STEPS, BUDGET, SEARCHED_ROWS, TOKENS = 4, 4, 50, 64
WARMUP, ROUNDS = 15, 150
SEED = 0


@dataclass
class Subject:
    """One of the two runs; it is made when it is first needed, and found again in its folder.

    Args:
        prefix: of its figures.
        folder: of the run and all that belongs to it.
        request: makes the request for the fine-tuning, after writing what it needs into the folder.
        model: `module:factory` of a network of one's own.
    """

    prefix: str
    folder: Path
    request: Callable[[Path], FinetuneRequest]
    model: str | None = None
    _run: Path | None = field(default=None, init=False)

    def run(self) -> Path:
        """The folder of the finished run."""
        if self._run is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            request = self.request(self.folder)
            finetune_run(request)
            self._run = request.out
        return self._run

    def exported(self, deployment: Deployment) -> Path:
        """Where the export for a deployment goes."""
        return self.folder / "exports" / _name(deployment)


def _name(deployment: Deployment) -> str:
    return f"{deployment.runtime}_{deployment.precision}"


def _texts(data: Path, folder: Path) -> FinetuneRequest:
    parts = {"train": ("train", 0, 400), "validation": ("dev", 0, 100), "test": ("test", 0, 400)}
    training = TrainingSettings(steps=STEPS, batch_size=16, freeze_embeddings=True)
    return texts(data, folder, parts, training, order="none", drop_order="last")


def _images(data: Path, folder: Path) -> FinetuneRequest:
    parts = {"train": ("train20k", 0, 1000), "validation": ("test", 0, 200), "test": ("test", 200, 1200)}
    return images(data, folder, parts, TrainingSettings(steps=STEPS, batch_size=16), order="none")


def _delivered(subject: Subject, wanted: Deployment) -> Path:
    """Search for a deployment and export what was found; the exported folder."""
    run, name = subject.run(), _name(wanted)
    settings = SearchSettings(
        objectives="accuracy,latency_ms",
        budget=BUDGET,
        name=name,
        rows=SEARCHED_ROWS,
        tokens=TOKENS,
    )
    settings = replace(settings, runtime=wanted.runtime, precision=wanted.precision)
    search_run(SearchRequest(run, settings, model=subject.model))
    out = subject.exported(wanted)
    out.parent.mkdir(exist_ok=True)
    export_run(ExportRequest(run, out, name=name, model=subject.model))
    return out


def _gaps(subject: Subject, wanted: Deployment) -> Figures:
    """What the exported files are, less what their card states."""
    rows = _loaded(subject).split("test")
    with _fresh(subject, _delivered(subject, wanted), wanted) as (fresh, stated):
        right = fresh.right()
    assert stated.rows == len(rows), "the accuracy on the card must be of the test rows"
    return {
        "accuracy_gap": 100 * (right - stated.right) / len(rows),
        "size_gap": float(fresh.size_bytes - stated.size_bytes),
    }


def _ratios(subject: Subject, wanted: Deployment) -> Figures:
    """How long the exported files take in the fresh process, over how long they take in this project."""
    exported = subject.exported(wanted)
    with _fresh(subject, exported, wanted) as (fresh, _), ExitStack() as ends:
        project = ProjectProcess(exported, subject.run(), _name(wanted), subject.model)
        ends.callback(project.close)
        (there, there_cpu), (here, here_cpu) = _in_turns(fresh, project)
    return {"latency_ratio": there / here, "cpu_ratio": there_cpu / here_cpu, "latency_ms": there}


@contextmanager
def _fresh(subject: Subject, exported: Path, wanted: Deployment) -> Iterator[tuple[FreshProcess, Stated]]:
    """The exported folder in a process of its own, and what its card states."""
    loaded = _loaded(subject)
    tokens = load_search(loaded.folder, _name(wanted)).deployment.tokens
    example = dict(split(first_row(loaded.example(tokens or 1)))[1])
    stated = read_card((exported / "README.md").read_text(encoding="utf-8"))
    build = None if subject.model is None else (cifar_networks.__file__, subject.model.partition(":")[2])
    with tempfile.TemporaryDirectory() as scratch:
        fresh = FreshProcess(stated, exported, loaded.split("test"), example, Path(scratch), build)
        try:
            yield fresh, stated
        finally:
            fresh.close()


def _loaded(subject: Subject) -> LoadedRun:
    return load_run(RunFolder(subject.run()), "cpu", subject.model)


def _in_turns(*processes: TimedProcess) -> list[tuple[float, float]]:
    """For each process the medians of wall and of processor time of a call; they take turns in being first."""
    times: list[list[tuple[float, float]]] = [[] for _ in processes]
    for process in processes:
        process.pin()
    for turn in range(-WARMUP, ROUNDS):
        for which in sorted(range(len(processes)), reverse=turn % 2 == 0):
            taken = processes[which].call_ms()
            if turn >= 0:
                times[which].append(taken)
    return [(median(wall for wall, _ in own), median(cpu for _, cpu in own)) for own in times]


def _figures(harness: Harness, subjects: list[Subject], names: list[str]) -> Figures:
    figures: Figures = {}
    usable = [name for name in names if _usable(name)]
    # The latencies last: until then nothing has to be quiet.
    for measure, rounds in ((_gaps, 0), (_ratios, ROUNDS)):
        for subject, name in itertools.product(subjects, usable):
            stage = f"{subject.prefix}{name}_{measure.__name__.removeprefix('_')}"
            compute = partial(measure, subject, DEPLOYMENTS[name])
            found = harness.stage(stage, compute, budget=BUDGET, rows=SEARCHED_ROWS, tokens=TOKENS, rounds=rounds)
            figures |= {f"{subject.prefix}{figure}_{name}": value for figure, value in found.items()}
    return figures


def _usable(name: str) -> bool:
    try:
        DEPLOYMENTS[name].check()
    except ValueError as error:
        print(f"{name} is left out: {error}", file=sys.stderr)
        return False
    return True


def _deployments(text: str) -> list[str]:
    names = text.split(",")
    if not set(names) <= set(DEPLOYMENTS):
        raise argparse.ArgumentTypeError(f"some of {','.join(DEPLOYMENTS)}")
    return names


def main() -> None:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--data", type=Path, required=True, help="folder of the sst2_* and cifar10_* files")
    flags.add_argument(
        "--deployments", type=_deployments, default=list(DEPLOYMENTS), help="some of them, e.g. pytorch_bfloat16"
    )
    options = flags.parse_args()
    data = options.data.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if options.out is None else options.out.resolve()
        subjects = [
            Subject("", folder / "texts", lambda own: _texts(data, own)),
            Subject("image_", folder / "images", lambda own: _images(data, own), OWN),
        ]
        harness = Harness(options)
        figures = _figures(harness, subjects, options.deployments)
    targets = {
        name: next(target for start, target in TARGETS.items() if start in name)
        for name in figures
        if any(start in name for start in TARGETS)
    }
    harness.report(figures, targets, [SEED])


if __name__ == "__main__":
    main()
