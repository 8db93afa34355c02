"""One search over sub-network and precision of every layer, beside what else gives small and fast networks.

A super-network is fine-tuned from `--data FOLDER`: MiniLM on sentences of SST-2, or with `--model` a ViT or ResNet-56
on CIFAR-10. All networks are for OpenVINO with one thread, texts of 128 tokens. Objectives are accuracy, latency
predicted from a device profile, and size; accuracy is scored on 400 validation rows. The rows:

- `joint`: LINAS over architecture and precisions, begun with what sensitivities propose; `joint_random` and
  `joint_nsga2`: the same space by random search and by NSGA-II;
- `policy_only`: LINAS over the precisions of the full network, begun likewise;
- `architecture_then_int8`: LINAS over architectures in float32; what is picked of its front is quantized as a whole;
- `knapsack`: sensitivities of the full network's layers, and the precisions that cost least of its loss within three
  budgets of latency and three of size;
- `accuracy_control`: `nncf.quantize_with_accuracy_control` on the full network at six budgets;
- `fp32`, `int8` and `bf16`: the full network in one precision; INT8 is what nncf does by default.

Of each row at most six points are verified. They are picked by the row's own search values, by one rule for all: of its
front, again and again the point that adds most hypervolume. Each is written as files, loaded in a fresh process that
does not know this project, scored on the validation rows that no search saw, and timed in turns with the full network
in float32, by processor time. Then points of the joint front are picked, and these read the test rows, once.

Search values against files: accuracies of random joint candidates, and output errors of policies of the full network
that all quantize half of its layers, both on the rows of the searches.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from harness import Figures, Harness, parser
from simq_figures import INT8, Points, pick_figures, picks, row_figures, table, targets, truth_figures
from simq_files import FP32, Files, Point, Verified, bits, digest
from simq_problem import FULL, MODELS, SEED, SMALL, Problem, Sizes, load_problem
from simq_rows import BELOW, SEARCHED, SINGLE, Known, full_accuracy, points_of
from simq_truth import cost_ratios, of_joint, of_policies

from hardware.profile import BY_LAYER, DeviceProfile, Precision, parse_profile
from nas.profiling.bench import Bench
from nas.profiling.collection import Effort, begin, grow
from nas.runs.finetune import finetune_run

ROWS = (*SINGLE, *SEARCHED, "knapsack", "accuracy_control")
"""In the order in which they are measured: the others are timed beside the first."""
_TRAINED = ("steps",)
_PROFILED = (*_TRAINED, "profiled", "tolerance")
_SCORED = (*_TRAINED, "searched_rows")
_FOUND = (*_PROFILED, "searched_rows", "budget", "points", "budgets", "calibration_rows")
_VERIFIED = (*_SCORED, "verified_rows", "calibration_rows")
_SHOWN = (*SEARCHED, "knapsack", "accuracy_control", *SINGLE)


class Stages:
    """The stages of one model in the harness; each says how long it took.

    Args:
        harness: keeps their results.
        name: of the model, with which the names of stages begin.
        sizes: how much is measured.
    """

    def __init__(self, harness: Harness, name: str, sizes: Sizes) -> None:
        self._harness, self._name, self._sizes = harness, name, asdict(sizes)

    def __call__(
        self, name: str, compute: Callable[[], Mapping[str, Any]], depends: Sequence[str], **settings: str
    ) -> dict[str, Any]:
        """Run a stage or read what is kept of it.

        Args:
            name: of the stage.
            compute: its result as JSON values.
            depends: the sizes that it depends on.
            settings: what else it depends on.
        """
        began, cpu = time.monotonic(), _cpu_seconds()
        own = {key: -1 if self._sizes[key] is None else self._sizes[key] for key in depends}
        found = self._harness.stage(f"{self._name}-{name}", compute, **own, **settings)
        wall, cpu = time.monotonic() - began, _cpu_seconds() - cpu
        print(f"{self._name}-{name}: {wall:.1f} s, of processor time {cpu:.1f} s", file=sys.stderr, flush=True)
        return found


def _cpu_seconds() -> float:
    """Processor time of this process and of those that it has ended."""
    return sum(os.times()[:4])


def profiled(problem: Problem, precision: Precision, path: Path) -> dict[str, Any]:
    """The device profile of sub-networks, by layer or in one precision; goes on with the file `path`."""
    subject = problem.subject(precision)
    bench = Bench.of(subject, problem.deployment(precision), problem.sizes.tolerance)
    begun = parse_profile(path.read_bytes()) if path.is_file() else begin(bench)
    grown = grow(begun, subject, bench.measure, Effort(problem.sizes.profiled), seed=SEED, path=path)
    return {"profile": grown.model_dump(mode="json")}


def _profile(kept: Mapping[str, Any]) -> DeviceProfile:
    return parse_profile(json.dumps(kept["profile"]).encode())


def measured_once(stages: Stages, problem: Problem, folder: Path) -> Known:
    """Device profiles, and the full network's accuracy."""
    precisions: tuple[Precision, ...] = (BY_LAYER, "float32")
    by_layer, one = (
        _profile(
            stages(f"profile-{each}", partial(profiled, problem, each, folder / f"profile-{each}.json"), _PROFILED)
        )
        for each in precisions
    )
    accuracy = stages("full-accuracy", lambda: {"accuracy": full_accuracy(problem)}, _SCORED)["accuracy"]
    return Known(by_layer, one, accuracy)


def verified_rows(stages: Stages, problem: Problem, known: Known, files: Files) -> tuple[Points, dict[str, Point]]:
    """Every row with its verified points, and all points by their names."""
    verified: dict[str, list[Verified]] = {}
    points: dict[str, Point] = {}
    for row in ROWS:
        if not _usable(problem, row):
            continue

        def found(row: str = row) -> dict[str, Any]:
            return {"points": [each.to_json() for each in points_of(row, problem, known, files)]}

        own = [Point.from_json(each) for each in stages(f"{row}-found", found, _FOUND)["points"]]

        def checked(own: list[Point] = own) -> dict[str, Any]:
            return {"verified": [files.verify(each).to_json() for each in own]}

        kept = stages(f"{row}-verified", checked, (*_VERIFIED, "rounds"), of=digest(own))["verified"]
        verified[row] = [Verified.from_json(each) for each in kept]
        points |= {each.name: each for each in own}
    return {row: verified[row] for row in _SHOWN if row in verified}, points


def _usable(problem: Problem, row: str) -> bool:
    if row not in SINGLE:
        return True
    try:
        problem.deployment(SINGLE[row]).check()
    except ValueError as error:
        print(f"{row} is left out: {error}", file=sys.stderr)
        return False
    return True


def tested(files: Files, names: list[str]) -> dict[str, Any]:
    """Which test rows the files of some points have right."""
    right = {name: files.test(name) for name in names}
    return {name: [len(each), np.packbits(each).tobytes().hex()] for name, each in right.items()}


def run_problem(stages: Stages, problem: Problem, folder: Path) -> Figures:
    """All figures of a fine-tuned super-network; prints its tables.

    Args:
        stages: keeps what was measured.
        problem: the super-network and its rows.
        folder: of the files.
    """
    known, files = measured_once(stages, problem, folder), Files(problem, folder / "files")
    points, named = verified_rows(stages, problem, known, files)
    true = (*_SCORED, "calibration_rows")
    joint = stages("truth-joint", partial(of_joint, problem), (*true, "joint"))
    policies = stages("truth-policies", partial(of_policies, problem), (*true, "policies"))
    ratios = stages("evaluation-cost", lambda: {"ratios": cost_ratios(problem)}, (*_SCORED, "timed"))["ratios"]
    chosen = picks(points)
    names = [*chosen.names, INT8, FP32]
    kept = stages("test", partial(tested, files, names), _VERIFIED, of=digest([named[name] for name in names]))
    right = {name: bits(digits, count) for name, (count, digits) in kept.items()}
    print(table(points, {name: each.values for name, each in named.items()}, BELOW), file=sys.stderr)
    for name in names:
        print(f"{name}: {100 * right[name].mean():.2f} % of the test rows", file=sys.stderr)
    return row_figures(points, BELOW) | pick_figures(chosen, right) | truth_figures(joint, policies, ratios)


def run_model(harness: Harness, data: Path, name: str, folder: Path, sizes: Sizes) -> Figures:
    """Fine-tune a model, and all figures of it."""
    stages = Stages(harness, name, sizes)
    folder.mkdir(parents=True, exist_ok=True)

    def finetuned() -> dict[str, Any]:
        return finetune_run(MODELS[name].request(data, folder, sizes.steps))

    run = Path(stages("finetuned", finetuned, _TRAINED)["run"])
    return run_problem(stages, load_problem(name, run, sizes), folder)


def main() -> None:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--data", type=Path, required=True, help="folder of the sst2_* and cifar10_* files")
    flags.add_argument("--model", choices=tuple(MODELS), default="minilm", help="what is searched")
    flags.add_argument("--small", action="store_true", help="a tenth of the measurements, to see that it runs")
    options = flags.parse_args()
    form = "-full" if options.full else "-small" if options.small else ""
    sizes = {"-full": FULL, "-small": SMALL, "": Sizes()}[form]
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) if options.out is None else options.out.resolve()
        harness = Harness(options)
        found = run_model(harness, options.data.resolve(), options.model, out / f"{options.model}{form}", sizes)
        figures = {f"{options.model}_{figure}": value for figure, value in found.items()}
        harness.report(figures, targets(options.model), [SEED])


if __name__ == "__main__":
    main()
