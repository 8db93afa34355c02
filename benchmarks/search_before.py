"""Record what two settings of `linas` reach on tabulated problems, for later versions to be compared with.

    OMP_NUM_THREADS=1 python benchmarks/search_before.py --problems FOLDER --out STAGES --record benchmarks/before.json

`few` is `LinasConfig(lag=1, least_batch=4, first_batch=16)` to 100 evaluations, `late` the default of version 0.1 to
1,000 (`BEFORE` has its sizes in full, whatever the default is now), each with one worker, one thread and seeds 0 to 3.
The file holds the normalised hypervolume of each seed and the medians. `search.py` reads it for `few_gap` and
`late_gap`. To repeat the record, run this at the commit that the file names: a later `linas` finds something else.
"""

import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness import Harness, parser
from search_problems import Problem, Variant, names

from nas import LinasConfig, linas
from nas.command.doctor import diagnose
from nas.files import write_json_atomic

RECORD = Path(__file__).parent / "before.json"
SEEDS = range(4)
STEP = 5


@dataclass(frozen=True)
class Before:
    """A setting of `linas` that later versions are compared with, and after how many evaluations."""

    config: LinasConfig
    called: str
    evaluations: tuple[int, ...]


BEFORE = {
    "few": Before(
        LinasConfig(lag=1, least_batch=4, first_batch=16),
        "LinasConfig(lag=1, least_batch=4, first_batch=16)",
        (30, 50, 75, 100),
    ),
    "late": Before(
        LinasConfig(lag=9, least_batch=8, first_batch=24),
        "LinasConfig()",
        (30, 50, 75, 100, 250, 500, 1000),
    ),
}


def hypervolumes(folder: Path, name: str, before: Before, seed: int) -> list[float]:
    """Normalised hypervolume of one search after each of the numbers of evaluations."""
    problem = Problem(folder, name, Variant(), seed)
    study = linas(
        problem.space,
        problem.evaluate,
        problem.objectives,
        budget=before.evaluations[-1],
        seed=seed,
        config=before.config,
    )
    curve = problem.curve([m.candidate for m in study.measurements], STEP)
    return [curve[min(count // STEP, len(curve)) - 1] for count in before.evaluations]


def recorded(harness: Harness, folder: Path, label: str) -> dict[str, Any]:
    """All problems and seeds with one of the settings."""
    before = BEFORE[label]
    found = {}
    for name in names(folder):
        seeds = {}
        for seed in SEEDS:
            compute = partial(_stage, folder, name, before, seed)
            stage = harness.stage(f"{name}-{label}-{seed}", compute, config=before.called)
            seeds[str(seed)] = stage["hypervolume"]
        medians = [statistics.median(each) for each in zip(*seeds.values(), strict=True)]
        found[name] = {"seeds": seeds, "medians": medians}
        print(label, name, *(f"{value:.4f}" for value in medians), file=sys.stderr)
    return {"config": before.called, "evaluations": list(before.evaluations), "problems": found}


def _stage(folder: Path, name: str, before: Before, seed: int) -> dict[str, list[float]]:
    return {"hypervolume": hypervolumes(folder, name, before, seed)}


def circumstances() -> dict[str, Any]:
    """The machine, the versions and the commit of the code."""
    found = diagnose()
    here = Path(__file__).parent
    run = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
    return {
        "machine": f"{found.processor}, {found.cpus} CPUs, {found.memory_gib} GiB",
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("numpy", "scipy", "scikit-learn", "optuna")},
        "commit": run.stdout.strip(),
    }


def main() -> None:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--problems", type=Path, required=True, help="folder of problems.py and .npz files")
    flags.add_argument("--record", type=Path, default=RECORD, help="the file to write")
    options = flags.parse_args()
    harness = Harness(options)
    found: Mapping[str, Any] = {label: recorded(harness, options.problems, label) for label in BEFORE}
    write_json_atomic(options.record, {**circumstances(), "workers": 1, "seeds": list(SEEDS), **found})


if __name__ == "__main__":
    main()
