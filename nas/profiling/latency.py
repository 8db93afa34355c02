"""Profiling a super-network from Python, and the objective that comes of it; `nas profile` does so for run folders."""

from pathlib import Path
from typing import Literal

from hardware.inputs import Inputs, device_of
from hardware.profile import DeviceProfile, Precision
from nas.errors import UserError
from nas.profiling.bench import TOLERANCE, Bench, Target
from nas.profiling.collection import Effort, begin, grow
from nas.profiling.objective import latency_objective, predicted_latency
from nas.profiling.subject import Subject, differences
from nas.searching.measurement import Objective
from search_spaces import Space, Supernet


def profile_latency(
    supernet: Supernet,
    example_inputs: Inputs,
    *,
    seed: int,
    runtime: Literal["pytorch", "onnxruntime", "openvino"] = "pytorch",
    precision: Precision = "float32",
    threads: int = 1,
    budget: int = 100,
    minutes: float | None = None,
    tolerance: float = TOLERANCE,
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
    bench = Bench.of(subject, Target(runtime, precision, threads, device_of(supernet).type), tolerance)
    effort = Effort(budget, None if minutes is None else 60 * minutes)
    return grow(begin(bench), subject, bench.measure, effort, seed=seed, path=path)


def profiled_latency(
    profile: DeviceProfile,
    supernet: Supernet,
    example_inputs: Inputs,
    *,
    space: Space | None = None,
    name: str = "latency_ms",
    limit: float | None = None,
) -> Objective:
    """The objective of least milliseconds, predicted from a profile and never measured.

    Args:
        profile: of this super-network with these inputs.
        supernet: in evaluation mode.
        example_inputs: as they were profiled.
        space: of the search: that of the super-network (None), joined with another, or with fewer options.
        name: of the objective.
        limit: bound that a selected candidate must meet.

    Raises:
        UserError: a profile of something else, or one whose rows do not tell anything.
    """
    subject = Subject(profile.model.name, supernet, example_inputs, supernet.space)
    wrong = differences(profile, subject.asked)
    if wrong:
        raise UserError(f"the profile must be of this super-network and these inputs: {wrong[0]}")
    predicted = predicted_latency(profile, subject, supernet.space if space is None else space)
    return latency_objective(name, predicted, limit)
