"""The front of a search by predicted latencies, measured again where its devices are here, and the choice from it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import pydantic

from hardware.inputs import device_of
from hardware.machine import this_machine
from hardware.profile import DeviceProfile
from nas.console import Bar, say
from nas.errors import NoFeasible, NotTaken, UserError
from nas.profiling.bench import Bench, Target
from nas.profiling.objective import PredictedLatency
from nas.profiling.subject import Subject
from nas.profiling.verification import Measure, Verified, agreements, best_known, offered, verify
from nas.records import Record, Scalar, read_record, write_record
from nas.runs.objectives import expanded
from nas.searching.measurement import Measurement
from nas.searching.selection import select
from nas.searching.study import Study
from nas.settings import Limits

_NAME = "verified.json"
_MOST = 60
"""So many of a front are measured again by one command, from its one end to the other."""
_FURTHER = 10


class VerifiedRow(Record):
    """Latencies of one sub-network by the name of the objective, in milliseconds: predicted, and measured again; what
    did not get stable, and what the runtime does not take, is only named."""

    candidate: dict[str, Scalar]
    predicted: dict[str, float]
    measured: dict[str, float]
    unstable: list[str]
    refused: list[str] = pydantic.Field(default_factory=list)


class Verification(Record):
    """`verified.json`: what was measured again after a search by predicted latencies."""

    version: Literal[1] = 1
    rows: list[VerifiedRow] = pydantic.Field(max_length=10_000)


def verify_front(place: Path, study: Study, predicted: Mapping[str, PredictedLatency]) -> list[Verified]:
    """Measure the front again on the devices that are here, and with limits what is best as measured.

    What an earlier call measured is not measured again; every result is kept at once.

    Args:
        place: folder of the search.
        study: whose front it is.
        predicted: by the name of the objective.
    """
    benches = {name: bench for name, each in predicted.items() if (bench := _bench(name, each)) is not None}
    if not benches:
        return verified_of(place, study)
    devices = {name: (predicted[name].profile, bench.measure) for name, bench in benches.items()}
    found = {each.candidate: each for each in verified_of(place, study)}

    def missing(member: Measurement) -> dict[str, tuple[DeviceProfile, Measure]]:
        before = found.get(member.candidate)
        done = {*before.measured, *before.refused} if before else set()
        return {name: device for name, device in devices.items() if name not in done}

    def measure(member: Measurement) -> Verified:
        before, new = found.get(member.candidate), verify([member], missing(member), _tell_refused)[0]
        # What was measured on another device, in another place, stays.
        found[member.candidate] = before.with_newer(new) if before else new
        _write(place, list(found.values()))
        return found[member.candidate]

    front = _spread([member for member in study.front() if missing(member)])
    with Bar("Measuring the front", len(front)) as bar:
        for number, member in enumerate(front, 1):
            bar.update(number, _shown(measure(member)))
    for _ in range(_FURTHER):
        best = _best(study, list(found.values()))
        if best is None or best.candidate in found:
            break
        measure(best)
    return list(found.values())


def verified_of(place: Path, study: Study) -> list[Verified]:
    """What was measured again of the search in a folder; UserError where the record is damaged."""
    path = place / _NAME
    if not path.is_file():
        return []
    try:
        return [
            Verified(
                study.space.candidate(row.candidate),
                row.predicted,
                row.measured,
                frozenset(row.unstable),
                frozenset(row.refused),
            )
            for row in read_record(path, Verification).rows
        ]
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error


def chosen_of(study: Study, verified: Sequence[Verified], limits: Limits) -> Measurement:
    """The best within the limits of what is offered, with latencies as measured again where they were.

    Raises:
        UserError: a limit on something that the search did not measure.
        NoFeasible: nothing meets the limits.
    """
    return select(
        offered(study, verified), study.objectives, expanded(limits.given(), [o.name for o in study.objectives])
    )


def agreement_of(study: Study, verified: Sequence[Verified]) -> dict[str, Any]:
    """How predicted and measured latencies agree over the front, by the name of the objective; empty: none measured."""
    found = agreements(study.front(), study.objectives, verified)
    return {"verified": {name: asdict(agreement) for name, agreement in found.items()}} if found else {}


def tell_agreement(study: Study, verified: Sequence[Verified]) -> None:
    """Say how predicted and measured latencies agree, and what did not get stable."""
    for name, agreement in agreements(study.front(), study.objectives, verified).items():
        tau = "" if agreement.kendall_tau is None else f", Kendall tau {agreement.kendall_tau:.2f}"
        say(
            f"{name} of {agreement.count} sub-networks measured again: predicted with a mean error of "
            f"{agreement.mape:.1f} %{tau}; {agreement.non_dominated} of the front are still on it"
        )
    unstable = sum(len(each.unstable) for each in verified)
    if unstable:
        say(f"{unstable} of these measurements did not get stable; something else runs on this machine")


def tell_unmeasured(study: Study, verified: Sequence[Verified], profiled: Collection[str]) -> None:
    """Say how much of the front has predicted latencies alone, of those objectives that come from profiles."""
    done = {each.candidate: {*each.measured, *each.refused} for each in verified}
    front = study.front()
    missing = sum(not set(profiled) <= done.get(member.candidate, set()) for member in front)
    if missing:
        say(
            f"{missing} of the {len(front)} sub-networks of the front have predicted latencies that were not measured "
            "again; the same nas search, where the device is, measures what is missing"
        )


def _spread(front: Sequence[Measurement]) -> list[Measurement]:
    """At most so many as one command measures, the ends among them."""
    if len(front) <= _MOST:
        return list(front)
    return [front[round(place * (len(front) - 1) / (_MOST - 1))] for place in range(_MOST)]


def _best(study: Study, verified: Sequence[Verified]) -> Measurement | None:
    """The best of the whole study within its limits, as far as is known: measured where measured, else predicted."""
    if all(objective.limit is None for objective in study.objectives):
        return None
    try:
        return select(best_known(study.measurements, verified), study.objectives, {})
    except NoFeasible:
        return None


def _bench(name: str, predicted: PredictedLatency) -> Bench | None:
    """What measures on a profile's device; None, with a sentence, where that is not here."""
    profile, subject = predicted.profile, predicted.subject
    target = Target(profile.runtime, profile.precision, profile.threads, profile.device)
    why = elsewhere(profile, subject)
    if why is None:
        try:
            make = target.maker()
            if target.version() != profile.runtime_version:
                why = f"{profile.runtime} is of version {target.version()} here, {profile.runtime_version} there"
        except UserError as error:
            why = str(error)
    if why is not None:
        say(f"{name} is not measured again: {why}")
        return None
    return Bench(subject, target, make, profile.protocol)


def elsewhere(profile: DeviceProfile, subject: Subject) -> str | None:
    """Why what is measured here does not compare with a profile; None where it does."""
    here, there, device = this_machine(subject.accelerator), profile.machine, device_of(subject.supernet).type
    if device != profile.device:
        return f"it is of a network on {profile.device}, this one is on {device}; search with --device {profile.device}"
    if any(getattr(here, name) != getattr(there, name) for name in ("processor", "cores", "features", "accelerator")):
        with_gpu = f" and {there.accelerator}" if there.accelerator else ""
        return f"its machine is another one, {there.processor} with {there.cores} cores{with_gpu}"
    return None


def _tell_refused(name: str, why: NotTaken) -> None:
    say(f"{name} of one sub-network is not measured, so that it is not offered: {why}")


def _write(place: Path, found: Sequence[Verified]) -> None:
    rows = [
        VerifiedRow(
            candidate=dict(each.candidate),
            predicted=dict(each.predicted),
            measured=dict(each.measured),
            unstable=sorted(each.unstable),
            refused=sorted(each.refused),
        )
        for each in found
    ]
    write_record(place / _NAME, Verification(rows=rows))


def _shown(verified: Verified) -> str:
    return ", ".join(
        f"{name} {verified.predicted[name]:.4g} predicted, {value:.4g} measured"
        for name, value in verified.measured.items()
        if name in verified.predicted
    )
