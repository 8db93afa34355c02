"""Search the sub-networks of a super-network: measure candidates on validation rows and on this machine.

`search` binds a super-network to an algorithm: it builds `evaluate` and the exact costs, then calls the algorithm.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol, Unpack

import numpy as np
import torch
from torch import nn

from hardware.inputs import Inputs, device_of, first_row, is_tokens, map_inputs
from hardware.latency import fixed_threads
from hardware.profile import Precision
from nas.data.accuracy import predict
from nas.data.split import Split
from nas.errors import NoFeasible, UserError
from nas.networks.modes import keeping_modes
from nas.networks.own_code import own_function
from nas.networks.pretrained import most_tokens
from nas.networks.recalibration import SubNetworks
from nas.objectives import FORMULAS, LATENCY, MEASURED, NAMES, SCORES, quantity
from nas.searching.linas import linas
from nas.searching.measurement import Evaluate, Exact, Objective, Staged
from nas.searching.objectives import objective
from nas.searching.relative_latency import LatencySettings, RelativeLatency, reference_path
from nas.searching.runners import Runners
from nas.searching.storage import Storage, is_url
from nas.searching.study import Running, Study
from nas.searching.translation import translation
from nas.searching.warm_start import known_results
from nas.searching.workers import Workers
from search_spaces import Candidate, Space, Supernet, exact_costs
from search_spaces.arrays import FloatArray, IntArray

Measured = Callable[[Candidate], float]
"""Gives one candidate's value of an objective."""


class Algorithm(Protocol):
    """A search such as `nas.linas`; settings of its own are bound with `functools.partial`."""

    def __call__(
        self,
        space: Space,
        evaluate: Evaluate | Staged,
        objectives: Sequence[Objective],
        *,
        budget: int,
        seed: int,
        **running: Unpack[Running],
    ) -> Study:
        """Measure `budget` candidates and record them."""


def search(
    supernet: Supernet,
    space: Space,
    data: Split | None,
    objectives: Sequence[str | Objective],
    *,
    budget: int,
    seed: int,
    algorithm: Algorithm = linas,
    example_inputs: Inputs | None = None,
    latency: LatencySettings | None = None,
    latency_file: Path | None = None,
    calibration: Split | None = None,
    batch_size: int = 64,
    threads: int | None = None,
    warm_start: Storage | None = None,
    **running: Unpack[Running],
) -> Study:
    """Search `space` for sub-networks of `supernet`.

    Accuracy, MACs, parameters and size are deterministic; latency, energy and memory are measured once a candidate and
    then recorded. With several workers these are still measured in this process alone, one candidate at a time, latency
    beside the full network, because only such latencies compare; the workers measure the rest. Leave a processor free
    for it.

    Args:
        supernet: measured in evaluation mode, on the device that it is on; its modes are put back.
        space: that of the super-network, alone or joined with another, or with fewer options.
        data: validation rows, for accuracy and as example; None where neither is needed.
        objectives: names (see `objective`) or objectives, most important first; a latency with a formula
            (`nas.profiling.objective`) is computed, and nothing of it is measured.
        budget: candidates to measure.
        seed: of the algorithm.
        algorithm: `linas`, `nsga2`, `random_search` or a `functools.partial` of one.
        example_inputs: one input of the model, for costs and latency; None: the first row of `data`, a text repeated or
            cut to `latency.tokens` (or to the most that the model reads).
        latency: how it is measured, and energy and memory with it: in which runtime and precision. Accuracy is always
            that of float32.
        latency_file: where the full network's latency is kept, which those of candidates are relative to; None: beside
            the journal. A study in a database needs one.
        calibration: training rows, for the batch norms of sub-networks; not needed where there are none.
        batch_size: of the measurement of accuracy.
        threads: of PyTorch while accuracy is measured; None: as they are now. Another number may change the last digit,
            so it is the same in every worker.
        warm_start: a study or CSV file with results of the same super-network and rows, see `nas.searching.warm_start`;
            latencies among them are measured anew, here.
        running: where it is recorded and how it is measured, see `nas.searching.study.Running`. On a GPU the workers
            share the GPUs that are here; a time-out does not count what is measured in this process.

    Raises:
        UserError: an unknown objective, or data that an objective needs and that is not given, or batch norms and no
            training rows, or a warm start of another space.
        NoFeasible: the smallest sub-network costs more than a limit allows.
    """
    settings = latency or LatencySettings()
    named = [objective(each) if isinstance(each, str) else each for each in objectives]
    row = _example(example_inputs, data, min(settings.tokens, most_tokens(supernet.model) or settings.tokens))
    if any(each.name in FORMULAS and each.exact is None for each in named):
        costs = _exact(supernet, space, _needed(row, "costs"), settings.precision)
        named = [replace(each, exact=costs[each.name]) if each.name in FORMULAS else each for each in named]
    _check_limits(space, named)
    networks, threads = SubNetworks(supernet, calibration), threads or torch.get_num_threads()
    task = _Task(networks, supernet, space, data, batch_size, threads)
    measured = [each.name for each in named if each.name in MEASURED and each.exact is None]
    here: dict[str, Measured] = {}
    if measured:
        path = _latency_file(latency_file, running.get("storage")) if LATENCY in measured else None
        here = _measured_here(measured, supernet, _needed(row, quantity(measured[0]).label), settings, path)
    anywhere = _Anywhere(task, tuple(each for each in named if each.name not in here))
    if warm_start is not None:
        running["known"] = known_results(warm_start, space, named, without=here, ignored=NAMES)
    running["workers"] = _sharing_gpus(running.get("workers", 1), device_of(supernet))
    with keeping_modes(supernet):
        supernet.eval()
        return algorithm(
            space,
            Staged(anywhere, here, tuple(named)),
            named,
            budget=budget,
            seed=seed,
            **running,
        )


def _measured_here(
    names: Sequence[str], supernet: Supernet, row: Inputs, settings: LatencySettings, path: Path | None
) -> dict[str, Measured]:
    """What is measured in this process, by the name of the objective; UserError where this machine cannot."""
    deployment = settings.deployment(row, device_of(supernet))
    try:
        deployment.check()
    except ValueError as error:
        raise UserError(str(error)) from error
    runners = Runners(supernet, row, deployment)
    made: dict[str, Callable[[], Measured]] = {
        LATENCY: lambda: RelativeLatency(runners, settings, path),
        "energy_mj": runners.energy_mj,
        "memory_mib": lambda: runners.memory_mib,
    }
    return {name: made[name]() for name in names}


def _latency_file(given: Path | None, storage: Storage | None) -> Path | None:
    if given is not None or storage is None:
        return given
    if is_url(storage):
        raise UserError("latencies in a database need latency_file, the place where the full network's latency is kept")
    return reference_path(Path(storage))


def _sharing_gpus(workers: int | Workers, device: torch.device) -> Workers:
    chosen = Workers(workers) if isinstance(workers, int) else workers
    if device.type != "cuda" or chosen.gpus:
        return chosen
    return replace(chosen, gpus=min(1.0, torch.cuda.device_count() / chosen.count))


def _check_limits(space: Space, objectives: Sequence[Objective]) -> None:
    """NoFeasible where even the smallest sub-network, whose costs are the least, breaks the limit of a cost."""
    smallest = space.encode([space.smallest()])
    for each in objectives:
        if each.name not in FORMULAS or each.exact is None or each.limit is None or each.direction != "minimize":
            continue
        least = float(each.exact(smallest)[0])
        if least > each.limit:
            raise NoFeasible(f"no sub-network has {each.name} <= {each.limit:g}; the smallest has {least:.6g}")


def _example(given: Inputs | None, data: Split | None, tokens: int) -> Inputs | None:
    """One row: the given one, or the first of the data with `tokens` tokens."""
    if given is not None:
        return first_row(given)
    if data is None or len(data) == 0:
        return None

    def stretch(value: torch.Tensor) -> torch.Tensor:
        if not is_tokens(value):
            return value
        return value.repeat(1, -(-tokens // value.shape[1]))[:, :tokens].contiguous()

    return map_inputs(dict(data.batch([0])), stretch)


def _needed(row: Inputs | None, purpose: str) -> Inputs:
    if row is None:
        raise UserError(f"{purpose} of a network need an example of its input; give data or example_inputs")
    return row


def _exact(supernet: Supernet, space: Space, row: Inputs, precision: Precision) -> dict[str, Exact]:
    """Exact costs of candidates encoded in `space`, which may hold more choices than the super-network cuts.

    The size is that of the weights in the precision; a file holds a little more.
    """
    device = device_of(supernet)
    # The tracer fixes a batch of one.
    rows = map_inputs(row, lambda value: torch.cat([value, value]).to(device))
    try:
        costs = exact_costs(supernet, dict(rows) if isinstance(rows, Mapping) else rows)
    except ValueError as error:
        raise UserError(str(error)) from error
    own = translation(space, supernet.space)

    def bound(name: str) -> Exact:
        def exact(encoded: IntArray) -> FloatArray:
            return costs[name](own(encoded))

        return exact

    size = "size_mib_int8" if precision == "int8" else "size_mib"
    return {name: bound(size if name == "size_mib" else name) for name in FORMULAS}


@dataclass(frozen=True)
class _Task:
    """What measuring needs."""

    networks: SubNetworks
    supernet: Supernet
    space: Space
    data: Split | None
    batch_size: int
    threads: int


class _Anywhere:
    """Everything but latency, of candidates (n, m), in whatever process it is sent to."""

    def __init__(self, task: _Task, objectives: Sequence[Objective]) -> None:
        self._measures = [_measure(each, task) for each in objectives]

    def __call__(self, candidates: Sequence[Candidate]) -> FloatArray:
        rows = [[measure(candidate) for measure in self._measures] for candidate in candidates]
        return np.array(rows, dtype=np.float64).reshape(len(candidates), len(self._measures))


def _measure(wanted: Objective, task: _Task) -> Measured:
    """A function from a candidate to its value of an objective."""
    exact = wanted.exact
    if exact is not None:
        return partial(_by_formula, task, exact)
    if wanted.name in SCORES:
        if task.data is None or len(task.data) == 0:
            raise UserError(f"{wanted.name} needs validation rows; give data")
        if task.data.task.metric != wanted.name:
            raise UserError(f"the objective of {task.data.task.name} is {task.data.task.metric}, got {wanted.name}")
        return partial(_score, task, task.data)
    return partial(_by_own, task, own_function(wanted.name))


def _by_own(task: _Task, function: Callable[[nn.Module], float], candidate: Candidate) -> float:
    return float(function(task.networks.extract(candidate)))


def _by_formula(task: _Task, exact: Exact, candidate: Candidate) -> float:
    return float(exact(task.space.encode([candidate]))[0])


def _score(task: _Task, data: Split, candidate: Candidate) -> float:
    """How well a candidate does on the rows, by the metric of their task; NaN where an output is NaN."""
    with fixed_threads(task.threads):
        forward = task.networks.forward(candidate)
        logits = predict(forward, data, batch_size=task.batch_size, device=device_of(task.supernet))
    return data.task.score(logits, data)
