"""The search from random graphs, in networks of which the unseen one is none, and its best layer."""

import json
import statistics
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from evonorm_problem import Problem
from evonorm_rejection import training

from nas.evolving.config import EvoNormConfig
from nas.evolving.evonorm import EvolvedLayers, evonorm, rejections
from nas.evolving.rejection import RejectionConfig
from nas.searching.ageing import AgeingConfig
from nas.workers import Workers

LAG = 16
"""Layers take between milliseconds and a minute: with some proposals ahead, no process waits for the other."""


def search(problem: Problem, folder: Path, least_accuracy: float, processes: int) -> dict[str, Any]:
    """Evolve layers and train the best longer, as JSON data; what is done stands in `folder`.

    Args:
        problem: rows and networks.
        folder: of the study.
        least_accuracy: after the first hundred steps (0..1).
        processes: layers that are tried at a time.
    """
    # The first layers are random, and what known layers there are nobody tells the search.
    found = evonorm(
        problem.searched_in,
        problem.train,
        problem.scored,
        folder,
        config(problem, least_accuracy),
        budget=problem.sizes.budget,
        workers=Workers(processes),
        lag=LAG,
    )
    return _told(found)


def config(problem: Problem, least_accuracy: float) -> EvoNormConfig:
    """The settings of the evolution."""
    sizes, steps = problem.sizes, partial(replace, training(problem))
    return EvoNormConfig(
        series="batch",
        ageing=AgeingConfig(population=sizes.population, tournament_share=sizes.tournament_share),
        # With equal steps one training both tests and scores a layer.
        rejection=RejectionConfig(
            sizes.anchors.groups, steps(steps=sizes.quality_steps), least_accuracy, sizes.ascent_steps
        ),
        proxy=steps(steps=sizes.proxy_steps),
        reranked=sizes.reranked,
        longer=steps(steps=sizes.longer_steps),
        seed=problem.seed,
    )


def _told(found: EvolvedLayers) -> dict[str, Any]:
    measured = found.study.measurements
    means = [statistics.mean(each.values.values()) if each.values else 0.0 for each in measured]
    return {
        "tried": len(measured),
        "accepted": sum(each.state == "measured" for each in measured),
        "rejected": dict(rejections(measured)),
        "steps": sum(int(each.extras.get("steps", 0)) for each in measured),
        "seconds": sum(each.seconds for each in measured),
        "best_after": {str(count): max(means[:count]) for count in _marks(len(means))},
        "ranked": [
            {"graph": json.loads(each.graph.to_json()), "formula": each.formula, "accuracies": dict(each.accuracies)}
            for each in found.ranked
        ],
    }


def _marks(count: int) -> list[int]:
    """Eight numbers of layers up to all of them."""
    return sorted({max(1, round(count * part / 8)) for part in range(1, 9)})


def text(found: dict[str, Any]) -> str:
    """How the search went, and the ranking."""
    best = ", ".join(f"{count}: {100 * value:.1f}" for count, value in found["best_after"].items())
    lines = [
        f"Search: {found['tried']} layers, {found['accepted']} accepted, rejected by {found['rejected']}, "
        f"{found['steps']} steps, {found['seconds']:.0f} s of one process",
        f"  best mean accuracy after so many layers, validation rows, %: {best}",
        "  the best, trained longer:",
    ]
    for each in found["ranked"]:
        accuracies = ", ".join(f"{name} {100 * value:.1f}" for name, value in each["accuracies"].items())
        lines.append(f"    {each['formula']}: {accuracies}")
    return "\n".join(lines)
