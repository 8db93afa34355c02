"""Trainings of networks with one layer or another, and how many rows they have right."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from evonorm_kept import Kept
from evonorm_problem import Images, Layer, Problem
from evonorm_rejection import training
from torch import nn

from nas.evolving.quality import TRAINING, classification_loss
from nas.learning.training import TrainingFailed, fit
from search_spaces.arrays import BoolArray

SMALL_BATCH = 4


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        layer: normalizes and activates.
        network: in which it does so.
        batch_size: rows of a step.
        steps: how many.
        learning_rate: the highest.
        seed: of weights and batches.
    """

    layer: Layer
    network: str
    batch_size: int
    steps: int
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        """A text that no other run has."""
        key = self.layer.graph.key if self.layer.graph else ""
        return json.dumps([self.layer.name, key, *list(asdict(self).values())[1:]])


@dataclass(frozen=True)
class Outcome:
    """What became of a network.

    Args:
        validation: accuracy (0..1) on validation rows, which choices go by.
        right: which test rows are right (n,).
        failed: whether the training broke off, because a loss was not finite.
    """

    validation: float
    right: BoolArray
    failed: bool

    @property
    def test(self) -> float:
        """Accuracy (0..1) on test rows."""
        return float(self.right.mean())

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Outcome":
        """What `Trained` returned."""
        packed = np.frombuffer(bytes.fromhex(data["right"]), dtype=np.uint8)
        return cls(data["validation"], np.unpackbits(packed, count=data["rows"]).astype(bool), data["failed"])


@dataclass(frozen=True)
class Trained:
    """Trains, as a function of a run, which workers receive."""

    problem: Problem

    def __call__(self, run: Run) -> dict[str, Any]:
        """The outcome as JSON data; the test rows are read here, after the training."""
        problem, failed = self.problem, False
        module = problem.network(run.network, run.layer, run.seed)
        config = replace(
            TRAINING, steps=run.steps, batch_size=run.batch_size, learning_rate=run.learning_rate, seed=run.seed
        )
        try:
            fit(module, problem.train, classification_loss, config)
        except TrainingFailed:
            # The network is what it was before the step that failed.
            failed = True
        module.eval()
        hits = right(module, problem.test)
        return {
            "validation": float(right(module, problem.validation.take(problem.sizes.chosen)).mean()),
            "right": np.packbits(hits).tobytes().hex(),
            "rows": len(hits),
            "failed": failed,
        }


@torch.no_grad()
def right(module: nn.Module, rows: Images) -> BoolArray:
    """Which rows a network in evaluation mode has right (n,)."""
    parts = np.array_split(np.arange(len(rows)), -(-len(rows) // 128))
    hits = [module(*rows.batch(part).values()).argmax(1) == rows.targets(part) for part in parts]
    return np.asarray(torch.cat(hits))


def small_batch(problem: Problem, layers: Sequence[Layer], kept: Kept) -> dict[str, Any]:
    """By layer its learning rate, the accuracies that chose it, and the outcomes of its seeds, in the unseen network.

    Each has the better of the learning rates by the validation rows of the first seed. All is JSON data.
    """
    sizes = problem.sizes
    rates = {(layer, rate): _small(problem, layer, rate, 0) for layer in layers for rate in sizes.small_rates}
    first = _results(kept, problem, "Learning rates at the small batch size", rates)
    validation = {key: float(result["validation"]) for key, result in first.items()}
    best = {layer: max(sizes.small_rates, key=lambda rate: validation[layer, rate]) for layer in layers}
    seeds = {
        (layer, seed): _small(problem, layer, best[layer], seed) for layer in layers for seed in range(sizes.seeds)
    }
    found = _results(kept, problem, "Seeds at the small batch size", seeds)
    return {
        layer.name: {
            "rate": best[layer],
            "rates": [[rate, validation[layer, rate]] for rate in sizes.small_rates],
            "seeds": [found[layer, seed] for seed in range(sizes.seeds)],
        }
        for layer in layers
    }


def ordinary(problem: Problem, layers: Sequence[Layer], kept: Kept) -> dict[str, Any]:
    """By layer and network the outcome at the ordinary batch size, by the training that ranks layers; JSON data."""
    few, names = training(problem), dict.fromkeys((*problem.sizes.searched_in, problem.sizes.unseen))
    steps = problem.sizes.longer_steps
    runs = {
        (layer, name): Run(layer, name, few.batch_size, steps, few.learning_rate, problem.seed)
        for layer in layers
        for name in names
    }
    found = _results(kept, problem, "The ordinary batch size", runs)
    return {layer.name: {name: found[layer, name] for name in names} for layer in layers}


def _small(problem: Problem, layer: Layer, rate: float, seed: int) -> Run:
    return Run(layer, problem.sizes.unseen, SMALL_BATCH, problem.sizes.small_steps, rate, seed)


def _results(kept: Kept, problem: Problem, title: str, runs: Mapping[Any, Run]) -> dict[Any, dict[str, Any]]:
    results = kept(title, Trained(problem), {run.name: run for run in runs.values()})
    return {key: results[run.name] for key, run in runs.items()}
