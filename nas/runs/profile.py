"""`nas profile`: from what the user names to a device profile in a file; stopped and repeated, it goes on."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from hardware.inputs import device_of
from hardware.machine import this_machine
from hardware.profile import DeviceProfile, ProfileRow, noise_floor, write_profile
from nas.console import Bar, say
from nas.errors import NotTaken, UserError
from hardware.deployment import Deployment
from nas.profiling.bench import Bench
from nas.profiling.collection import Effort, begin, checked_twice, grow, stable_reference
from nas.profiling.profiles import profile_at
from nas.profiling.rows import held_out
from nas.profiling.subject import Subject, differences
from nas.runs.profiled import open_subject
from nas.runs.requests import ProfileRequest
from nas.settings import ProfileSettings
from predictors import Quality
from search_spaces import Candidate

BUDGET = 100
NOISY = 0.05


def profile_device(request: ProfileRequest, out: Path) -> dict[str, Any]:
    """Profile this machine and write the profile (JSON) to `out`, or go on with the one there.

    Raises:
        UserError: wrong input, a runtime that is not installed, a profile of something else in `out`, or latencies that
            do not get stable.
    """
    subject, settings, seed = open_subject(request), request.settings, request.common.seed
    bench = bench_of(subject, settings)
    profile = _begun(out, subject, settings, bench)
    effort = Effort(settings.budget or BUDGET, None if settings.minutes is None else 60 * settings.minutes)
    with Bar(f"Profiling {settings.runtime}", _count(subject, request)) as bar:

        def on_row(grown: DeviceProfile, row: ProfileRow) -> None:
            told = f"{grown.latency_ms(row):.4g} ms, {grown.ratio(row.timing):.3f} of the full network"
            bar.update(len(grown.rows), told if row.timing.stable else f"{told}, not stable")

        def on_refused(candidate: Candidate, why: NotTaken) -> None:
            say(f"One sub-network is left out: {why}")

        profile = grow(
            profile, subject, bench.measure, effort, seed=seed, path=out, on_row=on_row, on_refused=on_refused
        )
    return told_of(profile, subject, out)


def estimate(request: ProfileRequest) -> dict[str, Any]:
    """Time of `profile_device`, from the smallest and the largest sub-network; writes nothing, errors as there."""
    subject, settings = open_subject(request), request.settings
    bench = bench_of(subject, settings)
    bench.reference()
    started = time.monotonic()
    for candidate in (subject.space.smallest(), subject.space.largest()):
        # What the runtime does not take is left out of a profile, and takes its time too.
        with suppress(NotTaken):
            bench.measure(candidate)
    each = (time.monotonic() - started) / 2
    seconds = each * _count(subject, request)
    return {
        "sub_networks": str(subject.space.size()),
        "budget": settings.budget or BUDGET,
        "seconds_a_sub_network": each,
        "seconds": seconds if settings.minutes is None else min(seconds, 60 * settings.minutes),
    }


def _count(subject: Subject, request: ProfileRequest) -> int:
    """Measurements at most: those of the budget, and some of them again."""
    budget = request.settings.budget or BUDGET
    return min(budget, subject.space.size()) + len(checked_twice(subject, budget, request.common.seed))


def asked_of_profile(subject: Subject, settings: ProfileSettings) -> dict[str, object]:
    """What a profile must be of to go on with it, or to be taken for it."""
    return {
        **subject.asked,
        "multiple_of": settings.multiple_of,
        "runtime": settings.runtime,
        "device": device_of(subject.supernet).type,
        "precision": settings.precision,
        "threads": settings.threads,
    }


def told_of(profile: DeviceProfile, subject: Subject, out: Path) -> dict[str, Any]:
    """What a profile says, in one object; UserError where its latencies did not get stable."""
    judged = held_out(profile, subject.supernet.space, subject.kernels)
    floor = noise_floor(profile)
    if floor is not None and floor > NOISY:
        say(
            f"The same sub-network differs by {100 * floor:.1f} % from beginning to end: stop what else runs "
            "on that machine, fix its clock, and profile it anew for better predictions"
        )
    return {
        "profile": str(out),
        "model": profile.model.name,
        "runtime": f"{profile.runtime} {profile.runtime_version}",
        "precision": profile.precision,
        "threads": profile.threads,
        "batch": profile.batch,
        "tokens": profile.tokens,
        "sub_networks": len({row.key for row in profile.rows}),
        "full_network_ms": profile.full_ms,
        "noise_floor_percent": None if floor is None else 100 * floor,
        "held_out": None if judged is None else _judged(judged),
        "seconds": sum(row.seconds for row in profile.rows),
    }


def _judged(found: Quality) -> dict[str, float | None]:
    """How well rows were predicted by the others."""
    return {
        "mape_percent": found.mape,
        "kendall_tau": found.kendall_tau,
        "inside_90_percent_intervals": found.coverage,
    }


def bench_of(subject: Subject, settings: ProfileSettings) -> Bench:
    """What measures candidates; UserError where the runtime cannot be used here."""
    deployment = subject.deployment(settings.runtime, settings.precision, settings.threads)
    return Bench.of(subject, deployment, settings.tolerance)


def _begun(out: Path, subject: Subject, settings: ProfileSettings, bench: Bench) -> DeviceProfile:
    """The profile in `out`, which must be of the same, or a new one that holds the full network alone."""
    asked = asked_of_profile(subject, settings)
    if out.exists():
        machine, version = this_machine(subject.accelerator), bench.deployment.version()
        found = profile_at(out)
        wrong = differences(found, asked)
        if found.machine != machine:
            wrong = [
                *wrong,
                f"the machine is {found.machine.processor} in the profile and this one is another or changed",
            ]
        if found.runtime_version != version:
            wrong = [
                *wrong,
                f"{settings.runtime} is of version {found.runtime_version} in the profile and {version} here",
            ]
        if found.protocol != bench.protocol:
            wrong = [*wrong, "it was measured with another --tolerance or by another clock"]
        if wrong:
            raise UserError(f"{out} is another profile: {wrong[0]}; name another --out")
        return found if found.reference.stable else found.model_copy(update={"reference": stable_reference(bench)})
    if not out.parent.is_dir():
        raise UserError(f"the profile needs a folder to be in, there is no {out.parent}; make it first")
    profile = begin(bench, settings.multiple_of)
    write_profile(profile, out)
    return profile
