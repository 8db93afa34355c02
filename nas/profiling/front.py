"""Verify the front of a search on the files of its deployment and on the devices of its profiles.

A search scores float32 networks and may use predicted latencies, while the result is delivered as files in one runtime
and precision. The members of the front are therefore measured on such files before one of them is chosen.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self

import pydantic

from hardware.backend import Runner
from hardware.deployment import Deployment
from hardware.machine import this_machine
from hardware.profile import DeviceProfile
from nas.console import Bar, say
from nas.errors import NoFeasible, NotTaken, UserError
from nas.objectives import SCORES, check_values, quantity
from nas.profiling.bench import Bench, require
from nas.profiling.objective import PredictedLatency
from nas.profiling.subject import Subject
from nas.profiling.verification import (
    MeasureAgain,
    Remeasuring,
    Verified,
    agreements,
    best_known,
    expected,
    offered,
    verify,
)
from nas.records import Count, Record, Scalar, Whole, read_record, write_record
from nas.searching.estimation import Hits
from nas.searching.measurement import Measurement
from nas.searching.objectives import on_every_device
from nas.searching.selection import select
from nas.searching.study import Study
from nas.settings import SearchSettings
from search_spaces import Candidate, Space

_FILE_NAME = "verified.json"
_MOST_BYTES = 1 << 26
"""Of a file of the most rows, each with a precision for each layer of a large network."""
MOST_VERIFIED = SearchSettings.verify
_MAX_FURTHER = 10
"""Largest number of candidates outside the front that are measured because measured values broke a limit."""
_AGREE = 0.6
"""Least rank correlation between the scores of a search and those of its files."""


class VerifiedRow(Record):
    """The JSON of a `Verified`: predicted and measured values of one sub-network by the name of the objective.

    `hits` are the bits of the right ones of `rows` validation rows, as hexadecimal digits.
    """

    candidate: dict[str, Scalar]
    predicted: dict[str, float]
    measured: dict[str, float]
    unstable: list[str]
    refused: list[str] = pydantic.Field(default_factory=list)
    hits: str | None = None
    rows: Whole = 0
    searched_rows: Count | None = None

    @pydantic.model_validator(mode="after")
    def _of_their_kind(self) -> Self:
        check_values({**self.predicted, **self.measured})
        return self


class Verification(Record):
    """The content of `verified.json`."""

    version: Literal[1] = 1
    rows: list[VerifiedRow] = pydantic.Field(max_length=10_000)


def verify_front(
    folder: Path, study: Study, again: Remeasuring, rivals: Sequence[Measurement] = (), most: int = MOST_VERIFIED
) -> list[Verified]:
    """Measure the front again and, if there are limits, the best candidates until one meets them as measured.

    Results of an earlier call are reused, and every new result is written at once, so that an interrupted verification
    continues.

    Args:
        folder: folder of the search.
        study: the study of the search.
        again: what is measured.
        rivals: candidates off the front that are measured too, because noise may have kept them off it.
        most: members of the front that are measured at most: with limits the best of them, else spread evenly.

    Returns:
        All verified candidates, including those of earlier calls.

    Raises:
        UserError: the record is damaged.
    """
    if not again.measures:
        return read_verified(folder, study.space)
    found = {each.candidate: each for each in read_verified(folder, study.space)}

    def missing(candidate: Candidate) -> Remeasuring:
        before = found.get(candidate)
        return again if before is None else again.without(before.done)

    def measure(member: Measurement) -> Verified:
        before, new = found.get(member.candidate), verify(member, missing(member.candidate), _say_refused)
        # Keep what was measured on other devices: the folder may be carried from one to the next.
        found[member.candidate] = before.with_newer(new) if before else new
        _write(folder, list(found.values()))
        return found[member.candidate]

    limited = any(objective.limit is not None for objective in study.objectives)
    # Without limits the same command goes on with the next ones of a long front.
    left = [member for member in study.front()[: most if limited else None] if missing(member.candidate).measures]
    front = left if limited else _spread(left, most)
    known = {member.candidate for member in study.front()}
    front += [member for member in rivals if member.candidate not in known and missing(member.candidate).measures]
    with Bar("Measuring the front", len(front)) as bar:
        for number, member in enumerate(front, 1):
            bar.update(number, _shown(measure(member)))
    # Measured values may break a limit that those of the search met. The best candidate is then another one, perhaps
    # outside the front, which must be measured as well.
    further = _next(study, list(found.values()))
    if further is not None:
        with Bar("Measuring candidates beside the front", _MAX_FURTHER) as bar:
            for number in range(1, _MAX_FURTHER + 1):
                bar.update(number, _shown(measure(further)))
                further = _next(study, list(found.values()))
                if further is None:
                    break
    return list(found.values())


def on_devices(
    predicted: Mapping[str, PredictedLatency],
    deployment: Deployment | None = None,
    run: Callable[[Candidate], Runner] | None = None,
) -> dict[str, MeasureAgain]:
    """Functions that measure predicted latencies, by the name of the objective, for the profiles of this machine.

    Profiles of other machines are skipped with a message, because latencies measured here would not compare with them.

    Args:
        predicted: by the name of the objective.
        deployment: that files of candidates are written in.
        run: these files, loaded; profiles of the deployment are measured with them.
    """
    benches = {name: _bench(name, each) for name, each in predicted.items()}
    return {
        name: latency_of(bench, predicted[name].profile, run if bench.deployment == deployment else None)
        for name, bench in benches.items()
        if bench is not None
    }


def latency_of(bench: Bench, profile: DeviceProfile, run: Callable[[Candidate], Runner] | None = None) -> MeasureAgain:
    """A function that measures the latency of a candidate in milliseconds, so that it compares with a profile's.

    Args:
        bench: measures beside the full network.
        profile: of the same device and deployment.
        run: candidates as callables; None: as the bench converts them.
    """

    def latency_ms(candidate: Candidate) -> float | None:
        timing = bench.measure(candidate) if run is None else bench.beside_full(run(candidate))
        # Relative to the profiled full network, so that the value compares with predictions.
        return profile.ratio(timing) * profile.full_ms if timing.stable else None

    return latency_ms


def read_verified(folder: Path, space: Space) -> list[Verified]:
    """Read the verified candidates of the search of `space` in a folder; raises UserError if the record is damaged."""
    path = folder / _FILE_NAME
    if not path.is_file():
        return []
    record = read_record(path, Verification, _MOST_BYTES)
    if len({row.rows for row in record.rows if row.hits is not None}) > 1:
        raise UserError(f"{path} is damaged: its hits must be of the same rows; begin anew with another search")
    try:
        return [
            Verified(
                space.candidate(row.candidate),
                row.predicted,
                row.measured,
                frozenset(row.unstable),
                frozenset(row.refused),
                None if row.hits is None else Hits.from_hex(row.hits, row.rows),
                row.searched_rows,
            )
            for row in record.rows
        ]
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error


def choose(study: Study, verified: Sequence[Verified], limits: Mapping[str, float]) -> Measurement:
    """Select the best candidate within the limits, by measured values where there are any.

    Args:
        study: the study of the search.
        verified: its verified candidates.
        limits: by flag name, e.g. `max_latency_ms`, in addition to those of the objectives.

    Raises:
        UserError: a limit on a quantity that the search did not measure.
        NoFeasible: no candidate meets the limits.
    """
    bounds = on_every_device(limits, [o.name for o in study.objectives])
    try:
        return select(offered(study, verified), study.objectives, bounds)
    except NoFeasible:
        # The nearest of all that was measured is named, not only of what was measured again.
        select(best_known(study.measurements, verified), study.objectives, bounds)
        raise


def agreement_record(study: Study, verified: Sequence[Verified]) -> dict[str, Any]:
    """Agreement of predicted and measured values over the front, as JSON; empty if nothing was verified."""
    found = agreements(study.front(), study.objectives, verified)
    return {"verified": {name: asdict(agreement) for name, agreement in found.items()}} if found else {}


def say_agreement(study: Study, verified: Sequence[Verified]) -> None:
    """Print the agreement of predicted and measured values, and how many measurements were unstable."""
    for name, agreement in agreements(study.front(), study.objectives, verified).items():
        tau = "" if agreement.kendall_tau is None else f", Kendall tau {agreement.kendall_tau:.2f}"
        error = "" if agreement.mape is None else f", off by {agreement.mape:.1f} % in the mean"
        say(
            f"{name} of {agreement.count} sub-networks measured again{error}{tau}; "
            f"{agreement.non_dominated} of the front are still on it"
        )
        if name in SCORES and agreement.kendall_tau is not None and agreement.kendall_tau < _AGREE:
            say(
                f"The search and its files rank these by {name} differently: go by the measured values, and search "
                "with more --rows or a larger --budget"
            )
    unstable = sum(len(each.unstable) for each in verified)
    if unstable:
        say(f"{unstable} of these measurements did not get stable; something else runs on this machine")


def say_unmeasured(
    study: Study, verified: Sequence[Verified], profiled: Collection[str], of_files: Collection[str] = ()
) -> None:
    """Print how many members of the front have only predicted latencies for the objectives `profiled`."""
    done = {each.candidate: each.done for each in verified}
    front = study.front()

    def missing(names: Collection[str]) -> int:
        return sum(not set(names) <= done.get(member.candidate, frozenset()) for member in front)

    if count := missing(profiled):
        say(
            f"{count} of the {len(front)} sub-networks of the front have predicted latencies that were not measured "
            "again; the same nas search, where the device is, measures what is missing"
        )
    if count := missing(of_files):
        say(
            f"{count} of the {len(front)} sub-networks of the front were not measured as they are delivered; the same "
            "nas search measures what is missing (with limits, one with a larger --verify)"
        )


def _spread(front: Sequence[Measurement], most: int) -> list[Measurement]:
    """At most `most` members, spread evenly along the front, including its ends."""
    if len(front) <= most:
        return list(front)
    return [front[round(index * (len(front) - 1) / max(1, most - 1))] for index in range(most)]


def _next(study: Study, verified: Sequence[Verified]) -> Measurement | None:
    """What to measure next so that the choice within the limits of the study is one that was measured again.

    None if it is, if there are no limits, or if no candidate that was not measured again meets them.
    """
    if all(objective.limit is None for objective in study.objectives):
        return None
    again = {each.candidate for each in verified}
    rest = [member for member in best_known(study.measurements, verified) if member.candidate not in again]
    try:
        best = select(expected(study, verified), study.objectives, {})
        if best.candidate not in again:
            return best
        select(offered(study, verified), study.objectives, {})
    except NoFeasible:
        # Estimates may break a limit on accuracy that measured values meet: perhaps another candidate's does not.
        with suppress(NoFeasible):
            return select(rest, study.objectives, {})
    return None


def _bench(name: str, predicted: PredictedLatency) -> Bench | None:
    """A bench for the device of a profile; None, with a message, if that is not this machine."""
    profile, subject = predicted.profile, predicted.subject
    deployment = Deployment.of_profile(profile)
    try:
        require(deployment)
        why = elsewhere(profile, subject)
        # Another version of a runtime may execute the same network with other kernels.
        if why is None and deployment.version() != profile.runtime_version:
            why = f"{profile.runtime} is of version {deployment.version()} here, {profile.runtime_version} there"
    except UserError as error:
        why = str(error)
    if why is not None:
        say(f"{name} is not measured again: {why}")
        return None
    return Bench(subject, deployment, profile.protocol)


def elsewhere(profile: DeviceProfile, subject: Subject) -> str | None:
    """Why latencies measured on this machine do not compare with those of a profile; None if they do."""
    here, there = this_machine(subject.accelerator(profile.runtime)), profile.machine
    device = subject.device(profile.runtime)
    if device != profile.device:
        remedy = "--device cpu" if profile.device == "cpu" else "--device auto on a machine with a GPU"
        return f"it is of a network on {profile.device}, this one is on {device}; search with {remedy}"
    if any(getattr(here, name) != getattr(there, name) for name in ("processor", "cores", "features", "accelerator")):
        with_gpu = f" and {there.accelerator}" if there.accelerator else ""
        return f"its machine is another one, {there.processor} with {there.cores} cores{with_gpu}"
    return None


def _say_refused(name: str, why: NotTaken) -> None:
    say(f"{name} of one sub-network is not measured, so that it is not offered: {why}")


def _write(folder: Path, found: Sequence[Verified]) -> None:
    rows = [
        VerifiedRow(
            candidate=dict(each.candidate),
            predicted=dict(each.predicted),
            measured=dict(each.measured),
            unstable=sorted(each.unstable),
            refused=sorted(each.refused),
            hits=None if each.hits is None else each.hits.to_hex(),
            rows=0 if each.hits is None else each.hits.rows,
            searched_rows=each.searched_rows,
        )
        for each in found
    ]
    write_record(folder / _FILE_NAME, Verification(rows=rows), indent=None)


def _shown(verified: Verified) -> str:
    """The measured values for a progress bar, beside the predicted ones where there are any."""
    parts = []
    for name, value in verified.measured.items():
        known = quantity(name)
        predicted = verified.predicted.get(name)
        before = "" if predicted is None else f"{known.shown(predicted)} predicted, "
        parts.append(f"{known.label} {before}{known.shown(value)} measured")
    return ", ".join(parts)
