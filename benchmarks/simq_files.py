"""Points of the rows as files, scored and timed in fresh processes that load them as a card says."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from simq_problem import Problem

from hardware.backend import Backend
from hardware.deployment import loaded_files
from hardware.inputs import first_row, split
from hardware.policy import Policy
from hardware.profile import BY_LAYER, Precision
from nas.data.split import Split
from nas.exporting.deployed import deploy
from nas.exporting.loaders import deployment_loader, relative
from nas.exporting.network_files import NetworkClass
from nas.files import replacing_folder, write_json_atomic
from nas.networks.policies import policy_of
from search_spaces import Candidate
from search_spaces.arrays import BoolArray
from search_spaces.quantization import architecture

FP32 = "fp32"
_PROGRAM = Path(__file__).with_name("simq_fresh.py")
_BATCH = 64
_LOADER = "loader.json"


@dataclass(frozen=True)
class Point:
    """A network that a row proposes.

    Args:
        name: of the row and, after a dash, which of its points; the folder of its files.
        candidate: of the joined space.
        precision: of its deployment; where that is by layer, the candidate says the rest.
        values: what the row's own search measured; empty where nothing was searched.
    """

    name: str
    candidate: Candidate
    precision: Precision = BY_LAYER
    values: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "candidate": dict(self.candidate),
            "precision": self.precision,
            "values": dict(self.values),
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "Point":
        return cls(kept["name"], Candidate(kept["candidate"]), kept["precision"], kept["values"])


@dataclass(frozen=True)
class Verified:
    """What the files of a point are.

    Args:
        name: of the point.
        right: which of the rows that no search saw it has right.
        latency: processor time of a call, over that of the full network in float32 beside it: median over rounds.
        size_mib: of the files that are loaded.
        reference_ms: median processor time of the full network in float32 in the same process.
    """

    name: str
    right: BoolArray
    latency: float
    size_mib: float
    reference_ms: float

    @property
    def row(self) -> str:
        return self.name.partition("-")[0]

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "accuracy": self.accuracy,
            "latency": self.latency,
            "size_mib": self.size_mib,
            "reference_ms": self.reference_ms,
            "rows": len(self.right),
            "right": np.packbits(self.right).tobytes().hex(),
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> "Verified":
        right = bits(kept["right"], kept["rows"])
        return cls(kept["name"], right, kept["latency"], kept["size_mib"], kept["reference_ms"])


def bits(digits: str, count: int) -> BoolArray:
    """The first bits of hexadecimal digits, as `np.packbits` wrote them."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(digits), dtype=np.uint8), count=count).astype(np.bool_)


def digest(points: Sequence[Point]) -> str:
    """Changes when any point does: what a kept verification depends on."""
    return hashlib.sha256(json.dumps([each.to_json() for each in points]).encode()).hexdigest()


@dataclass
class Files:
    """The files of points in a folder, one folder below it for each.

    Args:
        problem: whose networks are written.
        folder: is created.
    """

    problem: Problem
    folder: Path
    _backends: dict[Precision, Backend] = field(default_factory=dict, init=False, repr=False)
    _arrays: dict[str, Path] = field(default_factory=dict, init=False, repr=False)
    _extracted: tuple[Candidate, Any] | None = field(default=None, init=False, repr=False)

    def write(self, point: Point) -> None:
        """Write the files of a point, anew where they are those of another one."""
        target = self.folder / point.name
        if self._kept(target) == digest([point]):
            return
        policy = policy_of(self.problem.supernet, point.candidate) if point.precision == BY_LAYER else None
        with replacing_folder(target) as part:
            deployed = deploy(
                self.extracted(point.candidate),
                self.problem.deployment(point.precision),
                part,
                self.problem.example,
                policy=policy,
                calibration=self.problem.calibration,
                backend=self._backend(point.precision),
            )
            self.note(part, point, deployed.path, policy)

    def note(self, folder: Path, point: Point, path: Path, policy: Policy | None = None) -> None:
        """Write down beside a point's files how they are loaded."""
        deployment = self.problem.deployment(point.precision)
        lines = deployment_loader(deployment, relative(path, folder), NetworkClass("", False, False), policy)
        size = sum(file.stat().st_size for file in loaded_files(path))
        write_json_atomic(folder / _LOADER, {"lines": lines, "bytes": size, "point": digest([point])})

    def verify(self, point: Point) -> Verified:
        """Score the files of a point on the rows that no search saw, and time them beside the full network's."""
        self.write(point)
        answer = self._fresh(point.name, self.problem.verified, "verified", self.problem.sizes.rounds)
        own, reference = answer["own_ms"], answer["reference_ms"]
        return Verified(
            point.name,
            np.array(answer["classes"]) == self.problem.verified.labels,
            median(a / b for a, b in zip(own, reference, strict=True)),
            self._loader(point.name)["bytes"] / 2**20,
            median(reference),
        )

    def test(self, name: str) -> BoolArray:
        """Which test rows the files of a verified point have right."""
        right: BoolArray = np.array(self._fresh(name, self.problem.test, "test", 0)["classes"]) == (
            self.problem.test.labels
        )
        return right

    def extracted(self, candidate: Candidate) -> Any:
        """The architecture of a candidate; a backend quantizes the same module once for all policies of it."""
        shape = architecture(candidate)
        if self._extracted is None or self._extracted[0] != shape:
            self._extracted = (shape, self.problem.networks.extract(shape))
        return self._extracted[1]

    def _backend(self, precision: Precision) -> Backend:
        if precision not in self._backends:
            self._backends[precision] = self.problem.backend(precision)
        return self._backends[precision]

    def _fresh(self, name: str, rows: Split, rows_name: str, rounds: int) -> dict[str, Any]:
        """What `simq_fresh.py` answers; RuntimeError with its last line where it fails."""
        request = {
            "own": self._part(name),
            "reference": self._part(FP32) if rounds else None,
            "rows": str(self._rows(rows, rows_name)),
            "example": str(self._example()),
            "rounds": rounds,
        }
        done = subprocess.run(
            [sys.executable, "-I", str(_PROGRAM)], input=json.dumps(request) + "\n", capture_output=True, text=True
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise RuntimeError(f"a fresh process could not run {name}: {last}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def _part(self, name: str) -> dict[str, str]:
        return {"folder": str((self.folder / name).resolve()), "lines": self._loader(name)["lines"]}

    def _loader(self, name: str) -> dict[str, Any]:
        kept: dict[str, Any] = json.loads((self.folder / name / _LOADER).read_text(encoding="utf-8"))
        return kept

    def _kept(self, target: Path) -> str | None:
        return str(self._loader(target.name)["point"]) if (target / _LOADER).is_file() else None

    def _rows(self, rows: Split, name: str) -> Path:
        """The inputs of a split in batches, in a file; written once in this process, since rows may be others."""
        if name not in self._arrays:
            arrays: dict[str, Any] = {}
            for number, numbers in enumerate(rows.batches(_BATCH)):
                arrays[f"{number}/rows"] = numbers
                arrays |= {f"{number}/{each}": value.numpy() for each, value in rows.batch(numbers).items()}
            self._arrays[name] = self._saved(name, arrays)
        return self._arrays[name]

    def _example(self) -> Path:
        if "example" not in self._arrays:
            _, named = split(first_row(self.problem.example))
            self._arrays["example"] = self._saved("example", {name: value.numpy() for name, value in named.items()})
        return self._arrays["example"]

    def _saved(self, name: str, arrays: dict[str, Any]) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = (self.folder / f"{name}.npz").resolve()
        np.savez(path, **arrays)
        return path
