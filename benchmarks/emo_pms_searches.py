"""The searches of the EMO-PMS benchmark: of each sub-network by itself, and of whole networks.

Whole networks are searched by the same system: they are a partition of one part, whose features are its logits. So they
have the same evolution, training, loss and order of channels, and nothing but the division differs.
"""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from emo_pms_picks import Clock, kept, names
from emo_pms_problem import COST, EXAMPLE, SHARES, Problem, error
from torch import nn

from nas.pruning.config import EmoPmsConfig
from nas.pruning.emo_pms import Pruned, emo_pms
from nas.pruning.impairment import Scheme
from nas.pruning.stages import Stages
from nas.searching.measurement import Measurement
from nas.searching.nsga2 import Nsga2Config
from nas.searching.study import load_study
from search_spaces.pruning import Partition, SubNetwork, partition

WHOLE = "whole"


class TimeUp(Exception):
    """A search has had the time that it is given."""


def by_parts(row: str, problem: Problem, folder: Path, config: EmoPmsConfig) -> dict[str, Any]:
    """A row of EMO-PMS as JSON data: its time, its picks, and the errors of the networks along its ranking."""
    clock = Clock(folder / "clock.json")
    config = replace(config, form_rows=problem.sizes.images)
    pruned = emo_pms(
        problem.original, problem.detector_rows, problem.searched, folder, config, on_result=lambda *_: _tick(clock)
    )
    schemes = _schemes(pruned)
    found = _found(row, pruned, schemes, problem, folder, clock)
    shutil.rmtree(folder / "features", ignore_errors=True)
    ranking = pruned.schemes()
    whole = pruned.cost(ranking[0], COST)
    combined = [pruned.best_within((1 - share) * whole, COST) for share in schemes]
    return found | {
        "saved": [pruned.rate(scheme, COST) for scheme in ranking],
        "errors": [error(pruned.network(scheme), problem.ranked) for scheme in ranking],
        "bases": {name: base.error for name, base in pruned.bases.items()},
        "untrained_combined": [error(pruned.network(scheme), problem.searched) for scheme in combined],
    }


def whole_networks(
    row: str, problem: Problem, folder: Path, evaluations: int, until: float = float("inf")
) -> dict[str, Any]:
    """A search of whole networks as JSON data, or its beginning; a longer one goes on in the same folder.

    Args:
        row: its name.
        problem: the original and its rows.
        folder: of all its stages.
        evaluations: networks that are trained.
        until: seconds after which it ends.
    """
    clock, journal = Clock(folder / "clock.json"), folder / "searches" / WHOLE / "study.journal"
    # Finding the channels of a network takes some seconds, which count once.
    parts = one_part(problem.parts if journal.is_file() else partition(problem.original, EXAMPLE))
    population = max(2, 3 * problem.sizes.population // 2)
    config = problem.config(budget=evaluations, nsga2=Nsga2Config(population=population, offspring=population))
    stages = Stages(folder, parts, problem.train, problem.searched, config)

    def watch(name: str, measurement: Measurement, number: int) -> None:
        if clock.keep() >= until:
            raise TimeUp

    with suppress(TimeUp):
        stages.searched(map, watch)
    studies = {WHOLE: load_study(journal)}
    pruned = Pruned(parts, stages.bases(), stages.forms(studies), {WHOLE: stages.files(WHOLE)}, problem.costs, studies)
    return _found(row, pruned, _schemes(pruned), problem, folder, clock)


def one_part(parts: Partition) -> Partition:
    """The whole network, from pixels to logits, as its only sub-network."""
    return Partition(parts.model, (SubNetwork(WHOLE, parts.model, parts.space),), nn.Identity())


def _tick(clock: Clock) -> None:
    clock.keep()


def _schemes(pruned: Pruned) -> dict[float, Scheme]:
    """By share the first scheme along the ranking that saves it; without the shares that none saves."""
    found: dict[float, Scheme] = {}
    for scheme in pruned.schemes():
        found |= {share: scheme for share in SHARES if share not in found and pruned.rate(scheme, COST) >= share}
    return found


def _found(
    row: str, pruned: Pruned, schemes: Mapping[float, Scheme], problem: Problem, folder: Path, clock: Clock
) -> dict[str, Any]:
    """The picks of a search, its time with them, and their errors without a last training."""
    networks = {name: pruned.network(schemes[share]) for share, name in names(row, schemes).items()}
    picks = kept(networks, problem, folder / "picks" / row)
    seconds = clock.keep()
    measured = [each for study in pruned.studies.values() for each in study.measurements]
    return {
        "picks": picks,
        "seconds": seconds,
        "evaluations": len(measured),
        "failed": sum(each.state == "failed" for each in measured),
        "untrained": [error(network, problem.searched) for network in networks.values()],
    }
