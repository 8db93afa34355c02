"""Profiling one device: which sub-network next, its measurement, and the file that grows row by row.

A profile that was stopped goes on: its rows say what is done. Some candidates drawn at random are measured first and
again at the end: how much the two differ is the noise floor. The others are designed, first for what a linear model
would learn from, then, in batches, for what the predictor is least sure of.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hardware.inputs import Inputs
from hardware.machine import this_machine
from hardware.profile import DeviceProfile, Precision, ProfileRow, Timing, noise_floor, write_profile
from hardware.protocol import UnstableError, require_stable
from nas.errors import NotTaken, UserError
from nas.profiling.bench import RATIO_TOLERANCE, Bench
from nas.profiling.design import first_rows, most_telling, pool
from nas.profiling.prediction import features_of_design
from nas.profiling.rows import fitted, learned_rows
from nas.profiling.subject import Subject
from nas.searching.translation import translation
from nas.seeds import generator
from nas.settings import ProfileSettings
from search_spaces import Candidate, Supernet

LEAST = 20
_TWICE, _BATCH, _TRIES = 10, 8, 5
_REFUSALS = 5


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Args:
        budget: distinct sub-networks.
        seconds: after which no further ones are begun, as soon as there are `LEAST`; None: no limit.
    """

    budget: int = 100
    seconds: float | None = None


OnRow = Callable[[DeviceProfile, ProfileRow], None]
OnRefused = Callable[[Candidate, NotTaken], None]
Measure = Callable[[Candidate], Timing]


def begin(bench: Bench, multiple_of: int = 1) -> DeviceProfile:
    """A profile of this machine with the full network alone; UserError where its latency does not get stable.

    Args:
        bench: measures, in the runtime of the profile.
        multiple_of: which sizes it is for, see `nas.profiling.sizes`.
    """
    header, version = bench.header(multiple_of), bench.deployment.version()
    machine = this_machine(bench.subject.accelerator)
    return DeviceProfile(**header, machine=machine, runtime_version=version, reference=stable_reference(bench), rows=())


def stable_reference(bench: Bench) -> Timing:
    """The full network's latency, which everything is relative to; UserError where it does not get stable."""
    for _ in range(_TRIES):
        timing = bench.reference()
        if timing.stable:
            break
    try:
        return require_stable(timing, "the full network")
    except UnstableError as error:
        raise UserError(f"{error} by its tolerance") from error


def grow(
    profile: DeviceProfile,
    subject: Subject,
    measure: Measure,
    effort: Effort,
    *,
    seed: int,
    path: Path | None = None,
    on_row: OnRow | None = None,
    on_refused: OnRefused | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> DeviceProfile:
    """The profile with rows until the effort is spent.

    Args:
        profile: begun, or stopped; rows that did not get stable are measured anew.
        subject: whose candidates are measured.
        measure: one candidate; one that raises NotTaken is left out.
        effort: when to end.
        seed: of the choice of candidates.
        path: where the profile is written after every row.
        on_row: called after every row with the profile and the row.
        on_refused: called with every candidate that was left out.
        clock: seconds.

    Raises:
        UserError: most rows do not get stable, or most candidates are not taken.
    """
    growing = _Growing(profile, subject, effort, seed, clock)
    for candidate in growing.wanted():
        try:
            timing = measure(candidate)
        except NotTaken as error:
            growing.leave_out(candidate, error)
            if on_refused is not None:
                on_refused(candidate, error)
            continue
        row = growing.add(candidate, timing)
        if path is not None:
            write_profile(growing.profile, path)
        if on_row is not None:
            on_row(growing.profile, row)
    return growing.profile


def measure_profile(
    supernet: Supernet,
    example_inputs: Inputs,
    *,
    seed: int,
    runtime: Literal["pytorch", "onnxruntime", "openvino"] = "pytorch",
    precision: Precision = "float32",
    threads: int = 1,
    budget: int = ProfileSettings.budget,
    minutes: float | None = ProfileSettings.minutes,
    tolerance: float = RATIO_TOLERANCE,
    path: Path | None = None,
    name: str = "",
) -> DeviceProfile:
    """Measure some sub-networks on this machine, from which the latency of all others can be predicted anywhere.

    Args:
        supernet: in evaluation mode, on the device to measure on; its weights do not matter.
        example_inputs: positional or keyword tensors of the batch and length to measure with.
        seed: of the choice of sub-networks.
        runtime: what runs them; `nas doctor` says what is usable here.
        precision: in which it computes, where it has that.
        threads: of the runtime.
        budget: distinct sub-networks.
        minutes: after which no further ones are begun, though there are 20 at least; None: no limit.
        tolerance: a ratio to the full network that is known less exactly (half of its 95 % interval) is not stable.
        path: a JSON file that is written after every row; read it with `hardware.read_profile`.
        name: of the model, as the profile says it.

    Raises:
        UserError: a runtime that cannot be used here, or latencies that do not get stable.
    """
    subject = Subject(name or type(supernet.model).__name__, supernet, example_inputs, supernet.space)
    bench = Bench.of(subject, subject.deployment(runtime, precision, threads), tolerance)
    effort = Effort(budget, None if minutes is None else 60 * minutes)
    return grow(begin(bench), subject, bench.measure, effort, seed=seed, path=path)


def planned(subject: Subject, count: int, seed: int) -> list[Candidate]:
    """`count` distinct candidates chosen without measuring any, in the order of measuring; the first ones twice."""
    return list(dict.fromkeys([*checked_twice(subject, count, seed), *_designed(subject, count, seed)]))[:count]


def checked_twice(subject: Subject, budget: int, seed: int) -> list[Candidate]:
    """Random candidates that are measured first and last: a sixth of the budget, ten at most."""
    rng = generator(seed, "profiled twice")
    found = dict.fromkeys(subject.space.sample(rng) for _ in range(min(_TWICE, max(1, budget // 6))))
    return list(found)


class _Growing:
    """A profile, and what it still needs."""

    def __init__(
        self, profile: DeviceProfile, subject: Subject, effort: Effort, seed: int, clock: Callable[[], float]
    ) -> None:
        stable = tuple(row for row in profile.rows if row.timing.stable)
        self.profile = profile.model_copy(update={"rows": stable})
        self._subject, self._effort, self._seed, self._clock = subject, effort, seed, clock
        self._twice = checked_twice(subject, effort.budget, seed)
        self._began, self._new = clock(), 0
        self._now = self._began
        whole = subject.supernet.space
        self._times = Counter(whole.candidate(row.candidate) for row in stable)
        self._refused: list[Candidate] = []

    def add(self, candidate: Candidate, timing: Timing) -> ProfileRow:
        """One more row."""
        order = max((row.order for row in self.profile.rows), default=-1) + 1
        before, self._now = self._now, self._clock()
        row = ProfileRow(candidate=dict(candidate), timing=timing, order=order, seconds=self._now - before)
        rows = (*self.profile.rows, row)
        grown = self.profile.model_copy(update={"rows": rows})
        self.profile = grown.model_copy(update={"noise_floor": noise_floor(grown)})
        self._times[candidate] += 1
        self._new += 1
        return row

    def leave_out(self, candidate: Candidate, why: NotTaken) -> None:
        """One that cannot be measured; UserError once there are too many of them."""
        self._refused.append(candidate)
        enough = min(_REFUSALS, self._effort.budget, self._subject.space.size())
        if len(self._refused) >= enough and len(self._refused) > len(self.profile.rows):
            raise UserError(
                f"{len(self._refused)} sub-networks could not be measured, more than could; the last: {why}"
            )

    def wanted(self) -> Iterator[Candidate]:
        """What to measure next, which is to be added or left out before the next is asked for."""
        designed = _designed(self._subject, max(1, self._effort.budget * 2 // 3), self._seed)
        for candidate in (*self._twice, *designed):
            if not self._times[candidate] and self._goes_on():
                yield candidate
        while self._goes_on():
            for candidate in _least_sure(self.profile, self._subject, self._seed, self._refused):
                if self._goes_on():
                    yield candidate
        for candidate in self._twice:
            if self._times[candidate] == 1:
                yield candidate

    def _goes_on(self) -> bool:
        done, effort = sum(times > 0 for times in self._times.values()), self._effort
        if done >= min(effort.budget, self._subject.space.size() - len(set(self._refused))):
            return False
        if effort.seconds is None or done < min(LEAST, effort.budget):
            return True
        spent = self._clock() - self._began
        return spent + (1 + len(self._twice)) * spent / max(1, self._new) < effort.seconds


def _designed(subject: Subject, count: int, seed: int) -> list[Candidate]:
    whole, rng = subject.supernet.space, generator(seed, "profile design")
    encoded = translation(subject.space, whole)
    rows = encoded(first_rows(subject.space)[:count])
    features = features_of_design(whole, subject.kernels)
    further = most_telling(encoded(pool(subject.space, rng)), rows, features, count - len(rows))
    return whole.decode(np.concatenate([rows, further]))


def _least_sure(
    profile: DeviceProfile, subject: Subject, seed: int, refused: Sequence[Candidate]
) -> Sequence[Candidate]:
    """A batch of what the predictor, given what is measured, is least sure of; one at random where all is measured."""
    whole, rng = subject.supernet.space, generator(seed, "profile batch", len(profile.rows) + len(refused))
    candidates = translation(subject.space, whole)(pool(subject.space, rng))
    if refused:
        candidates = candidates[~(candidates[:, None] == whole.encode(refused)).all(axis=2).any(axis=1)]
    mean, spread = fitted(profile, whole, subject.kernels).predict(candidates)
    unsure = spread / np.maximum(mean, 1e-9)
    measured, _ = learned_rows(profile, whole)
    features = features_of_design(whole, subject.kernels)
    found = whole.decode(most_telling(candidates, measured, features, _BATCH, unsure))
    return found or [subject.space.sample(rng)]
