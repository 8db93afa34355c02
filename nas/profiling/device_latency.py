"""Latencies that a device profile predicts, measured on this machine where it is that device."""

from collections.abc import Callable, Mapping

from hardware.backend import Runner
from hardware.deployment import Deployment
from hardware.machine import in_words, this_machine
from hardware.profile import DeviceProfile
from nas.console import say
from nas.errors import UserError
from nas.profiling.bench import Bench, require
from nas.profiling.objective import PredictedLatency
from nas.profiling.subject import Subject
from nas.profiling.verification import MeasureAgain
from search_spaces import Candidate


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


def elsewhere(profile: DeviceProfile, subject: Subject) -> str | None:
    """Why latencies measured on this machine do not compare with those of a profile; None if they do."""
    here, there = this_machine(subject.accelerator(profile.runtime)), profile.machine
    device = subject.device(profile.runtime)
    if device != profile.device:
        remedy = "--device cpu" if profile.device == "cpu" else "--device auto on a machine with a GPU"
        return f"it is of a network on {profile.device}, this one is on {device}; search with {remedy}"
    if any(getattr(here, name) != getattr(there, name) for name in ("processor", "cores", "features", "accelerator")):
        with_gpu = f" and {there.accelerator}" if there.accelerator else ""
        return f"its machine is another one, {in_words(there.processor, there.cores)}{with_gpu}"
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
