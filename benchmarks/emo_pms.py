"""EMO-PMS on ResNet-56 and CIFAR-10, beside what else finds small networks: errors, multiply-accumulates and times.

`--weights FILE` is the original: a ResNet for CIFAR of any depth (`cifar10_resnet56.safetensors`). `--data FOLDER` has
cifar10_test.parquet and cifar10_train20k.parquet; the test images are divided into validation and test rows, because
the original was trained on all training images. The rows:

- `ours`: EMO-PMS. Every sub-network has the same number of trained forms, each trained for one epoch of the same
  images; the detectors, trained once, have four times as many;
- `whole`: NSGA-II over whole networks, as many as all forms of ours together, with the same epochs, images, loss, order
  of channels and evolution. The loss holds a whole network to the original's logits, as it holds a form to the
  original's features: without that, a whole network was 5 points worse in a trial. `whole-time`: the beginning of that
  search, up to the time that the search of ours took;
- `unconstrained`: ours without holding forms to the original's features;
- `torch-pruning`: magnitude and Taylor importance, local and global, pruned to the multiply-accumulates of the networks
  of ours; of the four the one that is best on validation rows after its batch-norm statistics are measured anew;
- `random`: random numbers of channels, with the same multiply-accumulates, and the most important channels;
- `instatune`: a super-network of InstaTune, and a search of it by LINAS, in the time of the search of ours. It has all
  training images;
- `random-inheritance`, with `--inheritance`: ours with forms that begin with random channels, as in the paper; it is
  searched only.

A row has at most three networks: those that save at least 40, 50 and 60 % of the original's multiply-accumulates. For
EMO-PMS it is the first along its ranking, for `whole` likewise, which is the best of its front; for `instatune` the
best that the search measured. All of them get the same last training: the same images, epochs, optimizer, rate and
distillation from the original. Then the test rows are read, once. All choices before go by validation rows.

Times are wall times. That of a row has everything: for ours the division, features, detectors, searches and ranking,
and then the last trainings of its networks, which `time_over_whole` has too. An interrupted row goes on counting where
it goes on. Torch-Pruning and random channels search nothing and so take little time: they are compared at equal last
training, not at equal time.

Figures: hypervolumes are those of `emo_pms_figures.volume`; one that would be divided by zero is left out.
`error_gain_50` and `_60` are the error of the best network of Torch-Pruning that saves so much, less that of the best
of ours, in points, with a paired 95 % interval; best by validation rows. `ranking_tau` says how well the ranking orders
the errors of all networks along it, without a last training, and `ranking_tau_unconstrained` the same of that row.
`inheritance_gain` is how many points the networks of `random-inheritance` have wrong more than ours, before any last
training, on validation rows. With several seeds, gains are over the test rows of all, and the others are means.
"""

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from emo_pms_figures import (
    OURS,
    PEERS,
    TARGETS,
    UNCONSTRAINED,
    WHOLE,
    WHOLE_TIME,
    gain_figures,
    means,
    table,
    tau_figures,
    volume_figures,
)
from emo_pms_peers import random_row, torch_pruning_row
from emo_pms_picks import Network, Pick, scored, trained
from emo_pms_problem import COST, FULL, SMALL, Problem, Sizes, digest, load_problem
from emo_pms_searches import by_parts, whole_networks
from emo_pms_supernet import supernet_row
from harness import Figures, Harness, parser

RANDOM_INHERITANCE = "random-inheritance"
Found = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Stages:
    """The stages of one seed, kept by the harness.

    Args:
        harness: keeps them.
        name: with which their names begin.
        settings: what all of them depend on.
    """

    harness: Harness
    name: str
    settings: Mapping[str, Any]

    def __call__(self, name: str, compute: Callable[[], Found], **settings: float | str) -> Found:
        """Run a stage, or read what is kept of it."""
        return self.harness.stage(f"{self.name}-{name}", compute, **self.settings, **settings)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """All that was found with one seed.

    Args:
        original: as a network of its own.
        rows: the networks of each row.
        found: what the stage of each row returned.
    """

    original: Network
    rows: Mapping[str, list[Network]]
    found: Mapping[str, Found]

    def seconds(self, row: str) -> float:
        """The time of a row, with the last training of its networks."""
        return float(self.found[row]["seconds"]) + sum(each.seconds for each in self.rows.get(row, ()))

    def figures(self) -> Figures:
        """The figures of this seed but the gains."""
        errors = {
            "ranking_tau": self.found[OURS]["errors"],
            "ranking_tau_unconstrained": self.found[UNCONSTRAINED]["errors"],
        }
        time = {"time_over_whole": self.seconds(OURS) / self.seconds(WHOLE)}
        return volume_figures(self.rows, self.original) | time | tau_figures(errors) | self._inheritance()

    def _inheritance(self) -> Figures:
        ours, other = (self.found.get(row, {}).get("untrained", []) for row in (OURS, RANDOM_INHERITANCE))
        if not ours or len(ours) != len(other):
            return {}
        return {"inheritance_gain": 100 * float(np.mean(other) - np.mean(ours))}

    def notes(self) -> dict[str, str]:
        """A word on each row for the table."""
        told = {row: f"{each['evaluations']} evaluations" for row, each in self.found.items() if "evaluations" in each}
        for row, each in self.found.items():
            if "steps" in each:
                told[row] += f", {each['steps']} steps"
            if each.get("failed"):
                told[row] += f", {each['failed']} failed"
        return told


def run_seed(stages: Stages, problem: Problem, folder: Path, inheritance: bool) -> Outcome:
    """Run all rows, or read what is kept of them; `random-inheritance` where it is asked for."""
    found: dict[str, Found] = {}
    # Both are remembered; the rows shall not count them among their own time.
    assert problem.parts and problem.costs

    def search(row: str, **settings: Any) -> None:
        found[row] = stages(row, partial(by_parts, row, problem, folder / row, problem.config(**settings)))

    search(OURS)
    search(UNCONSTRAINED, constrained=False)
    ours = found[OURS]
    whole = partial(whole_networks, problem=problem, folder=folder / WHOLE, evaluations=ours["evaluations"])
    found[WHOLE_TIME] = stages(WHOLE_TIME, partial(whole, WHOLE_TIME, until=ours["seconds"]), until=ours["seconds"])
    found[WHOLE] = stages(WHOLE, partial(whole, WHOLE))
    targets = {share_of(each["name"]): problem.saved(channels(each, problem)) for each in ours["picks"]}
    of = str(sorted(targets.items()))
    found[PEERS] = stages(PEERS, partial(torch_pruning_row, PEERS, problem, folder / PEERS, targets), of=of)
    found["random"] = stages("random", partial(random_row, "random", problem, folder / "random", targets), of=of)
    name, seconds = "instatune", ours["seconds"]
    found[name] = stages(name, partial(supernet_row, name, problem, folder / name, seconds), seconds=seconds)
    rows = {
        row: [
            Network.from_json(stages(f"trained-{pick.name}", partial(trained, pick, problem)))
            for pick in (Pick(**each) for each in found[row]["picks"])
        ]
        for row in (OURS, WHOLE, WHOLE_TIME, UNCONSTRAINED, PEERS, "random", name)
    }
    if inheritance:
        search(RANDOM_INHERITANCE, inheritance="random")
    original = Network.from_json(stages("original", partial(scored, "original", problem.original, problem)))
    return Outcome(original, rows, found)


def share_of(name: str) -> float:
    """The share that the network of a name is to save."""
    return int(name.rpartition("-")[2]) / 100


def channels(pick: Mapping[str, Any], problem: Problem) -> Any:
    """The candidate of a pick in JSON."""
    return problem.space.candidate(dict(pick["channels"]))


def untrained_text(outcome: Outcome) -> str:
    """Errors before any last training, in % of validation rows."""
    lines = ["Errors without a last training, validation rows, %:"]
    for row, each in outcome.found.items():
        for key in ("untrained", "untrained_combined"):
            if key in each:
                lines.append(f"  {row}, {key}: {_percent(each[key])}")
    for row in (OURS, UNCONSTRAINED):
        pairs = zip(outcome.found[row]["saved"], outcome.found[row]["errors"], strict=True)
        along = ", ".join(f"{100 * saved:.0f}: {100 * error:.1f}" for saved, error in pairs)
        lines.append(f"  {row}, along its ranking, by % of {COST} saved: {along}")
    return "\n".join(lines)


def _percent(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _percent(each) for key, each in value.items()}
    return [round(100 * each, 2) for each in value] if isinstance(value, list) else round(100 * value, 2)


def report(harness: Harness, outcomes: list[Outcome], seeds: range) -> None:
    """The tables, and the figures with their targets."""
    to = sys.stderr if harness.options.json else sys.stdout
    for seed, each in zip(seeds, outcomes, strict=True):
        times = {row: each.seconds(row) for row in each.found}
        print(f"seed {seed}\n{table(each.rows, each.original, times, each.notes())}\n{untrained_text(each)}\n", file=to)
    figures = means([each.figures() for each in outcomes]) | gain_figures([each.rows for each in outcomes])
    for name in TARGETS:
        if name not in figures:
            print(f"{name} is left out: a row that it is of has no network for it, or no hypervolume", file=to)
    harness.report(figures, TARGETS, list(seeds))


def main() -> None:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--data", type=Path, required=True, help="folder of the cifar10_* files")
    flags.add_argument("--weights", type=Path, required=True, help="the original, e.g. cifar10_resnet56.safetensors")
    flags.add_argument("--small", action="store_true", help="a tenth of the measurements, to see that it runs")
    flags.add_argument("--seeds", type=int, default=1, help="how many times everything is done")
    flags.add_argument("--inheritance", action="store_true", help="random channels as first ones too, as in the paper")
    flags.add_argument("--threads", type=int, default=2, help="of torch")
    options: argparse.Namespace = flags.parse_args()
    torch.set_num_threads(options.threads)
    form = "-full" if options.full else "-small" if options.small else ""
    sizes = {"-full": FULL, "-small": SMALL, "": Sizes()}[form]
    harness, outcomes, seeds = Harness(options), [], range(options.seeds)
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) if options.out is None else options.out.resolve()
        for seed in seeds:
            problem = load_problem(options.data, options.weights, sizes, seed)
            name = f"emo_pms{form}-{digest(options.weights)[:6]}-seed{seed}"
            stages = Stages(harness, name, dataclasses.asdict(sizes) | {"weights": digest(options.weights)})
            outcomes.append(run_seed(stages, problem, out / name, options.inheritance))
    report(harness, outcomes, seeds)


if __name__ == "__main__":
    main()
