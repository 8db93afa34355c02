"""Collect the rows of a device profile: choose the next sub-network, measure it, and write the profile after each row.

A profile that was interrupted is continued: its rows show what is done. Sub-networks are measured in three groups:

1. Some random ones, which are measured again at the very end. The differences give the noise floor.
2. A design that suits a linear model, chosen before anything is measured (`nas.profiling.design`).
3. Batches of those that the predictor, fitted to the rows so far, is least certain of.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

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
from search_spaces.inputs import Inputs

LEAST = 20
# Largest number of sub-networks that are measured twice, and the number that one fit of the predictor chooses.
_MAX_REPEATED, _BATCH = 10, 8
_REFERENCE_TRIES = 5
# Number of unsupported candidates after which collecting fails, if they also outnumber the measured ones.
_MAX_UNSUPPORTED = 5


@dataclass(frozen=True)
class Effort:
    """When to stop measuring.

    Args:
        budget: number of distinct sub-networks.
        seconds: time after which no further sub-network is started, once `LEAST` are measured; None: no limit.
    """

    budget: int = 100
    seconds: float | None = None


OnRow = Callable[[DeviceProfile, ProfileRow], None]
OnRefused = Callable[[Candidate, NotTaken], None]
MeasureTiming = Callable[[Candidate], Timing]


def begin(bench: Bench, multiple_of: int = 1) -> DeviceProfile:
    """Start a profile of this machine, which contains the full network and no rows yet.

    Args:
        bench: measures networks in the deployment of the profile.
        multiple_of: only sizes that are multiples of this are profiled, see `nas.profiling.sizes`.

    Raises:
        UserError: the latency of the full network does not become stable.
    """
    header, version = bench.header(multiple_of), bench.deployment.version()
    machine = this_machine(bench.subject.accelerator(bench.deployment.runtime))
    return DeviceProfile(**header, machine=machine, runtime_version=version, reference=stable_reference(bench), rows=())


def stable_reference(bench: Bench) -> Timing:
    """Measure the full network; raises UserError if its latency does not become stable in five attempts.

    All rows are relative to it, so an imprecise reference would shift the whole profile.
    """
    for _ in range(_REFERENCE_TRIES):
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
    measure: MeasureTiming,
    effort: Effort,
    *,
    seed: int,
    path: Path | None = None,
    on_row: OnRow | None = None,
    on_refused: OnRefused | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> DeviceProfile:
    """Add rows to a profile until the effort is spent.

    Args:
        profile: a new or interrupted profile; unstable rows are measured again.
        subject: the network whose candidates are measured.
        measure: measures one candidate; candidates for which it raises NotTaken are skipped.
        effort: when to stop.
        seed: of the choice of candidates.
        path: file that the profile is written to after every row; None writes nothing.
        on_row: called after every row with the profile and the row.
        on_refused: called with every candidate that was skipped.
        clock: returns the time in seconds.

    Returns:
        The profile with all rows.

    Raises:
        UserError: most rows are unstable, or the runtime does not support most candidates.
    """
    collection = _Collection(profile, subject, effort, seed, clock)
    for candidate in collection.wanted():
        try:
            timing = measure(candidate)
        except NotTaken as error:
            collection.leave_out(candidate, error)
            if on_refused is not None:
                on_refused(candidate, error)
            continue
        row = collection.add(candidate, timing)
        if path is not None:
            write_profile(collection.profile, path)
        if on_row is not None:
            on_row(collection.profile, row)
    return collection.profile


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
    """Measure some sub-networks on this machine, so that the latency of all others can be predicted anywhere.

    Args:
        supernet: in evaluation mode, on the device to measure; its weights do not matter.
        example_inputs: positional or keyword tensors with the batch size and length to measure.
        seed: of the choice of sub-networks.
        runtime: executes the networks; `nas doctor` lists those that are usable on this machine.
        precision: precision of the computation, which the runtime must support.
        threads: number of threads of the runtime.
        budget: number of distinct sub-networks.
        minutes: time after which no further sub-network is started, once 20 are measured; None: no limit.
        tolerance: largest half-width of the 95 % interval of a ratio to the full network, relative to the ratio; less
            precise rows are unstable.
        path: a JSON file that is written after every row; read it with `hardware.read_profile`.
        name: name of the model in the profile; the default is the class of the model.

    Returns:
        The profile.

    Raises:
        UserError: the runtime cannot be used on this machine, or latencies do not become stable.
    """
    subject = Subject(name or type(supernet.model).__name__, supernet, example_inputs, supernet.space)
    bench = Bench.of(subject, subject.deployment(runtime, precision, threads), tolerance)
    effort = Effort(budget, None if minutes is None else 60 * minutes)
    return grow(begin(bench), subject, bench.measure, effort, seed=seed, path=path)


def planned(subject: Subject, count: int, seed: int) -> list[Candidate]:
    """Choose `count` distinct candidates in advance, for a device that cannot run the adaptive choice.

    Returns:
        The candidates in the order of measurement; the first are those of `checked_twice`.
    """
    return list(dict.fromkeys([*checked_twice(subject, count, seed), *_designed(subject, count, seed)]))[:count]


def checked_twice(subject: Subject, budget: int, seed: int) -> list[Candidate]:
    """The random candidates that are measured at the start and at the end: a sixth of the budget, at most ten."""
    rng = generator(seed, "profiled twice")
    found = dict.fromkeys(subject.space.sample(rng) for _ in range(min(_MAX_REPEATED, max(1, budget // 6))))
    return list(found)


class _Collection:
    """A profile in progress: the rows so far, and which candidate to measure next."""

    def __init__(
        self, profile: DeviceProfile, subject: Subject, effort: Effort, seed: int, clock: Callable[[], float]
    ) -> None:
        # Without its unstable rows, the candidates of these are measured again.
        stable = tuple(row for row in profile.rows if row.timing.stable)
        self.profile = profile.model_copy(update={"rows": stable})
        self._subject, self._effort, self._seed, self._clock = subject, effort, seed, clock
        self._twice = checked_twice(subject, effort.budget, seed)
        self._began, self._new = clock(), 0
        self._now = self._began
        whole = subject.whole
        self._times = Counter(whole.candidate(row.candidate) for row in stable)
        self._refused: list[Candidate] = []

    def add(self, candidate: Candidate, timing: Timing) -> ProfileRow:
        """Append a row with the timing of `candidate`, and return it."""
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
        """Skip a candidate that the runtime does not support; raises UserError once too many are skipped."""
        self._refused.append(candidate)
        enough = min(_MAX_UNSUPPORTED, self._effort.budget, self._subject.space.size())
        if len(self._refused) >= enough and len(self._refused) > len(self.profile.rows):
            raise UserError(
                f"{len(self._refused)} sub-networks could not be measured, more than could; the last: {why}"
            )

    def wanted(self) -> Iterator[Candidate]:
        """Generate the candidates to measure; add or skip each one before requesting the next."""
        # Two thirds of the budget follow the design, the rest is chosen by the predictor.
        designed = _designed(self._subject, max(1, self._effort.budget * 2 // 3), self._seed)
        for candidate in (*self._twice, *designed):
            if not self._times[candidate] and self._goes_on():
                yield candidate
        while self._goes_on():
            for candidate in _least_certain(self.profile, self._subject, self._seed, self._refused):
                if self._goes_on():
                    yield candidate
        # The second measurements come last, as far as possible from the first ones in time.
        for candidate in self._twice:
            if self._times[candidate] == 1:
                yield candidate

    def _goes_on(self) -> bool:
        """Whether budget and time allow one more distinct candidate."""
        done, effort = sum(times > 0 for times in self._times.values()), self._effort
        if done >= min(effort.budget, self._subject.space.size() - len(set(self._refused))):
            return False
        if effort.seconds is None or done < min(LEAST, effort.budget):
            return True
        spent = self._clock() - self._began
        # The mean time of a row predicts the next one and the second measurements at the end.
        return spent + (1 + len(self._twice)) * spent / max(1, self._new) < effort.seconds


def _designed(subject: Subject, count: int, seed: int) -> list[Candidate]:
    """`count` candidates that a linear model learns most from, see `nas.profiling.design`."""
    whole, rng = subject.whole, generator(seed, "profile design")
    encoded = translation(subject.space, whole)
    rows = encoded(first_rows(subject.space)[:count])
    features = features_of_design(whole, subject.kernels)
    further = most_telling(encoded(pool(subject.space, rng)), rows, features, count - len(rows))
    return whole.decode(np.concatenate([rows, further]))


def _least_certain(
    profile: DeviceProfile, subject: Subject, seed: int, refused: Sequence[Candidate]
) -> Sequence[Candidate]:
    """A batch of candidates whose predicted latency is least certain; one random candidate if none is left.

    Uncertainty is relative to the prediction, as the predictor minimises relative errors.
    """
    # Seeded by the progress so far, so that every batch draws another pool, and a repetition the same ones.
    whole, rng = subject.whole, generator(seed, "profile batch", len(profile.rows) + len(refused))
    candidates = translation(subject.space, whole)(pool(subject.space, rng))
    if refused:
        candidates = candidates[~(candidates[:, None] == whole.encode(refused)).all(axis=2).any(axis=1)]
    mean, spread = fitted(profile, whole, subject.kernels).predict(candidates)
    uncertainty = spread / np.maximum(mean, 1e-9)
    measured, _ = learned_rows(profile, whole)
    features = features_of_design(whole, subject.kernels)
    found = whole.decode(most_telling(candidates, measured, features, _BATCH, uncertainty))
    return found or [subject.space.sample(rng)]
