"""Search the sub-networks of a super-network, evaluating candidates on validation rows and on this machine.

`search` connects a super-network to an algorithm: it builds the evaluation and the exact costs, then calls the
algorithm.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol, Unpack

import numpy as np
import torch
from torch import nn

from hardware.inputs import device_of, first_row, is_tokens, map_inputs
from hardware.latency import fixed_threads
from hardware.profile import Precision
from nas.data.accuracy import predict
from nas.data.split import Split
from nas.errors import NoFeasible, UserError
from nas.networks.modes import keeping_modes
from nas.networks.networks import Networks
from nas.networks.own_code import own_function
from nas.networks.pretrained import most_tokens
from nas.networks.recalibration import SubNetworks
from nas.objectives import ACCURACY, FORMULAS, LATENCY, MEASURED, NAMES, SCORES, quantity
from nas.searching.linas import linas
from nas.searching.measurement import Evaluate, Exact, MeasureValue, Objective, Staged
from nas.searching.objectives import objective
from nas.searching.relative_latency import ANOTHER_SEARCH, LatencySettings, RelativeLatency, reference_path
from nas.searching.rescoring import Scorer, rescored
from nas.searching.runners import Runners
from nas.searching.storage_address import Storage, is_url
from nas.searching.study import Running, Study
from nas.searching.warm_start import known_results
from nas.workers import Workers
from search_spaces import Candidate, Space, Supernet, exact_costs
from search_spaces.arrays import FloatArray
from search_spaces.inputs import Inputs
from search_spaces.quantization import is_precision


class Algorithm(Protocol):
    """A search algorithm such as `nas.linas`; bind its own settings with `functools.partial`."""

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
        """Evaluate `budget` candidates and record them in a study."""


def search(
    supernet: Supernet,
    space: Space,
    data: Split | None,
    objectives: Sequence[str | Objective],
    *,
    budget: int,
    seed: int,
    algorithm: Algorithm = linas,
    networks: Networks | None = None,
    example_inputs: Inputs | None = None,
    latency: LatencySettings | None = None,
    latency_file: Path | None = None,
    anew: str = ANOTHER_SEARCH,
    calibration: Split | None = None,
    batch_size: int = 64,
    threads: int | None = None,
    estimate: bool = True,
    warm_start: Storage | None = None,
    **running: Unpack[Running],
) -> Study:
    """Search `space` for sub-networks of `supernet`.

    Accuracy, MACs, parameters and size are deterministic. Latency, energy and memory are measured once per candidate
    and recorded. Even with several workers they are measured in this process only, one candidate at a time, with
    latency beside the full network, because only such latencies compare; the workers evaluate the other objectives.
    Leave one processor core free for these measurements.

    Args:
        supernet: evaluated in evaluation mode on its device; its modes are restored afterwards.
        space: the space of the super-network, possibly joined with another or with fewer options.
        data: validation rows, for accuracy and as the example input; None if neither is needed.
        objectives: names (see `objective`) or objectives, the most important first. A latency with a formula
            (`nas.profiling.objective`) is computed and not measured.
        budget: number of candidates to evaluate.
        seed: of the algorithm.
        algorithm: `linas`, `nsga2`, `random_search` or a `functools.partial` of one.
        networks: how the network of a candidate is run; None: the sub-network in float32. `nas.QuantizedNetworks` runs
            it with the precision by layer that the candidate has.
        example_inputs: one input of the model, for costs and latency; None uses the first row of `data`, with texts
            repeated or cut to `latency.tokens` or to the maximum of the model.
        latency: how latency, energy and memory are measured, with the runtime and precision. Accuracy is always that of
            the float32 network.
        latency_file: file of the full network's latency, which latencies of candidates are relative to; None puts it
            next to the journal. It is required for a study in a database.
        anew: what to do for exact latencies, which is said where other programs keep the machine busy.
        calibration: training rows to recompute the batch norms of sub-networks; only needed if there are batch norms
            and no `networks`.
        batch_size: batch size when accuracy is measured.
        threads: number of threads of PyTorch when accuracy is measured; None uses the present number. Every worker uses
            the same, because another number may change the last digit of the outputs.
        estimate: after a search for accuracy, compute once more which rows the front and its rivals have right, so that
            `Study.select` goes by what to expect on new rows (`Study.estimates`).
        warm_start: a study or CSV file with results of the same super-network and rows, see `nas.searching.warm_start`;
            latencies are measured again.
        running: storage, workers and callbacks, see `nas.searching.study.Running`. On a GPU, workers share the GPUs of
            this machine; those of a `pool` have what it was opened with. A time limit does not include measurements in
            this process.

    Returns:
        The study with all results.

    Raises:
        UserError: an unknown objective, missing data for an objective, batch norms without training rows, a warm
            start from another space, or a space with choices that `networks` do not know.
        NoFeasible: the smallest sub-network already exceeds a limit.
    """
    settings = latency or LatencySettings()
    named = [objective(each) if isinstance(each, str) else each for each in objectives]
    row = _example(example_inputs, data, min(settings.tokens, most_tokens(supernet.model) or settings.tokens))
    # Formulas need a trace of the model and an example input, so they are built only for the costs requested.
    if any(each.name in FORMULAS and each.exact is None for each in named):
        costs = _exact(supernet, space, _needed(row, "costs"), settings.precision)
        named = [replace(each, exact=costs[each.name]) if each.name in FORMULAS else each for each in named]
    _check_limits(space, named)
    if networks is None:
        _check_float32(space)
        networks = SubNetworks(supernet, calibration)
    threads = threads or torch.get_num_threads()
    setup = _Setup(networks, supernet, space, data, batch_size, threads)
    measured = [each.name for each in named if each.name in MEASURED and each.exact is None]
    here: dict[str, MeasureValue] = {}
    if measured:
        path = _latency_file(latency_file, running.get("storage")) if LATENCY in measured else None
        example = _needed(row, quantity(measured[0]).label)
        here = _measured_here(measured, supernet, networks, example, settings, path, anew)
    # What is sent to workers must be picklable, which loaded runtimes are not; those stay in `here`.
    anywhere = _WorkerEvaluation(setup, tuple(each for each in named if each.name not in here))
    if warm_start is not None:
        # Latencies measured elsewhere or earlier do not compare with those measured here.
        running["known"] = known_results(warm_start, space, named, without=here, ignored=NAMES)
    if running.get("pool") is None:
        running["workers"] = _sharing_gpus(running.get("workers", 1), device_of(supernet))
    with keeping_modes(supernet):
        supernet.eval()
        study = algorithm(
            space,
            Staged(anywhere, here, tuple(named)),
            named,
            budget=budget,
            seed=seed,
            **running,
        )
        if estimate and data is not None and any(each.name == ACCURACY for each in named):
            scorer = Scorer(networks.forward, data, device_of(supernet), threads)
            study.estimates = rescored(study, scorer, len(data))
        return study


def _measured_here(
    names: Sequence[str],
    supernet: Supernet,
    networks: Networks,
    row: Inputs,
    settings: LatencySettings,
    path: Path | None,
    anew: str,
) -> dict[str, MeasureValue]:
    """Functions that measure in this process, by the name of the objective; raises UserError if this machine cannot."""
    deployment = settings.deployment(row, device_of(supernet))
    try:
        deployment.check()
    except ValueError as error:
        raise UserError(str(error)) from error
    runners = Runners(supernet, networks, row, deployment)
    factories: dict[str, Callable[[], MeasureValue]] = {
        LATENCY: lambda: RelativeLatency(runners, settings, path, anew),
        "energy_mj": runners.energy_mj,
        "memory_mib": lambda: runners.memory_mib,
    }
    return {name: factories[name]() for name in names}


def _latency_file(given: Path | None, storage: Storage | None) -> Path | None:
    if given is not None or storage is None:
        return given
    if is_url(storage):
        raise UserError("latencies in a database need latency_file, the path where the full network's latency is kept")
    return reference_path(Path(storage))


def _sharing_gpus(workers: int | Workers, device: torch.device) -> Workers:
    """Divide the GPUs of this machine evenly among the workers, unless the settings say otherwise."""
    chosen = Workers(workers) if isinstance(workers, int) else workers
    if device.type != "cuda" or chosen.gpus:
        return chosen
    return replace(chosen, gpus=min(1.0, torch.cuda.device_count() / chosen.count))


def _check_limits(space: Space, objectives: Sequence[Objective]) -> None:
    """Raise NoFeasible if even the smallest sub-network, which has the lowest costs, exceeds the limit of a cost."""
    smallest = space.encode([space.smallest()])
    for each in objectives:
        if each.name not in FORMULAS or each.exact is None or each.limit is None or each.direction != "minimize":
            continue
        least = float(each.exact(smallest)[0])
        if least > each.limit:
            raise NoFeasible(f"no sub-network has {each.name} <= {each.limit:g}; the smallest has {least:.6g}")


def _example(given: Inputs | None, data: Split | None, tokens: int) -> Inputs | None:
    """One row: the first of the given inputs, or the first of the data, with texts of `tokens` tokens."""
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
    """Functions that compute exact costs of candidates encoded in `space`.

    The size is that of the weights in `precision`; a file is slightly larger. Where precision goes by layer it is that
    of the file.
    """
    device = device_of(supernet)
    # The tracer would treat a batch of one as a constant.
    rows = map_inputs(row, lambda value: torch.cat([value, value]).to(device))
    try:
        costs = exact_costs(supernet, dict(rows) if isinstance(rows, Mapping) else rows, space)
    except ValueError as error:
        raise UserError(str(error)) from error
    size = "size_mib_int8" if precision == "int8" else "size_mib"
    return {name: costs[size if name == "size_mib" else name] for name in FORMULAS}


def _check_float32(space: Space) -> None:
    """Raise UserError if the space has precisions, which sub-networks in float32 would ignore."""
    name = next((choice.name for choice in space.choices if is_precision(choice.name)), None)
    if name is not None:
        raise UserError(f"sub-networks in float32 do not know {name}; search with networks=QuantizedNetworks(...)")


@dataclass(frozen=True)
class _Setup:
    """What the functions that measure objectives need; it is sent to the workers."""

    networks: Networks
    supernet: Supernet
    space: Space
    data: Split | None
    batch_size: int
    threads: int


class _WorkerEvaluation:
    """Evaluates the objectives that any process can measure: n candidates to values (n, m)."""

    def __init__(self, setup: _Setup, objectives: Sequence[Objective]) -> None:
        self._measures = [_measure(each, setup) for each in objectives]

    def __call__(self, candidates: Sequence[Candidate]) -> FloatArray:
        rows = [[measure(candidate) for measure in self._measures] for candidate in candidates]
        return np.array(rows, dtype=np.float64).reshape(len(candidates), len(self._measures))


def _measure(wanted: Objective, setup: _Setup) -> MeasureValue:
    """The function that measures an objective; raises UserError if its data are missing or of another metric."""
    exact = wanted.exact
    if exact is not None:
        return partial(_by_formula, setup, exact)
    if wanted.name in SCORES:
        data = setup.data
        if data is None or len(data) == 0:
            raise UserError(f"{wanted.name} needs validation rows; give data")
        if data.task.metric != wanted.name:
            raise UserError(f"the objective of {data.task.name} is {data.task.metric}, got {wanted.name}")
        return partial(_score, setup, data)
    return partial(_by_own_function, setup, own_function(wanted.name))


def _by_own_function(setup: _Setup, function: Callable[[nn.Module], float], candidate: Candidate) -> float:
    return float(function(setup.networks.extract(candidate)))


def _by_formula(setup: _Setup, exact: Exact, candidate: Candidate) -> float:
    return float(exact(setup.space.encode([candidate]))[0])


def _score(setup: _Setup, data: Split, candidate: Candidate) -> float:
    """Score of a candidate on `data` by the metric of the task; NaN if an output is NaN."""
    with fixed_threads(setup.threads):
        forward = setup.networks.forward(candidate)
        logits = predict(forward, data, batch_size=setup.batch_size, device=device_of(setup.supernet))
    return data.task.score(logits, data)
