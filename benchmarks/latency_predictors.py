"""Compare latency predicted from a profile with measured latency, for held-out sub-networks.

One model per run, in each installed runtime, with one thread and batch 1: MiniLM's sizes at 128 tokens, a ViT of 12
blocks with hidden size 192, or a ResNet-50 at 224 pixels, all with random weights. In each runtime:

1. profile 100 sub-networks as `nas profile` does (for MiniLM also 200);
2. measure 60 held-out candidates drawn by `Space.sample`, the smallest and the largest;
3. measure each choice alone, for the predictor that adds parts;
4. measure the held-out candidates again. The mean of both measurements is the truth, their median difference the noise,
   and their rank correlation `tau_repeat`, the best that a predictor can reach;
5. search for many parameters and low predicted latency, and measure the front.

Latencies are ratios to the full network measured beside each candidate, of CPU times (`rows_protocol`), which equal
wall times on an idle machine. `wall_mape` compares with ratios of wall times.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from harness import Figures, Harness, parser
from latency_figures import Measured, alone, compared, named, targets, twice
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from hardware.profile import DeviceProfile, ProfileRow, parse_profile, read_profile
from hardware.registry import NAMES, runtime_kind
from nas import Objective, nsga2
from nas.networks.untrained import made_inputs
from nas.profiling.agreement import agreements
from nas.profiling.bench import RATIO_TOLERANCE, Bench
from nas.profiling.collection import Effort, begin, grow
from nas.profiling.device_latency import latency_of
from nas.profiling.objective import latency_objective, predicted_latency
from nas.profiling.rows import learned_rows
from nas.profiling.subject import Subject
from nas.profiling.verification import Remeasuring, verify
from nas.seeds import generator
from predictors import mape
from search_spaces import Candidate, Space, Supernet, exact_costs, space, spread
from search_spaces.arrays import FloatArray, IntArray

SEED, TOKENS, FRONT = 0, 128, 24
_SHARES = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Model:
    """A network with random weights, its space, and the numbers of sub-networks to profile."""

    make: Callable[[], nn.Module]
    ranges: Mapping[str, Sequence[int | float]]
    counts: tuple[int, ...] = (50, 100)


def _bert() -> nn.Module:
    sizes = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    return BertForSequenceClassification(BertConfig(**sizes))


def _vit() -> nn.Module:
    sizes = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
    return ViTForImageClassification(ViTConfig(**sizes, num_labels=1000))


def _resnet() -> nn.Module:
    return ResNetForImageClassification(ResNetConfig(num_labels=1000))


MODELS = {
    "minilm": Model(_bert, {"depth": (4, 5, 6), "heads": _SHARES, "ffn": _SHARES}, (50, 100, 200)),
    "vit": Model(_vit, {"depth": (6, 8, 10, 12), "heads": (1, 2, 3), "ffn": _SHARES}),
    "resnet50": Model(_resnet, {"channels": _SHARES}),
}


@dataclass(frozen=True)
class MeasurementCounts:
    """Numbers of candidates to measure; tests use smaller ones."""

    counts: tuple[int, ...]
    main: int = 100
    held: int = 60
    tolerance: float = RATIO_TOLERANCE
    front: int = FRONT
    searched: int = 400


def subject_of(model: str) -> Subject:
    made = MODELS[model].make().eval()
    supernet = Supernet(made, space(made, drop_order=spread, **MODELS[model].ranges)).eval()
    return Subject(model, supernet, made_inputs(made, 1, TOKENS), supernet.space)


class Device:
    """A runtime and its profile, which is stored in a file and resumed."""

    def __init__(self, subject: Subject, runtime: str, out: Path | None, sizes: MeasurementCounts) -> None:
        self.subject, self.sizes = subject, sizes
        self.bench = Bench.of(subject, subject.deployment(runtime, "float32", 1), sizes.tolerance)
        self._path = None if out is None else out / f"profile-{subject.name}-{runtime}.json"

    def begin(self) -> DeviceProfile:
        if self._path is not None and self._path.is_file():
            return read_profile(self._path)
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        return begin(self.bench)

    def profile(self, count: int) -> dict[str, Any]:
        """Make a profile of `count` sub-networks; returned as JSON values."""
        begun = self.begin()
        grown = grow(begun, self.subject, self.bench.measure, Effort(count), seed=SEED, path=self._path)
        return {"profile": grown.model_dump(mode="json")}

    def measured(self, candidates: Sequence[Candidate], profile: DeviceProfile) -> dict[str, Any]:
        """The profile with measurements of the given candidates only."""
        rows = [
            ProfileRow(candidate=dict(candidate), timing=self.bench.measure(candidate), order=order)
            for order, candidate in enumerate(candidates)
        ]
        return {"profile": profile.model_copy(update={"rows": tuple(rows)}).model_dump(mode="json")}

    def searched(self, profile: DeviceProfile, parameters: Callable[[IntArray], FloatArray]) -> Figures:
        """Agreement of predicted and measured latency on the front of a search that used predictions only."""
        whole = self.subject.supernet.space
        predicted = predicted_latency(profile, self.subject, whole)
        objectives = [
            Objective("parameters", "maximize", exact=parameters),
            latency_objective("latency_ms", predicted),
        ]

        def evaluate(candidates: Sequence[Candidate]) -> FloatArray:
            rows = whole.encode(candidates)
            return np.stack([parameters(rows), predicted(rows)], axis=1)

        study = nsga2(whole, evaluate, objectives, budget=self.sizes.searched, seed=SEED, chunk_size=50)
        front = study.front()
        few = [front[i] for i in np.unique(np.linspace(0, len(front) - 1, self.sizes.front).astype(int))]
        remeasuring = Remeasuring({"latency_ms": latency_of(self.bench, profile)})
        again = [verify(member, remeasuring) for member in few]
        found = agreements(few, objectives, again)["latency_ms"]
        measured = {"front_tau": found.kendall_tau, "front_mape": found.mape}
        known = {name: value for name, value in measured.items() if value is not None}
        return known | {"front_non_dominated": found.non_dominated / found.count}


def read(kept: Mapping[str, Any]) -> DeviceProfile:
    return parse_profile(json.dumps(kept["profile"]).encode())


def wall(profile: DeviceProfile, whole: Space) -> Measured:
    ratios = np.array([row.timing.ratio for row in profile.rows])
    return Measured(whole.encode([whole.candidate(row.candidate) for row in profile.rows]), ratios)


def own(profile: DeviceProfile, whole: Space) -> Measured:
    ratios = np.array([profile.ratio(row.timing) for row in profile.rows])
    return replace(wall(profile, whole), ratios=ratios)


@dataclass(frozen=True)
class Problem:
    """The parts that all runtimes share: the network, its exact costs, and the held-out candidates."""

    subject: Subject
    macs: Callable[[IntArray], FloatArray]
    parameters: Callable[[IntArray], FloatArray]
    held: list[Candidate]
    sizes: MeasurementCounts


def problem_of(model: str, sizes: MeasurementCounts) -> Problem:
    subject = subject_of(model)
    whole, rng = subject.supernet.space, generator(SEED, "held out")
    costs = exact_costs(subject.supernet, made_inputs(subject.supernet.model, 2, TOKENS))
    held = [*(whole.sample(rng) for _ in range(sizes.held)), whole.smallest(), whole.largest()]
    return Problem(subject, costs["macs"], costs["parameters"], held, sizes)


def run_runtime(harness: Harness, problem: Problem, runtime: str) -> tuple[Figures, float]:
    """Figures of one runtime, and the seconds that its profile of 100 sub-networks took."""
    subject, sizes = problem.subject, problem.sizes
    device, whole = Device(subject, runtime, harness.options.out, sizes), subject.supernet.space
    settings = {"seed": SEED, "tolerance": sizes.tolerance, "held": sizes.held}
    prefix = f"{subject.name}-{runtime}"
    main_count, most = max(count for count in sizes.counts if count <= sizes.main), max(sizes.counts)
    kept = harness.stage(f"{prefix}-profile-{main_count}", lambda: device.profile(main_count), **settings)
    profile = read(kept)
    held = read(harness.stage(f"{prefix}-held", lambda: device.measured(problem.held, profile), **settings))
    parts = read(harness.stage(f"{prefix}-alone", lambda: device.measured(alone(whole), profile), **settings))
    again = read(harness.stage(f"{prefix}-held-again", lambda: device.measured(problem.held, profile), **settings))
    larger = profile
    if most > main_count:
        larger = read(harness.stage(f"{prefix}-profile-{most}", lambda: device.profile(most), **settings))
    truth, repeated = twice(own(held, whole), own(again, whole))
    figures = Figures({f"{name}_{subject.name}_{runtime}": value for name, value in repeated.items()})
    for count in sizes.counts:
        source = profile if count <= main_count else larger
        profiled = Measured(*learned_rows(source, whole)).first(count)
        found = compared(subject, profiled, own(parts, whole), truth, problem.macs)
        label = "" if count == main_count else f"_{count}"
        figures |= named(subject.name, runtime, found, label)
    predicted, (by_wall, _) = predicted_latency(profile, subject, whole), twice(wall(held, whole), wall(again, whole))
    figures[f"wall_mape_{subject.name}_{runtime}"] = mape(by_wall.ratios, predicted(by_wall.rows) / profile.full_ms)
    front = harness.stage(f"{prefix}-front", lambda: device.searched(profile, problem.parameters), **settings)
    figures |= {f"{name}_{subject.name}_{runtime}": value for name, value in front.items()}
    return figures, sum(row.seconds for row in profile.rows)


def run_model(harness: Harness, model: str, runtimes: Sequence[str], sizes: MeasurementCounts) -> Figures:
    problem = problem_of(model, sizes)
    found = [run_runtime(harness, problem, runtime) for runtime in runtimes]
    figures = {name: value for each, _ in found for name, value in each.items()}
    return figures | {"profile_seconds": max(seconds for _, seconds in found)}


def installed(runtimes: Sequence[str]) -> list[str]:
    found = [runtime for runtime in runtimes if find_spec(runtime_kind(runtime).library) is not None]
    for runtime in runtimes:
        if runtime not in found:
            print(f"{runtime} is not installed: it has no figures", file=sys.stderr)
    return found


def options() -> argparse.Namespace:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--model", choices=tuple(MODELS), default="minilm", help="whose sub-networks are measured")
    flags.add_argument("--runtimes", nargs="+", choices=NAMES, default=NAMES, help="these alone")
    flags.add_argument("--small", action="store_true", help="a tenth of the measurements, to see that it runs")
    return flags.parse_args()


def main() -> None:
    flags = options()
    runtimes = installed(flags.runtimes)
    sizes = MeasurementCounts(MODELS[flags.model].counts)
    if flags.small:
        sizes = MeasurementCounts((10, 24), held=10, tolerance=0.2, front=6, searched=60)
    harness = Harness(flags)
    figures = run_model(harness, flags.model, runtimes, sizes)
    harness.report(figures, targets(flags.model, runtimes), [SEED])


if __name__ == "__main__":
    main()
