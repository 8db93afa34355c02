"""`nas profile`: from what the user names to a device profile in a file; stopped and repeated, it goes on."""

import math
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hardware.files import sweep
from hardware.machine import this_machine
from hardware.profile import BY_LAYER, MOST_THREADS, DeviceProfile, ProfileRow, noise_floor, write_profile
from hardware.pytorch import runner
from hardware.registry import device_for
from hardware.waiting import Waiting
from nas.console import Bar, say
from nas.data.split import InputKind
from nas.errors import NotTaken, UserError
from nas.files import located
from nas.learning.preparation import supernet_of
from nas.networks.loading import device_name, image_size, is_own
from nas.networks.own_model import own_model, own_preprocessor
from nas.networks.plain_layers import in_plain_layers
from nas.networks.policies import joined_space
from nas.networks.pretrained import example_inputs
from nas.networks.untrained import made_inputs, untrained
from nas.profiling.bench import Bench
from nas.profiling.collection import Effort, begin, checked_twice, grow, stable_reference
from nas.profiling.profiles import profile_at
from nas.profiling.rows import candidates_of, held_out
from nas.profiling.sizes import with_multiples
from nas.profiling.subject import Subject, differences
from nas.records import MOST
from nas.runs.folder import RunFolder
from nas.runs.loading import load_run
from nas.runs.precisions import check_by_layer, precision_choices
from nas.runs.requests import ProfileRequest, SubjectRequest
from nas.settings import KitSettings, ModelSettings, ProfileSettings, SpaceSettings
from predictors import Quality
from search_spaces import Candidate, Supernet
from search_spaces.inputs import Inputs

NOISY = 0.05
_OUTPUTS = 2


@dataclass(frozen=True)
class _Checked:
    """What is measured and by what, and the profile that is there already."""

    subject: Subject
    bench: Bench
    profile: DeviceProfile | None
    measurements: int
    """At most: those of the budget, and some of them again."""


def profile_device(request: ProfileRequest) -> dict[str, Any]:
    """Profile this machine and write the profile (JSON) to `out`, or go on with the one there.

    Raises:
        UserError: wrong input, a runtime that is not installed, a profile of something else in `out`, or latencies that
            do not get stable.
    """
    checked = _checked(request)
    return summary_of(_grown(checked, request), checked.subject, request.out)


def profile_beside_eager(request: ProfileRequest) -> tuple[dict[str, Any], float]:
    """What `profile_device` returns, and the latency of the full network in eager PyTorch in milliseconds.

    Raises:
        UserError: as `profile_device`; or the latency in PyTorch does not get stable.
    """
    checked = _checked(request)
    profile = _grown(checked, request)
    eager = runner(checked.subject.supernet.model, threads=checked.bench.deployment.threads)
    timing = checked.bench.beside_full(eager)
    if not timing.stable:
        raise UserError("the latency in PyTorch did not get stable; stop what else runs on this machine and repeat it")
    return summary_of(profile, checked.subject, request.out), profile.ratio(timing) * profile.full_ms


def _grown(checked: _Checked, request: ProfileRequest) -> DeviceProfile:
    """The profile with all rows that are asked for."""
    settings, out = request.settings, request.out
    effort = Effort(settings.budget, None if settings.minutes is None else 60 * settings.minutes)
    with Bar(f"Profiling {settings.runtime}", checked.measurements) as bar:

        def on_row(grown: DeviceProfile, row: ProfileRow) -> None:
            figures = f"{grown.latency_ms(row):.4g} ms, {grown.ratio(row.timing):.3f} of the full network"
            bar.update(len(grown.rows), figures if row.timing.stable else f"{figures}, not stable")

        def on_refused(candidate: Candidate, why: NotTaken) -> None:
            say(f"One sub-network is left out: {why}")

        return grow(
            _begun(checked, settings, out),
            checked.subject,
            checked.bench.measure,
            effort,
            seed=request.common.seed,
            path=out,
            on_row=on_row,
            on_refused=on_refused,
        )


def estimate(request: ProfileRequest) -> dict[str, Any]:
    """Time of `profile_device`, from the smallest sub-network and the full network; writes nothing, errors as there."""
    checked, settings = _checked(request), request.settings
    space = checked.subject.space
    checked.bench.reference()
    started = time.monotonic()
    for candidate in (space.smallest(), space.full()):
        # What the runtime does not take is left out of a profile, and takes its time too.
        with suppress(NotTaken):
            checked.bench.measure(candidate)
    each = (time.monotonic() - started) / 2
    seconds = each * checked.measurements
    return {
        "sub_networks": str(space.size()),
        "budget": settings.budget,
        "seconds_a_sub_network": each,
        "seconds": seconds if settings.minutes is None else min(seconds, 60 * settings.minutes),
    }


def _checked(request: ProfileRequest) -> _Checked:
    """Everything that can be refused before anything is measured or written."""
    settings = request.settings
    check_ranges(settings)
    asked = request.common.device
    # The super-network is where its networks are computed, so that eager PyTorch is measured beside them there.
    device = asked if device_for(settings.runtime, torch.device(device_name(asked))) == "cuda" else "cpu"
    subject = open_subject(request, device, settings.tokens, settings.batch, settings.multiple_of)
    if settings.quantize:
        subject = _with_precisions(subject, settings, request.out)
    elif settings.precisions is not None or settings.keep_float:
        raise UserError("--precisions and --keep-float say what --quantize may choose from: add it")
    bench = bench_of(subject, settings)
    profile = _profile_there(request.out, subject, settings, bench)
    again = checked_twice(subject, settings.budget, request.common.seed)
    return _Checked(subject, bench, profile, min(settings.budget, subject.space.size()) + len(again))


def _with_precisions(subject: Subject, settings: ProfileSettings, out: Path) -> Subject:
    """The subject with a precision for every layer: of the profile there, or what the runtime gains by here."""
    check_by_layer(settings.runtime, settings.precision != ProfileSettings.precision)
    there = profile_at(out).precisions if out.is_file() and settings.precisions is None else None
    precisions = there or precision_choices(settings, subject.supernet.model, settings.runtime)
    space = with_multiples(joined_space(subject.supernet, precisions), settings.multiple_of)
    return replace(subject, space=space, precisions=precisions)


def check_ranges(settings: ProfileSettings | KitSettings) -> None:
    """UserError for a number out of its range."""
    for name in ("threads", "batch", "tokens", "budget", "multiple_of"):
        most = MOST_THREADS if name == "threads" else MOST
        if not 1 <= getattr(settings, name) <= most:
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} must be from 1 to {most}, got {getattr(settings, name)}")
    for name in ("minutes", "tolerance"):
        value = getattr(settings, name, None)
        if value is not None and not 0 < value < math.inf:
            raise UserError(f"--{name} must be above 0 and finite, got {value}")


def open_subject(request: SubjectRequest, device: str, tokens: int, batch: int, multiple_of: int) -> Subject:
    """The network to profile, and its inputs; UserError where there is none, or it cannot be narrowed or traced.

    Args:
        request: names the network and its sub-networks.
        device: auto takes a GPU when there is one.
        tokens: length of a text.
        batch: rows of an input.
        multiple_of: only sizes that are multiples of this may be measured.
    """
    name, own, elastic = request.subject, request.own, request.elastic
    if Path(name, "run.json").is_file():
        if own != ModelSettings() or elastic != SpaceSettings():
            raise UserError("a run has its network and its sub-networks: leave out their sizes, --weights and the like")
        return load_run(RunFolder(Path(name)), device, request.model).subject(tokens, batch, multiple_of)
    if request.model is not None:
        raise UserError("--model goes with a run; a network of your own stands first: nas profile module:factory")
    if elastic.drop_order == "importance":
        raise UserError("which blocks matter least is known of a run only; name the run, or another --drop-order")
    make = _own if is_own(name) else _of_transformers
    title, supernet, inputs = make(request, tokens, batch)
    supernet.eval().to(device_name(device))
    return Subject(title, supernet, inputs, with_multiples(supernet.space, multiple_of))


def _of_transformers(request: SubjectRequest, tokens: int, batch: int) -> tuple[str, Supernet, Inputs]:
    module = untrained(request.subject, seed=request.common.seed)
    size = image_size(request.own.image_size)
    inputs = made_inputs(module, batch, tokens, (size, size) if isinstance(size, int) else size)
    # The name that a run of it has, which is no link's and no dot.
    return Path(located(request.subject)).name, supernet_of(module, None, request.elastic), inputs


def _own(request: SubjectRequest, tokens: int, batch: int) -> tuple[str, Supernet, Inputs]:
    own = request.own
    module: nn.Module = in_plain_layers(own_model(request.subject, own.weights, _OUTPUTS, seed=request.common.seed))
    kind: InputKind = "image" if own.tokenizer is None else "text"
    preprocessor = own_preprocessor(module, kind, image_size=image_size(own.image_size), tokenizer=own.tokenizer)
    # Two rows at least, so that tracing does not take the batch for a constant.
    example = example_inputs(module, kind, preprocessor, tokens=tokens, batch=max(2, batch))
    inputs = {name: value[:batch] for name, value in example.items()}
    return request.subject, supernet_of(module, example, request.elastic), inputs


def bench_of(subject: Subject, settings: ProfileSettings | KitSettings) -> Bench:
    """What measures candidates; UserError where the runtime cannot be used here."""
    precision = settings.precision if subject.precisions is None else BY_LAYER
    deployment = subject.deployment(settings.runtime, precision, settings.threads)
    return Bench.of(subject, deployment, settings.tolerance)


def _profile_there(out: Path, subject: Subject, settings: ProfileSettings, bench: Bench) -> DeviceProfile | None:
    """The profile in `out`, None where there is none yet; UserError where it is another one."""
    if not out.exists():
        if not out.parent.is_dir():
            raise UserError(f"the profile needs a folder to be in, there is no {out.parent}; make it first")
        return None
    machine, version = this_machine(subject.accelerator(settings.runtime)), bench.deployment.version()
    found = profile_at(out)
    expected = {
        **subject.fingerprint,
        "multiple_of": settings.multiple_of,
        "runtime": settings.runtime,
        "device": bench.deployment.device,
        "precision": bench.deployment.precision,
        "threads": settings.threads,
    }
    wrong = differences(found, expected)
    if found.machine != machine:
        wrong.append(f"the machine is {found.machine.processor} in the profile and this one is another or changed")
    if found.runtime_version != version:
        wrong.append(f"{settings.runtime} is of version {found.runtime_version} in the profile and {version} here")
    if found.protocol != bench.protocol:
        wrong.append("it was measured with another --tolerance or by another clock")
    if wrong:
        raise UserError(f"{out} is another profile: {wrong[0]}; name another --out")
    candidates_of(found.rows, subject.whole)
    return found


def _begun(checked: _Checked, settings: ProfileSettings, out: Path) -> DeviceProfile:
    """The profile to go on with: the one there, or a new one that holds the full network alone."""
    sweep(out)
    if checked.profile is None:
        profile = begin(checked.bench, settings.multiple_of)
        write_profile(profile, out)
        return profile
    if checked.profile.reference.stable:
        return checked.profile
    return checked.profile.model_copy(update={"reference": stable_reference(checked.bench)})


def summary_of(profile: DeviceProfile, subject: Subject, out: Path) -> dict[str, Any]:
    """What a profile says, in one object; UserError where its latencies did not get stable."""
    # Before what is refused because of it.
    _say_if_busy(profile)
    judged = held_out(profile, subject.whole, subject.kernels)
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


def _say_if_busy(profile: DeviceProfile) -> None:
    """Say so where the calls of a profile waited for a processor."""
    # What a GPU computes takes no CPU time, which then tells nothing.
    if profile.device != "cpu":
        return
    waiting = Waiting()
    for timing in (profile.reference, *(row.timing for row in profile.rows)):
        waiting.add(timing)
    consequence = "the latencies are too high; stop those programs and profile it anew, with another --out"
    if profile.protocol.clock == "cpu":
        consequence = "the latencies are processor times, which leave that out, but they would be steadier without it"
    warning = waiting.warning(consequence)
    if warning is not None:
        say(warning)


def _judged(found: Quality) -> dict[str, float | None]:
    """How well rows were predicted by the others."""
    return {
        "mape_percent": found.mape,
        "kendall_tau": found.kendall_tau,
        "inside_90_percent_intervals": found.coverage,
    }
