"""The schema of device profiles, and reading and writing them as JSON.

A profile records the latency of some sub-networks of a model on one machine, so that a search on another machine can
predict the latency of all others. The file may come from anybody: it is treated as data only (nothing that it names is
opened, imported or executed), sizes and numbers are bounded, and a damaged or hostile file raises one ValueError.
"""

import hashlib
import math
import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, Self

import pydantic

from hardware.files import replacing_file
from hardware.policy import PrecisionChoices

VERSION = 1
# Limits far above any real profile, which keep a hostile file from exhausting memory.
MOST_BYTES = 32 * 2**20

BY_LAYER: Final = "by-layer"
Precision = Literal["float32", "bfloat16", "int8", "by-layer"]
Device = Literal["cpu", "cuda"]
# Names are printed, so they must not contain control characters, which a terminal would execute.
Name = Annotated[str, pydantic.StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
Value = Annotated[int, pydantic.Field(ge=-(2**53), le=2**53)] | float | Name | None
# Far beyond any network and device, and still such that sums, ratios and their squares are numbers.
Positive = Annotated[float, pydantic.Field(ge=1e-9, le=1e9)]
NonNegative = Annotated[float, pydantic.Field(ge=0, le=1e12)]
Ratio = Annotated[float, pydantic.Field(ge=1e-6, le=1e6)]
CpuRatio = Annotated[float, pydantic.Field(ge=0, le=1e6)]
Count = Annotated[int, pydantic.Field(ge=1, le=2**20)]
# A runtime that is asked for more starts them, and then the process dies.
MOST_THREADS = 1024
Threads = Annotated[int, pydantic.Field(ge=1, le=MOST_THREADS)]
_MOST_CALLS, _MOST_NUMBERS = 10_000, 2**28
# Two networks whose MACs differ by less, relative to the larger, count as the same: the number of labels may vary.
_MACS_TOLERANCE = 0.01

# Unknown fields, values of another type, NaN and infinity are errors rather than converted or ignored.
_CONFIG = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
_MODEL_FIELDS = ("family", "space_sha256", "macs")
_SETTINGS = ("batch", "tokens", "shape", "runtime", "device", "precision", "threads", "multiple_of")
# Settings come before MACs: MACs depend on the inputs, and the first difference is the one reported.
FINGERPRINT_FIELDS = ("model", "family", "space_sha256", *_SETTINGS, "macs")


@dataclass(frozen=True)
class MeasurementProtocol:
    """How the latency of a sub-network is measured relative to the reference network.

    Args:
        window: number of calls in a window; the warm-up ends when the medians of two consecutive windows agree.
        warmup_most: largest number of warm-up calls of each network.
        warmup_tolerance: largest relative difference at which those two medians agree.
        rounds: least number of timed rounds; at least 6, because fewer values have no 95 % interval of the median.
            Each round calls both networks once, in alternating order.
        rounds_most: largest number of timed rounds.
        tolerance: measuring ends when the half-width of the 95 % interval of the median ratio, relative to that ratio,
            is at most this; a timing that does not reach it within `rounds_most` is marked as unstable.
        clock: "wall" for wall time, or "cpu" for the CPU time of the process. CPU time is far steadier on a shared
            machine and, for a single thread on a processor, equals the latency on an idle machine. It is not a
            latency for several threads or on a GPU.

    Raises:
        ValueError: a setting out of range.
    """

    window: int = 2
    warmup_most: int = 20
    warmup_tolerance: float = 0.1
    rounds: int = 9
    rounds_most: int = 60
    tolerance: float = 0.02
    clock: Literal["wall", "cpu"] = "wall"

    __pydantic_config__: ClassVar[pydantic.ConfigDict] = pydantic.ConfigDict(extra="forbid", allow_inf_nan=False)

    def __post_init__(self) -> None:
        calls = 1 <= self.window <= _MOST_CALLS and 0 <= self.warmup_most <= _MOST_CALLS
        whole = calls and 6 <= self.rounds <= self.rounds_most <= _MOST_CALLS
        tolerances = 0 < self.tolerance < math.inf and 0 < self.warmup_tolerance < math.inf
        if not (whole and tolerances and self.clock in ("wall", "cpu")):
            raise ValueError(
                f"a protocol needs a window from 1, warmup_most from 0 and rounds from 6 up to rounds_most, none above "
                f"{_MOST_CALLS}, finite tolerances above 0 and the clock wall or cpu, got {self}"
            )


class _StrictModel(pydantic.BaseModel):
    """The base of all parts of a profile: no unknown fields, no conversion of types, no change after creation."""

    model_config = _CONFIG


class Timing(_StrictModel):
    """Measured times of one network, and their ratios to the reference network.

    Attributes:
        median_ms: median of wall time.
        p95_ms: 95th percentile of wall time.
        quartiles: first and third quartile of wall time.
        cpu_ms: median of the CPU time of the process, summed over its threads.
        noise: (third - first quartile) / median.
        samples: wall times in milliseconds in the order of measurement.
        ratio: median over the rounds of this network's wall time divided by the reference network's in the same round.
            Ratios compare between rows, because a slow phase of the machine affects both networks of a round.
        cpu_ratio: the same ratio of CPU times, which is steadier on a busy machine.
        half_width: half-width of the 95 % interval of the ratio by the protocol's clock, relative to the ratio.
        reference_ms: median wall time of the reference network in the same rounds, which shows drift between rows;
            None if it was not recorded.
        stable: whether `half_width` reached the tolerance and the warm-up converged; do not use unstable timings.
        peak_memory_mib: peak resident memory of the process so far; None where it cannot be read.
        energy_mj: energy of the whole processor package for one call, including idle power; None where it cannot be
            read.
    """

    median_ms: Positive
    p95_ms: Positive
    quartiles: tuple[Positive, Positive]
    cpu_ms: NonNegative
    noise: NonNegative
    samples: tuple[Positive, ...] = pydantic.Field(min_length=1, max_length=_MOST_CALLS)
    ratio: Ratio
    cpu_ratio: CpuRatio
    half_width: NonNegative
    stable: bool
    reference_ms: Positive | None = None
    peak_memory_mib: NonNegative | None = None
    energy_mj: NonNegative | None = None

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.quartiles
        if not (low <= self.median_ms <= high and self.median_ms <= self.p95_ms):
            raise ValueError("quartiles, median and 95th percentile must be in order")
        return self


class ProfileRow(_StrictModel):
    """One measured sub-network. A sub-network may have several rows, whose differences give the noise floor.

    Attributes:
        candidate: the option of every choice, by the name of the choice.
        timing: its measured times.
        order: position of the row in the order of measurement, from 0.
        seconds: time spent on the row, including selection, conversion and loading; 0 if it was not recorded.
    """

    candidate: dict[Name, Value] = pydantic.Field(max_length=10_000)
    timing: Timing
    order: Annotated[int, pydantic.Field(ge=0, le=2**31)]
    seconds: NonNegative = 0.0

    @property
    def key(self) -> tuple[tuple[str, object], ...]:
        """The candidate as a hashable value."""
        return tuple(sorted(self.candidate.items()))


class ProfiledModel(_StrictModel):
    """The network whose sub-networks were measured.

    Attributes:
        name: name of the model.
        family: family of architectures that it belongs to.
        space_sha256: SHA-256 digest of the JSON of its search space.
        macs: multiply-accumulates of the full network for one row. They distinguish networks of the same name and space
            that differ otherwise, such as in the size of patches; values within 1 % are equal, so that the number of
            labels does not matter.
    """

    name: Name
    family: Name
    space_sha256: Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    macs: Annotated[int, pydantic.Field(ge=0, le=2**62)]


class Machine(_StrictModel):
    """The machine that a profile was measured on.

    Attributes:
        processor: name of the processor.
        cores: number of cores that the process could use.
        system: operating system and its version.
        features: instruction sets of the processor that matter to networks.
        governor: frequency governor of the first core; None where it cannot be read.
        accelerator: name of the GPU that was measured; None if none was.
    """

    processor: Name
    cores: Count
    system: Name
    features: tuple[Name, ...] = pydantic.Field(default=(), max_length=1000)
    governor: Name | None = None
    accelerator: Name | None = None


class DeviceProfile(_StrictModel):
    """Latencies of sub-networks of one model on one machine in one runtime.

    Attributes:
        schema_version: version of this schema.
        model: the full network.
        machine: where it was measured.
        runtime: name of the backend ("pytorch", "onnxruntime", "openvino").
        runtime_version: version of its library.
        device: device of the computation.
        precision: precision of the computation; `by-layer` where every sub-network has precisions of its own.
        precisions: what each layer may compute in, where precision goes by layer.
        threads: number of threads of the runtime.
        batch: rows of an input.
        tokens: length of a text in tokens; None for images.
        shape: shape of the first input, the batch included.
        protocol: how every row was measured.
        multiple_of: only sizes that are multiples of this were measured and should be searched; 1 means all sizes.
        reference: timing of the full network, measured beside itself; rows refer to it through their ratios.
        rows: measured sub-networks; all name the same choices.
        noise_floor: median relative difference between repeated measurements of a sub-network; None if unknown.
    """

    schema_version: Literal[1] = 1
    model: ProfiledModel
    machine: Machine
    runtime: Name
    runtime_version: Name
    device: Device = "cpu"
    precision: Precision
    precisions: PrecisionChoices | None = None
    threads: Threads
    batch: Count
    tokens: Count | None
    shape: tuple[Count, ...] = pydantic.Field(min_length=1, max_length=16)
    protocol: MeasurementProtocol
    multiple_of: Count = 1
    reference: Timing
    rows: tuple[ProfileRow, ...] = pydantic.Field(max_length=100_000)
    noise_floor: NonNegative | None = None

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        if len({frozenset(row.candidate) for row in self.rows}) > 1:
            raise ValueError("all rows must name the same choices")
        if len({row.order for row in self.rows}) != len(self.rows):
            raise ValueError("every row must have an order of its own")
        if (self.precision == BY_LAYER) != (self.precisions is not None):
            raise ValueError("precisions go with the precision by-layer alone")
        if self.shape[0] != self.batch:
            raise ValueError("the first axis of the shape must be the batch")
        # Commands that use a profile allocate inputs of this shape.
        if math.prod(self.shape) > _MOST_NUMBERS or self.batch * (self.tokens or 1) > _MOST_NUMBERS:
            raise ValueError(f"an input must hold at most {_MOST_NUMBERS} numbers")
        if self.protocol.clock == "cpu" and (self.threads > 1 or self.device != "cpu" or not self.reference.cpu_ms):
            raise ValueError("CPU time is a latency for one thread on a processor alone, and above 0")
        return self

    @property
    def full_ms(self) -> float:
        """Latency of the full network in milliseconds, by the protocol's clock."""
        return self.reference.cpu_ms if self.protocol.clock == "cpu" else self.reference.median_ms

    def ratio(self, timing: Timing) -> float:
        """Ratio of a timing's latency to that of the full network, by the protocol's clock."""
        return timing.cpu_ratio if self.protocol.clock == "cpu" else timing.ratio

    def latency_ms(self, row: ProfileRow) -> float:
        """Latency of a row in milliseconds: its ratio times the latency of the full network.

        Its own median would not compare with other rows, which were measured in other phases of the machine.
        """
        return self.ratio(row.timing) * self.full_ms


def noise_floor(profile: DeviceProfile) -> float | None:
    """Median of |first - last| / mean latency over the sub-networks with several stable rows; None for none."""
    ratios: dict[tuple[tuple[str, object], ...], list[float]] = defaultdict(list)
    for row in sorted(profile.rows, key=lambda row: row.order):
        latency = profile.latency_ms(row)
        if row.timing.stable and latency > 0:
            ratios[row.key].append(latency)
    differences = [2 * abs(each[0] - each[-1]) / (each[0] + each[-1]) for each in ratios.values() if len(each) > 1]
    return statistics.median(differences) if differences else None


def digest(profile: DeviceProfile) -> str:
    """A fingerprint of a profile including its rows: 12 hexadecimal digits."""
    return hashlib.sha256(profile.model_dump_json().encode()).hexdigest()[:12]


def differs(profile: DeviceProfile, requested: Mapping[str, object]) -> list[str]:
    """Compare a profile with the requested fingerprint.

    Args:
        profile: the profile.
        requested: values for any of `FINGERPRINT_FIELDS`; `model` is the name of the model.

    Returns:
        One phrase for each difference, in the order of `FINGERPRINT_FIELDS`; empty if the profile matches.

    Raises:
        ValueError: an unknown field in `requested`.
    """
    unknown = sorted(set(requested) - set(FINGERPRINT_FIELDS))
    if unknown:
        raise ValueError(f"a profile is compared by {', '.join(FINGERPRINT_FIELDS)}, got {', '.join(unknown)}")
    model = profile.model
    held: dict[str, object] = {"model": model.name, **{name: getattr(model, name) for name in _MODEL_FIELDS}}
    held |= {name: getattr(profile, name) for name in FINGERPRINT_FIELDS if name not in held}
    wanted = dict(requested)
    macs = wanted.get("macs")
    if isinstance(macs, int) and abs(macs - model.macs) <= _MACS_TOLERANCE * max(macs, model.macs):
        del wanted["macs"]
    return [
        f"{name} is {held[name]} in the profile and {wanted[name]} is requested"
        for name in FINGERPRINT_FIELDS
        if name in wanted and held[name] != wanted[name]
    ]


def write_profile(profile: DeviceProfile, path: Path) -> None:
    """Write a profile as JSON; an existing file is replaced only by a complete one.

    Raises:
        ValueError: the profile is larger than 32 MiB.
        OSError: the file cannot be written.
    """
    data = profile.model_dump_json(indent=1).encode()
    if len(data) > MOST_BYTES:
        raise ValueError(f"a profile must be at most {MOST_BYTES >> 20} MiB, this one has {len(data) >> 20} MiB")
    with replacing_file(path) as part:
        part.write_bytes(data)


def read_profile(path: Path) -> DeviceProfile:
    """Read a profile from a file.

    Raises:
        ValueError: the file is missing, larger than 32 MiB, of another schema version or not a valid profile; the
            message is one sentence.
    """
    if not path.is_file():
        raise ValueError(f"{path} must be a device profile, found no such file; make one with nas profile")
    try:
        with path.open("rb") as file:
            # One byte more than allowed shows that the file is too large without reading all of it.
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot read the device profile {path}: {error.strerror}") from error
    if len(data) > MOST_BYTES:
        raise ValueError(f"a device profile must be at most {MOST_BYTES >> 20} MiB, {path} is larger")
    try:
        return parse_profile(data)
    except ValueError as error:
        raise ValueError(f"{path} is no device profile that can be used: {error}") from error


class _Version(pydantic.BaseModel):
    schema_version: int


def parse_profile(data: bytes) -> DeviceProfile:
    """Parse a profile from JSON; raises ValueError, one phrase, if it is not a valid profile."""
    try:
        # Check the version first: a newer profile would otherwise be reported as having unknown fields.
        version = _Version.model_validate_json(data, strict=True).schema_version
        if version != VERSION:
            raise ValueError(f"its schema version must be {VERSION}, got {version}")
        return DeviceProfile.model_validate_json(data)
    except pydantic.ValidationError as error:
        raise ValueError(_first_mistake(error)) from None


def _first_mistake(error: pydantic.ValidationError) -> str:
    """Position and description of the first mistake, shortened and printable, since both may quote the file."""
    found = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part)[:40] for part in found["loc"][:8])
    text = f"{where}: {found['msg'][:200]}" if where else found["msg"][:200]
    return "".join(letter if letter.isprintable() else "?" for letter in text)
