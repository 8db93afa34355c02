"""What prunes without a search: Torch-Pruning, and random numbers of channels.

Both give networks of as many multiply-accumulates as those of EMO-PMS. They cut what the space has, the channels inside
of blocks, so that all rows have the same choice. (Torch-Pruning could also cut channels that many blocks share.)
"""

import copy
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch_pruning
from emo_pms_picks import kept, names
from emo_pms_problem import COST, EXAMPLE, Problem, error
from torch import nn

from nas.learning.importance import ImportanceConfig, order_by_importance
from nas.seeds import generator
from search_spaces import Supernet
from search_spaces.arrays import FloatArray

IMPORTANCES = {
    "magnitude": torch_pruning.importance.GroupMagnitudeImportance,
    "taylor": torch_pruning.importance.GroupTaylorImportance,
}
_BATCHES, _ROWS = 8, 64
"""Of the gradients, here as in the importance of channels that EMO-PMS inherits by."""
_STEPS, _MOST = 90, 0.9
_DRAWN = 20_000


def torch_pruning_row(row: str, problem: Problem, folder: Path, targets: Mapping[float, float]) -> dict[str, Any]:
    """The networks of Torch-Pruning as JSON data, with the error of all its variants before the last training.

    Args:
        row: its name.
        problem: the original and its rows.
        folder: of the picks.
        targets: by share the part (0..1) of multiply-accumulates that a network is to save.

    Returns:
        `picks` of the best `peers` variants for each share, by the error on validation rows with batch-norm statistics
        of their own.
    """
    began = time.monotonic()
    named = {
        f"{kind}-{'global' if everywhere else 'local'}": _steps(problem, kind, everywhere)
        for kind in IMPORTANCES
        for everywhere in (False, True)
    }
    found: dict[float, dict[str, nn.Module]] = {share: {} for share in targets}
    for variant, networks in named.items():
        for share, network in _nearest(problem, networks, targets).items():
            found[share][variant] = problem.renewed(network)
    errors = {
        share: {variant: error(network, problem.ranked) for variant, network in variants.items()}
        for share, variants in found.items()
    }
    best = {
        f"{name}-{variant}": found[share][variant]
        for share, name in names(row, targets).items()
        for variant in sorted(found[share], key=lambda variant: errors[share][variant])[: problem.sizes.peers]
    }
    picks = kept(best, problem, folder)
    return {
        "picks": picks,
        "seconds": time.monotonic() - began,
        "untrained": {f"{share:g}": of for share, of in errors.items()},
    }


def _steps(problem: Problem, kind: str, everywhere: bool) -> Iterator[nn.Module]:
    """The original with more and more of its channels pruned, by one kind of importance."""
    model = copy.deepcopy(problem.original)
    _add_gradients(model, problem)
    inner = {choice.name.removeprefix("channels.") for choice in problem.space.choices}
    kept_whole = [
        module
        for path, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and path not in inner
    ]
    pruner = torch_pruning.pruner.BasePruner(
        model,
        EXAMPLE["pixels"],
        IMPORTANCES[kind](),
        global_pruning=everywhere,
        pruning_ratio=_MOST,
        iterative_steps=_STEPS,
        ignored_layers=kept_whole,
    )
    for _ in range(_STEPS):
        pruner.step()
        yield model


def _add_gradients(model: nn.Module, problem: Problem) -> None:
    """Gradients of the loss on training rows, for the importance by Taylor expansion."""
    rng = generator(problem.seed, "gradients of Torch-Pruning")
    for _ in range(_BATCHES):
        rows = rng.permutation(len(problem.train))[:_ROWS]
        logits = model(**problem.train.batch(rows))
        nn.functional.cross_entropy(logits, problem.train.targets(rows)).backward()


def _nearest(problem: Problem, networks: Iterable[nn.Module], targets: Mapping[float, float]) -> dict[float, nn.Module]:
    """Of networks that are pruned more and more, by share the nearest to its target that saves the share."""
    saved: list[float] = []
    copies: list[nn.Module] = []
    for network in networks:
        saved.append(problem.saved(problem.candidate_of(network)))
        copies.append(copy.deepcopy(network))
        if saved[-1] > max(targets.values()):
            break
    return {share: copies[nearest(np.array(saved), target, share)] for share, target in targets.items()}


def random_row(row: str, problem: Problem, folder: Path, targets: Mapping[float, float]) -> dict[str, Any]:
    """Networks of random numbers of channels as JSON data; each has the most important channels of the original."""
    began = time.monotonic()
    supernet = Supernet(copy.deepcopy(problem.original), problem.space)
    config = ImportanceConfig(warmup_steps=0, batches=_BATCHES, batch_size=_ROWS, seed=problem.seed)
    order_by_importance(supernet, problem.train, config)
    drawn = problem.space.random(_DRAWN, generator(problem.seed, "random channels"))
    whole = float(problem.costs[COST](problem.space.encode([problem.space.full()]))[0])
    saved = 1 - problem.costs[COST](drawn) / whole
    chosen = [nearest(saved, target, share) for share, target in targets.items()]
    candidates = problem.space.decode(drawn[chosen])
    networks = {
        name: problem.renewed(supernet.extract(candidate))
        for name, candidate in zip(names(row, targets).values(), candidates, strict=True)
    }
    return {"picks": kept(networks, problem, folder), "seconds": time.monotonic() - began}


def nearest(saved: FloatArray, target: float, least: float) -> int:
    """The position of what is nearest to a target, of what reaches the least, or of the largest if nothing does."""
    if not (saved >= least).any():
        return int(saved.argmax())
    return int(np.where(saved >= least, np.abs(saved - target), np.inf).argmin())
