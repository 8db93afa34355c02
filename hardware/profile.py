"""What a device profile holds, and its reading: portable JSON, which may come from anybody.

A profile says how long sub-networks of one model take on one machine, so that a search elsewhere can predict the rest.
It is data only: nothing that it names is opened, imported or run, and a damaged or hostile file is one ValueError.
"""

import hashlib
import math
import os
import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import pydantic

VERSION = 1
MOST_BYTES = 64 * 2**20

Precision = Literal["float32", "bfloat16", "int8"]
Device = Literal["cpu", "cuda"]
# Names are printed: no control characters, which a terminal would obey.
Name = Annotated[str, pydantic.StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
Value = Annotated[int, pydantic.Field(ge=-(2**53), le=2**53)] | float | Name | None
Positive = Annotated[float, pydantic.Field(gt=0, le=1e12)]
NonNegative = Annotated[float, pydantic.Field(ge=0, le=1e12)]
Count = Annotated[int, pydantic.Field(ge=1, le=2**20)]
_MOST_CALLS, _MOST_NUMBERS = 10_000, 2**28
_ALIKE = 0.01

_CONFIG = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
_OF_MODEL = ("family", "space_sha256", "macs")
# What a user sets is named first: the multiply-accumulates follow from the inputs, too.
_SET = ("batch", "tokens", "shape", "runtime", "device", "precision", "threads", "multiple_of")
ASKED = ("model", "family", "space_sha256", *_SET, "macs")


@dataclass(frozen=True)
class MeasurementProtocol:
    """How a sub-network is measured beside the reference network.

    Args:
        window: warming up ends when the medians of two consecutive windows of so many calls agree.
        warmup_most: calls of the warm-up at most, of each network.
        warmup_tolerance: largest relative difference of those two medians.
        rounds: least number of timed rounds, 6 or more, since fewer have no 95 % interval; each calls both networks
            once, in an order that turns.
        rounds_most: largest number of rounds.
        tolerance: measuring ends when the relative half-width of the 95 % interval of the median ratio is at most this;
            a timing that does not reach it within `rounds_most` is not stable.
        clock: "wall", or "cpu" for the CPU time of the process. On a machine that others use too the latter is far
            steadier, and for one thread on a processor it is what a call takes when it is alone; for more threads, or
            on a GPU, it says nothing.
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


class _Part(pydantic.BaseModel):
    model_config = _CONFIG


class Timing(_Part):
    """Times of one network.

    Attributes:
        median_ms: median of wall time.
        p95_ms: 95th percentile of wall time.
        quartiles: first and third quartile of wall time.
        cpu_ms: median of the CPU time of the process, all its threads together.
        noise: (third - first quartile) / median.
        samples: wall times in milliseconds in the order in which they were taken.
        ratio: median over the rounds of this network's wall time over the reference network's in the same round: what
            compares between rows, since a slow minute of the machine meets both.
        cpu_ratio: the same of CPU times, steadier where the machine is busy with something else.
        half_width: of the 95 % interval of the ratio by the protocol's clock, relative to it.
        reference_ms: median of the reference network's wall time in the same rounds, whose drift shows from row to row;
            None where it was not kept.
        stable: whether `half_width` reached the tolerance and warming up ended; an unstable figure is no result.
        peak_memory_mib: largest resident memory of the process so far; None where it cannot be read.
        energy_mj: energy of the whole package for one call, idle power included; None where it cannot be read.
    """

    median_ms: Positive
    p95_ms: Positive
    quartiles: tuple[Positive, Positive]
    cpu_ms: NonNegative
    noise: NonNegative
    samples: tuple[Positive, ...] = pydantic.Field(min_length=1, max_length=100_000)
    ratio: Positive
    cpu_ratio: NonNegative
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


class ProfileRow(_Part):
    """One measured sub-network: the option of every choice by its name, its timing, and its place in time (0, 1, ...).

    A sub-network may have several rows, apart in time: they tell the noise floor. `seconds` were spent on the row, with
    choosing, converting and loading; 0 where that was not kept.
    """

    candidate: dict[Name, Value] = pydantic.Field(max_length=10_000)
    timing: Timing
    order: Annotated[int, pydantic.Field(ge=0, le=2**31)]
    seconds: NonNegative = 0.0

    @property
    def key(self) -> tuple[tuple[str, object], ...]:
        """The candidate as something to compare and to look up by."""
        return tuple(sorted(self.candidate.items()))


class ProfiledModel(_Part):
    """The network whose sub-networks were measured.

    Attributes:
        name: of the model.
        family: of the model.
        space_sha256: of its space's JSON.
        macs: multiply-accumulates of the full network for one row, by which two networks of one name and space are told
            apart, of other patches for instance; alike within 1 %, so that the number of labels does not matter.
    """

    name: Name
    family: Name
    space_sha256: Annotated[str, pydantic.StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    macs: Annotated[int, pydantic.Field(ge=0, le=2**62)]


class Machine(_Part):
    """Where it was measured; `governor` of the first core's frequency and `accelerator` where there is one."""

    processor: Name
    cores: Count
    system: Name
    features: tuple[Name, ...] = pydantic.Field(default=(), max_length=1000)
    governor: Name | None = None
    accelerator: Name | None = None


class DeviceProfile(_Part):
    """Latencies of sub-networks of one model on one machine in one runtime.

    Attributes:
        runtime: name of the backend ("pytorch", "onnxruntime", "openvino").
        batch: rows of an input.
        tokens: length of a text; None for images.
        shape: of the first input, its batch first.
        reference: of the full network, measured alone; rows compare with it through their ratios.
        multiple_of: only sizes that are multiples of it were measured, and are to be searched; 1: all.
        rows: measured sub-networks, each naming the same choices.
        noise_floor: median relative difference of one sub-network measured twice, apart in time; None where unknown.
    """

    schema_version: Literal[1] = 1
    model: ProfiledModel
    machine: Machine
    runtime: Name
    runtime_version: Name
    device: Device = "cpu"
    precision: Precision
    threads: Count
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
        if self.shape[0] != self.batch:
            raise ValueError("the first axis of the shape must be the batch")
        if math.prod(self.shape) > _MOST_NUMBERS or self.batch * (self.tokens or 1) > _MOST_NUMBERS:
            raise ValueError(f"an input must hold at most {_MOST_NUMBERS} numbers")
        if self.protocol.clock == "cpu" and (self.threads > 1 or self.device != "cpu" or not self.reference.cpu_ms):
            raise ValueError("CPU time is a latency for one thread on a processor alone, and above 0")
        return self

    @property
    def full_ms(self) -> float:
        """Latency of the full network, by the protocol's clock."""
        return self.reference.cpu_ms if self.protocol.clock == "cpu" else self.reference.median_ms

    def ratio(self, timing: Timing) -> float:
        """Latency of what was measured over the full network's, by the protocol's clock."""
        return timing.cpu_ratio if self.protocol.clock == "cpu" else timing.ratio

    def latency_ms(self, row: ProfileRow) -> float:
        """Latency of a row that compares with the others': its ratio times the reference's."""
        return self.ratio(row.timing) * self.full_ms


def noise_floor(profile: DeviceProfile) -> float | None:
    """Median over repeated sub-networks of |first - last| / mean of their latencies, of the stable rows.

    None where none is repeated.
    """
    ratios: dict[tuple[tuple[str, object], ...], list[float]] = defaultdict(list)
    for row in sorted(profile.rows, key=lambda row: row.order):
        latency = profile.latency_ms(row)
        if row.timing.stable and latency > 0:
            ratios[row.key].append(latency)
    differences = [2 * abs(each[0] - each[-1]) / (each[0] + each[-1]) for each in ratios.values() if len(each) > 1]
    return statistics.median(differences) if differences else None


def digest(profile: DeviceProfile) -> str:
    """What tells a profile, rows included, from every other: 12 hexadecimal digits."""
    return hashlib.sha256(profile.model_dump_json().encode()).hexdigest()[:12]


def differs(profile: DeviceProfile, asked: Mapping[str, object]) -> list[str]:
    """How a profile differs from what is asked, one phrase for each difference; empty where it fits.

    Args:
        profile: as read.
        asked: any of `ASKED`, where `model` is the name of the model.

    Raises:
        ValueError: another name among `asked`.
    """
    unknown = sorted(set(asked) - set(ASKED))
    if unknown:
        raise ValueError(f"a profile can be asked for {', '.join(ASKED)}, got {', '.join(unknown)}")
    model = profile.model
    held: dict[str, object] = {"model": model.name, **{name: getattr(model, name) for name in _OF_MODEL}}
    held |= {name: getattr(profile, name) for name in ASKED if name not in held}
    asked = dict(asked)
    if isinstance(macs := asked.get("macs"), int) and abs(macs - model.macs) <= _ALIKE * max(macs, model.macs):
        del asked["macs"]
    return [
        f"{name} is {held[name]} in the profile and {asked[name]} is asked"
        for name in ASKED
        if name in asked and held[name] != asked[name]
    ]


def write_profile(profile: DeviceProfile, path: Path) -> None:
    """Write as JSON; an old file is replaced only by a whole one.

    Raises:
        ValueError: the profile passes 64 MiB.
        OSError: the file cannot be written.
    """
    data = profile.model_dump_json(indent=1).encode()
    if len(data) > MOST_BYTES:
        raise ValueError(f"a profile must be at most {MOST_BYTES >> 20} MiB, this one has {len(data) >> 20} MiB")
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def read_profile(path: Path) -> DeviceProfile:
    """The profile that a file holds.

    Raises:
        ValueError: no file, more than 64 MiB, another schema version, or anything that is not a profile; one sentence.
    """
    if not path.is_file():
        raise ValueError(f"{path} must be a device profile, found no such file; make one with nas profile")
    try:
        with path.open("rb") as file:
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
    """The profile in JSON text; raises ValueError, one phrase, for anything else."""
    try:
        # Of its own, so that a newer profile is called newer and not full of unknown fields.
        version = _Version.model_validate_json(data, strict=True).schema_version
        if version != VERSION:
            raise ValueError(f"its schema version must be {VERSION}, got {version}")
        return DeviceProfile.model_validate_json(data)
    except pydantic.ValidationError as error:
        raise ValueError(_first(error)) from None


def _first(error: pydantic.ValidationError) -> str:
    """Where the first mistake is and what it is, cut short: both may hold text of the file."""
    found = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part)[:40] for part in found["loc"][:8])
    text = f"{where}: {found['msg'][:200]}" if where else found["msg"][:200]
    return "".join(letter if letter.isprintable() else "?" for letter in text)
