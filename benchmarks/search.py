"""Sample efficiency of the searches on tabulated problems: normalised hypervolume after each number of evaluations.

`--problems FOLDER` holds problems.py with its .npz files, and baselines.csv with recorded curves of other programs. The
runs are:

- `linas`, `nsga2` and `random_search`: medians of 5 seeds;
- LINAS as published: to 500 evaluations, 3 seeds, with the reduced settings of the recorded run (5,000 inner
  evaluations, a coarser grid that is searched on 250 rows), or its own settings with `--full`;
- `linas` on harder variants: to 500 evaluations, 3 seeds, with options shuffled and declared unordered (`shuffled_`),
  with noise of standard deviation 0.3 on the first objective (`noisy_`; the hypervolume is of the true values), or with
  a random landscape added to it (`rugged_`; compared with `nsga2` there, as there is no known front).

All searches here have one worker, and so a lag of 1. `before.json` (`search_before.py`) holds what two earlier settings
reach, for `few_gap` and `late_gap`. Times are of one thread. `search_workers.py` runs last.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from harness import Figures, Harness, parser
from search_before import RECORD
from search_peers import PEERS
from search_problems import Peers, Problem, Variant, names
from search_workers import worker_efficiency

from nas import LinasConfig, linas, nsga2, random_search
from nas.searching.evaluation import Results
from nas.searching.features import contrast_features
from nas.searching.linas import Round, inner_search
from nas.searching.measurement import violations
from nas.searching.surrogate import Surrogate
from predictors import Chooser, Predictor, Ridge, Svr
from search_spaces import Candidate
from search_spaces.arrays import FloatArray

SEEDS, FEW_SEEDS, STEP = range(5), range(3), 5
BUDGETS = (50, 100, 250, 500, 1000)
SHOWN = (30, 50, 75, 100, 250, 500, 1000)
COMPARED = {"few": (30, 50, 75, 100), "late": (250, 500, 1000)}
PLAIN, SHUFFLED, NOISY, RUGGED = Variant(), Variant(shuffled=True), Variant(noise=0.3), Variant(rugged=0.7)
VARIANTS = {"": PLAIN, "shuffled_": SHUFFLED, "noisy_": NOISY, "rugged_": RUGGED}
SMALL = "macro_cifar10"
TARGETS = {
    "evaluations_ratio_nsga2": "at most 0.1",
    "evaluations_ratio_linas": "at most 0.3",
    "macro_gap_400": "at most 0.001",
    "worst_gap_to_nsga2": "at most 0.005",
    "overhead_ms": "below 20",
    "inner_per_second": "at least 1e5",
    "worker_efficiency_8": "at least 0.9",
    "few_gap": "at most 0",
    "late_gap": "at most 0.002",
    "variants_minus_published": "above 0",
    "rugged_minus_nsga2": "above 0",
}
# Ours, and the recorded run that it is to reproduce.
TWINS = {"published": "linas-dynast", "nsga2": "pymoo-nsga2-categorical"}


def cut_predictor(groups: tuple[int, ...], before: Predictor | None) -> Predictor:
    """The published predictor with a coarser grid, searched on 250 rows."""
    ridges = [Ridge(alpha) for alpha in (0.1, 1.0, 10.0)]
    vectors = [Svr(cost, standardize=False) for cost in (1.0, 10.0, 100.0)]
    return Chooser((*ridges, *vectors), relative=True, decimal=True, most_rows=250)


def ridge_predictor(groups: tuple[int, ...], before: Predictor | None) -> Predictor:
    return Ridge()


@dataclass(frozen=True)
class Run:
    """One search: its problem, algorithm and budget."""

    problem: str
    algorithm: str
    budget: int
    seeds: range
    variant: str = ""

    @property
    def name(self) -> str:
        return f"{self.variant}{self.problem}-{self.algorithm}"


def plan(problems: Sequence[str]) -> list[Run]:
    """All searches to run, the longest first."""
    runs = [Run(problem, "published", 500, FEW_SEEDS) for problem in problems]
    runs += [Run(problem, "linas", 1000, SEEDS) for problem in problems]
    runs += [Run(problem, "linas", 500, FEW_SEEDS, variant) for variant in VARIANTS if variant for problem in problems]
    runs += [Run(problem, "nsga2", 500, FEW_SEEDS, "rugged_") for problem in problems]
    return runs + [Run(problem, name, 1000, SEEDS) for name in ("nsga2", "random") for problem in problems]


def plan_of_peers(problems: Sequence[str]) -> list[Run]:
    runs = [Run(problem, name, 2000, SEEDS) for name in PEERS if "nsga2" in name for problem in problems]
    return runs + [Run(problem, "optuna-tpe", 500, FEW_SEEDS) for problem in problems]


def search_once(folder: Path, run: Run, seed: int, full: bool) -> dict[str, Any]:
    """Run a search with one seed.

    Returns:
        The hypervolume, and the seconds of the optimiser (all but `evaluate`), after every `STEP` results.
    """
    problem = Problem(folder, run.problem, VARIANTS[run.variant], seed)
    if run.algorithm in PEERS:
        return {"curve": problem.curve(PEERS[run.algorithm](problem, run.budget, seed), STEP), "clock": []}
    inside, clock = [0.0], []
    began = time.perf_counter()

    def evaluate(candidates: Sequence[Candidate]) -> FloatArray:
        start = time.perf_counter()
        values = problem.evaluate(candidates)
        inside[0] += time.perf_counter() - start
        return values

    def mark(_: object, count: int) -> None:
        if count % STEP == 0:
            clock.append(time.perf_counter() - began - inside[0])

    with tempfile.TemporaryDirectory() as scratch:
        settings = {"budget": run.budget, "seed": seed, "on_result": mark, "storage": Path(scratch) / "study.journal"}
        ours = (problem.space, evaluate, problem.objectives)
        if run.algorithm == "nsga2":
            study = nsga2(*ours, **settings)
        elif run.algorithm == "random":
            study = random_search(*ours, **settings)
        else:
            config = LinasConfig() if run.algorithm == "linas" else LinasConfig.published()
            if run.algorithm == "published" and not full:
                config = replace(config, inner_generations=100, predictor=cut_predictor)
            study = linas(*ours, config=config, **settings)
    return {"curve": problem.curve([m.candidate for m in study.measurements], STEP), "clock": clock}


def inner_speed(folder: Path, name: str) -> Figures:
    """Candidates per second of the inner search with 250 measurements, with ridge and with the default predictor."""
    problem = Problem(folder, name, PLAIN, 0)
    rng = np.random.default_rng(0)
    rows = problem.space.random(250, rng)
    values = problem.values(rows)
    data = Results(rows, values, violations(values, problem.objectives))
    found = {}
    for label, make in (("ridge", ridge_predictor), ("default", LinasConfig().predictor)):
        surrogate = Surrogate(problem.objectives, contrast_features(problem.space), make)
        surrogate.fit(data)
        now = Round(problem.space, problem.objectives, LinasConfig(), data, surrogate, rows[:0], rows[:0])
        rates = []
        for _ in range(5):
            start = time.perf_counter()
            pool, _ = inner_search(now, rng)
            rates.append(len(pool) / (time.perf_counter() - start))
        found[label] = statistics.median(rates)
    return found


def inner(harness: Harness, problems: Sequence[str], folder: Path) -> Figures:
    """Speed of the inner search on the slowest problem, with nothing else running."""
    with ProcessPoolExecutor(1, get_context("spawn")) as worker:
        found = [
            harness.stage(f"{name}-inner", lambda name=name: worker.submit(inner_speed, folder, name).result())
            for name in problems
        ]
    return {
        "inner_per_second": min(speed["ridge"] for speed in found),
        "inner_per_second_default": min(speed["default"] for speed in found),
    }


def measured(harness: Harness, runs: Sequence[Run], folder: Path, processes: int) -> dict[Run, list[dict[str, Any]]]:
    """Run all searches; each seed is a separate stage in a separate process."""
    full = bool(harness.options.full)
    with ProcessPoolExecutor(processes, get_context("spawn")) as workers, ThreadPoolExecutor(processes) as waiting:

        def stage(run: Run, seed: int) -> dict[str, Any]:
            def compute() -> Mapping[str, Any]:
                return workers.submit(search_once, folder, run, seed, full).result()

            settings = {"budget": run.budget, "full": int(full and run.algorithm == "published")}
            return harness.stage(f"{run.name}-{seed}", compute, **settings)

        waited: dict[Run, list[Future[dict[str, Any]]]] = {
            run: [waiting.submit(stage, run, seed) for seed in run.seeds] for run in runs
        }
        return {run: [each.result() for each in found] for run, found in waited.items()}


def median_curve(results: Sequence[Mapping[str, Any]]) -> list[float]:
    """Median over seeds after every `STEP` evaluations; a search that has ended counts with its last value."""
    length = max(len(result["curve"]) for result in results)
    curves = [result["curve"] + result["curve"][-1:] * (length - len(result["curve"])) for result in results]
    return [float(value) for value in np.median(curves, axis=0)]


def first_at(curve: Sequence[float], level: float, budget: int) -> int:
    """Number of evaluations after which a curve first exceeds a level; the budget if it never does."""
    return next((STEP * (i + 1) for i, value in enumerate(curve) if value >= level), budget)


def figures(problems: Sequence[str], curves: Mapping[str, list[float]], peers: Peers) -> Figures:
    """Figures from the curves (by the name of the run), compared with the peers, and the curves at some budgets."""
    found: Figures = {}
    ratios: dict[str, list[float]] = {"nsga2": [], "linas": []}
    gaps = []
    for problem in problems:
        ours = curves[f"{problem}-linas"]
        gaps += [peers.best_nsga2(problem, n) - ours[n // STEP - 1] for n in BUDGETS]
        if problem == SMALL:
            found["macro_gap_400"] = peers.best_nsga2(problem, 2000) - ours[400 // STEP - 1]
            continue
        for peer, level, over in (
            ("nsga2", peers.best_nsga2(problem, 2000), 2000),
            ("linas", peers.linas(problem, 250), 250),
        ):
            reached = first_at(ours, level, BUDGETS[-1])
            found[f"{problem}_ratio_{peer}"] = reached / over
            found[f"{problem}_reached_{peer}"] = float(max(ours) >= level)
            ratios[peer].append(reached / over)
    found |= {f"evaluations_ratio_{peer}": max(values) for peer, values in ratios.items() if values}
    found["worst_gap_to_nsga2"] = max(gaps)
    for name, curve in curves.items():
        found |= {f"{name.replace('-', '_')}_{n}": curve[n // STEP - 1] for n in SHOWN if n <= STEP * len(curve)}
    return found


def behind(results: Mapping[Run, list[dict[str, Any]]], record: Mapping[str, Any]) -> Figures:
    """`few_gap` and `late_gap`: the largest shortfall of our medians against the recorded ones, over the same seeds."""
    found: Figures = {}
    for label, counts in COMPARED.items():
        then = record[label]
        gaps = []
        for run, seeds in results.items():
            if run.algorithm != "linas" or run.variant or run.problem not in then["problems"]:
                continue
            curve = median_curve([seeds[seed] for seed in record["seeds"]])
            for count in counts:
                before = then["problems"][run.problem]["medians"][then["evaluations"].index(count)]
                gaps.append(before - curve[min(count // STEP, len(curve)) - 1])
        if gaps:
            found[f"{label}_gap"] = max(gaps)
    return found


def variants(problems: Sequence[str], curves: Mapping[str, list[float]]) -> Figures:
    """Smallest lead of `linas` on the harder variants.

    The lead is over published LINAS on the plain problem, or on rugged variants over NSGA-II on the same one.
    """
    gaps: dict[str, list[float]] = {"variants_minus_published": [], "rugged_minus_nsga2": []}
    for variant in filter(None, VARIANTS):
        for problem in problems:
            rugged = variant == "rugged_"
            other = curves[f"{variant}{problem}-nsga2" if rugged else f"{problem}-published"]
            ours = curves[f"{variant}{problem}-linas"]
            ahead = [ours[n // STEP - 1] - other[n // STEP - 1] for n in BUDGETS if n <= 500]
            gaps["rugged_minus_nsga2" if rugged else "variants_minus_published"] += ahead
    return {name: min(values) for name, values in gaps.items()}


def agreement(results: Mapping[Run, list[dict[str, Any]]], peers: Peers) -> Figures:
    """Compare runs with the recorded runs of the same algorithm over problems and budgets.

    `_within` is the share of cases in which the ranges of the seeds overlap; `_least` and `_most` are the extremes of
    the difference between the two medians.
    """
    found: Figures = {}
    for ours, twin in TWINS.items():
        gaps, within = [], []
        for run, seeds in results.items():
            known = [n for n in BUDGETS if n <= run.budget and (run.problem, twin, n) in peers.recorded]
            for n in known if run.algorithm == ours and not run.variant else ():
                theirs = peers.recorded[run.problem, twin, n]
                values = [seed["curve"][min(n // STEP, len(seed["curve"])) - 1] for seed in seeds]
                gaps.append(statistics.median(values) - statistics.median(theirs))
                within.append(max(min(values), min(theirs)) <= min(max(values), max(theirs)))
        if gaps:
            found |= {f"{ours}_within": statistics.mean(within), f"{ours}_least": min(gaps), f"{ours}_most": max(gaps)}
    return found


def overhead(results: Mapping[Run, list[dict[str, Any]]]) -> Figures:
    """Milliseconds of the optimiser per candidate at 400 and 1,000 measurements: median of seeds, worst problem.

    Averaged over the 100 candidates before, so that growth with the number of measurements shows. `overhead_ms_100` has
    the first 100, whose batches are the smallest.
    """
    found: Figures = {}
    for at in (100, 400, 1000):
        worst = 0.0
        for run, seeds in results.items():
            clocks = [result["clock"] for result in seeds if len(result["clock"]) >= at // STEP]
            if run.algorithm == "linas" and clocks:
                spent = [clock[at // STEP - 1] - (clock[(at - 100) // STEP - 1] if at > 100 else 0) for clock in clocks]
                worst = max(worst, 10 * statistics.median(spent))
        found[f"overhead_ms_{at}"] = worst
    return {**found, "overhead_ms": max(found["overhead_ms_400"], found["overhead_ms_1000"])}


def tell(problems: Sequence[str], runs: Sequence[Run], curves: Mapping[str, list[float]], peers: Peers) -> None:
    """Print tables of the runs with the recorded values in brackets."""
    print(f"{'':<16} {'':<26}" + "".join(f"{n:>8}" for n in SHOWN), file=sys.stderr)
    for problem in problems:
        rows = [
            (run.variant + run.algorithm, {n: curves[run.name][n // STEP - 1] for n in SHOWN if n <= run.budget})
            for run in runs
            if run.problem == problem
        ]
        for peer in sorted({algorithm for name, algorithm, _ in peers.medians if name == problem}):
            known = {n: peers.medians[problem, peer, n] for n in SHOWN if (problem, peer, n) in peers.medians}
            rows.append((f"({peer})", known))
        for label, values in rows:
            cells = (f"{values[n]:8.4f}" if n in values else f"{'':8}" for n in SHOWN)
            print(f"{problem:<16} {label:<26}" + "".join(cells), file=sys.stderr)


def main() -> None:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--problems", type=Path, required=True, help="folder of problems.py, .npz files, baselines.csv")
    flags.add_argument("--only", nargs="+", help="these problems alone; the figures are then theirs")
    flags.add_argument("--rerun-peers", action="store_true", help="run pymoo and Optuna again, beside what is recorded")
    flags.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1), help="seeds that run at a time")
    options = flags.parse_args()
    # Set before the workers start: the figures are of one thread each.
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    harness = Harness(options)
    problems = [name for name in names(options.problems) if not options.only or name in options.only]
    peers = Peers.read(options.problems / "baselines.csv")
    runs = plan(problems) + (plan_of_peers(problems) if options.rerun_peers else [])
    results = measured(harness, runs, options.problems, options.processes)
    curves = {run.name: median_curve(seeds) for run, seeds in results.items()}
    found = figures(problems, curves, peers) | variants(problems, curves) | agreement(results, peers)
    found |= behind(results, json.loads(RECORD.read_text(encoding="utf-8")))
    found |= overhead(results) | inner(harness, problems, options.problems)
    found |= harness.stage("workers", worker_efficiency)
    tell(problems, runs, curves, peers)
    harness.report(found, TARGETS, list(SEEDS))


if __name__ == "__main__":
    main()
