"""Search the sub-networks of a super-network: measure candidates on validation rows and on this machine.

`search` binds a super-network to an algorithm: it builds `evaluate` and the exact costs, then calls the algorithm.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from hardware.inputs import Inputs, device_of, first_row, is_tokens, map_inputs
from hardware.latency import fixed_threads
from nas.data.accuracy import predict
from nas.data.split import Split
from nas.errors import UserError
from nas.networks.pretrained import most_tokens
from nas.networks.recalibration import SubNetworks
from nas.searching.evaluation import Evaluate, Exact, FloatArray, IntArray, Objective, OnResult
from nas.searching.linas import linas
from nas.searching.relative_latency import LatencySettings, RelativeLatency
from nas.searching.study import Study
from search_spaces import Candidate, Space, Supernet, exact_costs

EXACT = ("macs", "parameters", "size_mib")
METRICS = ("accuracy", "r2")
KNOWN = (*METRICS, "latency_ms", *EXACT)
Measure = Callable[[Candidate], float]
Own = Callable[[nn.Module], float]


class Algorithm(Protocol):
    """A search such as `nas.linas`; settings of its own are bound with `functools.partial`."""

    def __call__(
        self,
        space: Space,
        evaluate: Evaluate,
        objectives: Sequence[Objective],
        *,
        budget: int,
        seed: int,
        storage: Path | None = None,
        on_result: OnResult | None = None,
    ) -> Study:
        """Measure `budget` candidates and record them."""


def objective(name: str, *, limit: float | None = None) -> Objective:
    """The objective of a known name: accuracy is maximised, costs are minimised; or the user's own `module:function`.

    A function of the user's own takes the extracted sub-network and gives a number to minimise (make the `Objective`
    yourself to maximise it).

    Raises:
        UserError: no such objective.
    """
    if name not in KNOWN and ":" not in name:
        raise UserError(f"an objective must be one of {', '.join(KNOWN)} or your own module:function, got {name!r}")
    return Objective(name, "maximize" if name in METRICS else "minimize", limit)


def search(
    supernet: Supernet,
    space: Space,
    data: Split | None,
    objectives: Sequence[str | Objective],
    *,
    budget: int,
    seed: int,
    algorithm: Algorithm = linas,
    storage: Path | None = None,
    example_inputs: Inputs | None = None,
    latency: LatencySettings | None = None,
    calibration: Split | None = None,
    batch_size: int = 64,
    threads: int | None = None,
    on_result: OnResult | None = None,
) -> Study:
    """Search `space` for sub-networks of `supernet`.

    Accuracy, MACs, parameters and size are deterministic; latency is measured once a candidate and then recorded.

    Args:
        supernet: measured in evaluation mode, on the device that it is on; its modes are put back.
        space: that of the super-network, alone or joined with another.
        data: validation rows, for accuracy and as example; None where neither is needed.
        objectives: names (see `objective`) or objectives, most important first.
        budget: candidates to measure.
        seed: of the algorithm.
        algorithm: `linas`, `nsga2`, `random_search` or a `functools.partial` of one.
        storage: journal of the study, to resume from; None: in memory.
        example_inputs: one input of the model, for costs and latency; None: the first row of `data`, a text repeated or
            cut to `latency.tokens` (or to the most that the model reads).
        latency: how it is measured.
        calibration: training rows, for the batch norms of sub-networks; not needed where there are none.
        batch_size: of the measurement of accuracy.
        threads: of PyTorch while accuracy is measured; None: as they are now. Another number may change the last digit.
        on_result: called after every result.

    Raises:
        UserError: an unknown objective, or data that an objective needs and that is not given, or batch norms and no
            training rows.
    """
    settings = latency or LatencySettings()
    named = [objective(each) if isinstance(each, str) else each for each in objectives]
    row = _example(example_inputs, data, min(settings.tokens, most_tokens(supernet.model) or settings.tokens))
    if any(each.name in EXACT and each.exact is None for each in named):
        costs = _exact(supernet, space, _needed(row, "costs"))
        named = [replace(each, exact=costs[each.name]) if each.name in EXACT else each for each in named]
    networks, threads = SubNetworks(supernet, calibration), threads or torch.get_num_threads()
    task = _Task(networks, supernet, space, data, row, settings, storage, batch_size, threads)
    measures = [_measure(each, task) for each in named]

    def evaluate(candidates: Sequence[Candidate]) -> FloatArray:
        return np.array([[measure(candidate) for measure in measures] for candidate in candidates], dtype=np.float64)

    with _evaluating(supernet):
        return algorithm(space, evaluate, named, budget=budget, seed=seed, storage=storage, on_result=on_result)


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


def _exact(supernet: Supernet, space: Space, row: Inputs) -> dict[str, Exact]:
    """Exact costs of candidates encoded in `space`, which may hold more choices than the super-network cuts."""
    device = device_of(supernet)
    # The tracer fixes a batch of one.
    rows = map_inputs(row, lambda value: torch.cat([value, value]).to(device))
    try:
        costs = exact_costs(supernet, dict(rows) if isinstance(rows, Mapping) else rows)
    except ValueError as error:
        raise UserError(str(error)) from error
    columns = {choice.name: column for column, choice in enumerate(space.choices)}
    missing = [choice.name for choice in supernet.space.choices if choice.name not in columns]
    if missing:
        raise UserError(f"the space must hold every choice of the super-network, {missing[0]} is missing")
    own = [columns[choice.name] for choice in supernet.space.choices]

    def bound(name: str) -> Exact:
        def exact(encoded: IntArray) -> FloatArray:
            return costs[name](np.asarray(encoded, dtype=np.int64)[:, own])

        return exact

    return {name: bound(name) for name in EXACT}


@dataclass(frozen=True)
class _Task:
    """What measuring needs."""

    networks: SubNetworks
    supernet: Supernet
    space: Space
    data: Split | None
    row: Inputs | None
    latency: LatencySettings
    storage: Path | None
    batch_size: int
    threads: int


def _measure(wanted: Objective, task: _Task) -> Measure:
    """What gives one candidate's value of an objective."""
    exact = wanted.exact
    if exact is not None:
        return lambda candidate: float(exact(task.space.encode([candidate]))[0])
    if wanted.name in METRICS:
        if task.data is None or len(task.data) == 0:
            raise UserError(f"{wanted.name} needs validation rows; give data")
        if task.data.task.metric != wanted.name:
            raise UserError(f"the objective of {task.data.task.name} is {task.data.task.metric}, got {wanted.name}")
        return partial(_score, task, task.data)
    if wanted.name == "latency_ms":
        return RelativeLatency(task.supernet, _needed(task.row, "latency"), task.latency, task.storage)
    function = _own(wanted.name)
    return lambda candidate: float(function(task.networks.extract(candidate)))


def _score(task: _Task, data: Split, candidate: Candidate) -> float:
    """How well a candidate does on the rows, by the metric of their task; NaN where an output is NaN."""
    with fixed_threads(task.threads):
        forward = task.networks.forward(candidate)
        logits = predict(forward, data, batch_size=task.batch_size, device=device_of(task.supernet))
    return data.task.score(logits, data)


def _own(name: str) -> Own:
    module, _, attribute = objective(name).name.partition(":")
    try:
        function: Own = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"the objective {name} cannot be imported: {error}; name it as module:function") from error
    return function


@contextmanager
def _evaluating(supernet: Supernet) -> Iterator[None]:
    training = [part for part in supernet.modules() if part.training]
    supernet.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
