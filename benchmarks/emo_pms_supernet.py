"""The super-network of InstaTune in the time of a search by EMO-PMS: planned, fine-tuned and searched."""

import copy
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from emo_pms_picks import Clock, kept, names
from emo_pms_problem import COST, EXAMPLE, SHARES, Problem, error
from instatune_image import CONFIGS, RESNET

from nas import InstaTuneConfig, instatune, search
from nas.errors import NoFeasible
from nas.files import write_json_atomic
from nas.learning.importance import ImportanceConfig, order_by_importance
from nas.networks.recalibration import SubNetworks
from search_spaces import Supernet, space

TRAINED = 0.75
"""Share of the time that is for the fine-tuning; the rest is for the search."""
# Blocks and stages stay, as in all rows. 0.25 is added so that a network of 60 % fewer multiply-accumulates can differ.
RANGES = {**RESNET, "channels": (0.25, *RESNET["channels"])}
_TIMED = 3


def supernet_row(row: str, problem: Problem, folder: Path, seconds: float) -> dict[str, Any]:
    """The picks of InstaTune and a search with LINAS as JSON data, for about so many seconds."""
    clock = Clock(folder / "clock.json")
    supernet = Supernet(copy.deepcopy(problem.original), space(problem.original, EXAMPLE, **RANGES))
    train, scored = problem.splits["train"], problem.ranked
    order_by_importance(supernet, problem.train, ImportanceConfig(warmup_steps=0, batch_size=64, seed=problem.seed))
    config = replace(CONFIGS["resnet"], augment=True, distillation="high-cost", seed=problem.seed)
    path = folder / "plan.json"
    if not path.is_file():
        write_json_atomic(path, _plan(supernet, problem, config, seconds, clock))
    plan = json.loads(path.read_text())
    instatune(
        supernet,
        train,
        replace(config, steps=plan["steps"]),
        teacher=copy.deepcopy(problem.original),
        checkpoint=folder / "checkpoint",
        on_step=lambda _: _tick(clock),
    )
    supernet.eval()
    study = search(
        supernet,
        supernet.space,
        scored,
        ["accuracy", COST],
        budget=plan["evaluations"],
        seed=problem.seed,
        example_inputs=EXAMPLE,
        calibration=problem.train,
        estimate=False,
        storage=folder / "study.journal",
        on_result=lambda *_: _tick(clock),
    )
    whole = float(problem.costs[COST](problem.space.encode([problem.space.full()]))[0])
    sub_networks, networks = SubNetworks(supernet, problem.train), {}
    for share, name in names(row, SHARES).items():
        with suppress(NoFeasible):
            networks[name] = sub_networks.extract(study.select(max_macs=(1 - share) * whole).candidate)
    picks = kept(networks, problem, folder / "picks")
    spent = clock.keep()
    untrained = [error(network, problem.searched) for network in networks.values()]
    return {"picks": picks, "seconds": spent, "untrained": untrained, **plan}


def _tick(clock: Clock) -> None:
    clock.keep()


def _plan(
    supernet: Supernet, problem: Problem, config: InstaTuneConfig, seconds: float, clock: Clock
) -> dict[str, int]:
    """How many steps and evaluations fill the time, by how long a few of them take."""
    trial = Supernet(copy.deepcopy(supernet.model), supernet.space)
    times: list[float] = []
    teacher = copy.deepcopy(problem.original)
    instatune(
        trial,
        problem.splits["train"],
        replace(config, steps=_TIMED),
        teacher=teacher,
        on_step=lambda step: times.append(step.seconds),
    )
    candidate = trial.space.candidate({choice.name: choice.options[1] for choice in trial.space.choices})
    trial.eval()

    def evaluate() -> float:
        return error(SubNetworks(trial, problem.train).extract(candidate), problem.ranked)

    left = max(0.0, seconds - clock.keep())
    steps = max(1, round(TRAINED * left / min(times)))
    evaluations = max(3, round((1 - TRAINED) * left / _spent(evaluate)))
    return {"steps": steps, "evaluations": evaluations}


def _spent(work: Callable[[], object]) -> float:
    began = time.monotonic()
    with torch.no_grad():
        work()
    return time.monotonic() - began
